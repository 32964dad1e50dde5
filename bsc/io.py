"""Files that appear whole or not at all, and are checked before they are believed.

Every output is written beside its final name, flushed to disk and renamed, so a killed job leaves nothing under a final
name. A folder of outputs has a manifest, written last, with the size and SHA-256 of each file. Nothing here pickles.
"""

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bsc.errors import CorruptFile, UserError

if TYPE_CHECKING:
    import pandas as pd

MANIFEST = "manifest.json"
_CHUNK = 1 << 22


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success flush it and rename it to `path`, else remove it.

    Raises UserError when the disk is full; any other error passes through. Either way nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        _flush(temporary)
        temporary.replace(path)
        _flush(path.parent)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if is_disk_full(error):
            raise disk_full(path) from error
        raise


def is_disk_full(error: BaseException) -> bool:
    """Whether an error means that no space (or no quota) is left; safetensors reports it only in its message."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return "No space left on device" in str(error) or "os error 28" in str(error)


def disk_full(path: Path) -> UserError:
    """The error to raise when writing `path` found the disk full."""
    free = shutil.disk_usage(path.parent).free
    return UserError(
        f"the disk is full ({free / 1e6:.0f} MB left); nothing was written under this name",
        where=str(path),
        fix="free some space, or point `results` at another disk, and run the same command again",
    )


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, keys in the order given, so that equal values give equal bytes."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON. Raises CorruptFile when it is no JSON, UserError when it is not there."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError("no such file", where=str(path), fix="run the stage that makes it first") from error
    except ValueError as error:
        raise CorruptFile(f"not valid JSON ({error})", where=str(path), fix="delete it and run again") from error


def write_parquet(path: Path, frame: "pd.DataFrame") -> None:
    """Write a table atomically, without its index."""
    with atomic(path) as temporary:
        frame.to_parquet(temporary, index=False)


def read_parquet(path: Path) -> "pd.DataFrame":
    """Read a table. Raises CorruptFile when it is no parquet, UserError when it is not there."""
    import pandas as pd

    try:
        return pd.read_parquet(path)
    except FileNotFoundError as error:
        raise UserError("no such file", where=str(path), fix="run the stage that makes it first") from error
    except (OSError, ValueError) as error:
        raise CorruptFile(f"not a readable table ({error})", where=str(path), fix="delete it and run again") from error


def write_tensors(path: Path, tensors: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> None:
    """Write torch tensors (or numpy arrays) as safetensors, atomically."""
    import numpy as np

    with atomic(path) as temporary:
        if all(isinstance(tensor, np.ndarray) for tensor in tensors.values()):
            from safetensors.numpy import save_file

            save_file(
                {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()},
                temporary,
                dict(metadata or {}),
            )
        else:
            from safetensors.torch import save_file as save_torch

            save_torch({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary, dict(metadata or {}))


def read_tensors(path: Path, *, device: str = "cpu") -> dict[str, Any]:
    """The torch tensors of a safetensors file, memory-mapped on the CPU.

    Raises CorruptFile when it is truncated or no safetensors, UserError when it is not there.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path, device=device)
    except FileNotFoundError as error:
        raise UserError("no such file", where=str(path), fix="run the stage that makes it first") from error
    except SafetensorError as error:
        raise CorruptFile(
            f"not a readable safetensors file ({error})", where=str(path), fix="delete it and run again"
        ) from error


def matching(pattern: str, root: Path) -> list[Path]:
    """The files that a pattern matches, which is absolute or relative to `root`."""
    base = Path(Path(pattern).anchor or root)
    return [path for path in base.glob(str(Path(pattern).relative_to(Path(pattern).anchor))) if path.is_file()]


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def describe(path: Path) -> dict[str, Any]:
    """What a manifest records of a file: its size in bytes and its SHA-256."""
    return {"bytes": path.stat().st_size, "sha256": sha256(path)}


def check(path: Path, recorded: Mapping[str, Any]) -> None:
    """Raise CorruptFile unless the file has the size and the SHA-256 that `recorded` says."""
    check_size(path, recorded)
    check_contents(path, recorded)


def check_size(path: Path, recorded: Mapping[str, Any]) -> None:
    """Raise CorruptFile unless the file is there and has the size that `recorded` says."""
    if not path.exists():
        raise CorruptFile("the file is missing", where=str(path), fix="run again: it is made anew")
    if path.stat().st_size != recorded["bytes"]:
        what = f"{path.stat().st_size} bytes where {recorded['bytes']} were written"
        raise CorruptFile(what, where=str(path), fix=f"delete {path} and run again: it is made anew")


def check_contents(path: Path, recorded: Mapping[str, Any]) -> None:
    """Raise CorruptFile unless the file has the SHA-256 that `recorded` says."""
    if sha256(path) != recorded["sha256"]:
        what = "its bytes are not those that were written (SHA-256 differs)"
        raise CorruptFile(what, where=str(path), fix=f"delete {path} and run again: it is made anew")


def write_manifest(folder: Path, files: list[str], facts: Mapping[str, Any]) -> None:
    """Write `manifest.json` of a folder: `facts`, and the size and SHA-256 of each of `files`. To be called last."""
    write_json(folder / MANIFEST, {**facts, "files": {name: describe(folder / name) for name in files}})


def read_manifest(folder: Path, *, verify: bool = True) -> dict[str, Any]:
    """The manifest of a folder; with `verify`, every file in it is checked first (CorruptFile names the bad one)."""
    manifest: dict[str, Any] = read_json(folder / MANIFEST)
    if verify:
        for name, recorded in manifest["files"].items():
            check(folder / name, recorded)
    return manifest
