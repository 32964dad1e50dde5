"""Outputs appear whole or not at all, and are checked before they are believed."""

import errno
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from bsc import io
from bsc.errors import CorruptFile, UserError


def test_a_failed_write_leaves_nothing_and_keeps_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    io.write_text(path, "before")

    def write_half() -> None:
        with io.atomic(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_a_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    with pytest.raises(UserError, match="the disk is full"), io.atomic(path):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert list(tmp_path.iterdir()) == []


FILL = """
import sys
from pathlib import Path
import numpy as np, pandas as pd
from bsc import io
from bsc.errors import UserError

folder = Path(sys.argv[1])
big = np.random.default_rng(0).random(100_000)
writers = {
    "json": lambda path: io.write_json(path, big.tolist()),
    "parquet": lambda path: io.write_parquet(path, pd.DataFrame({"a": big})),
    "tensors": lambda path: io.write_tensors(path, {"a": big}),
}
for name, write in writers.items():
    try:
        write(folder / name)
    except UserError as error:
        print(name, error, [path.name for path in folder.iterdir()])
"""


def test_every_writer_reports_a_really_full_disk(tmp_path: Path) -> None:
    """On a disk of 64 kB (a tmpfs in a mount namespace of its own)."""
    mount = 'mount -t tmpfs -o size=64k tmpfs "$1" && exec "$2" -c "$3" "$1"'
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, "sh", str(tmp_path), sys.executable, FILL]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    reports = [line for line in lines if "the disk is full" in line]
    assert [line.split()[0] for line in reports] == ["json", "parquet", "tensors"]
    assert sum(line.endswith("[]") for line in lines) == 3


def test_tensors_round_trip_for_torch_and_numpy(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    io.write_tensors(path, {"a": torch.arange(3.0).bfloat16()})
    assert io.read_tensors(path)["a"].dtype == torch.bfloat16
    io.write_tensors(path, {"a": np.arange(3)})
    assert io.read_tensors(path)["a"].tolist() == [0, 1, 2]


def make_folder(folder: Path) -> None:
    io.write_text(folder / "a.bin", "some bytes")
    io.write_manifest(folder, ["a.bin"], {"kind": "test"})


def test_a_manifest_is_read_when_its_files_are_whole(tmp_path: Path) -> None:
    make_folder(tmp_path)
    assert io.read_manifest(tmp_path)["kind"] == "test"


@pytest.mark.parametrize(("content", "message"), [("some bytez", "SHA-256"), ("some", "4 bytes where 10")])
def test_flipped_and_truncated_files_are_refused_by_name(tmp_path: Path, content: str, message: str) -> None:
    make_folder(tmp_path)
    (tmp_path / "a.bin").write_text(content)
    with pytest.raises(CorruptFile, match=message) as caught:
        io.read_manifest(tmp_path)
    assert str(tmp_path / "a.bin") in str(caught.value)


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    make_folder(tmp_path)
    (tmp_path / "a.bin").unlink()
    with pytest.raises(CorruptFile, match="missing"):
        io.read_manifest(tmp_path)


@pytest.mark.parametrize("reader", [io.read_json, io.read_parquet, io.read_tensors])
def test_readers_name_files_that_are_absent_or_rubbish(tmp_path: Path, reader: object) -> None:
    path = tmp_path / "x"
    with pytest.raises(UserError, match="no such file"):
        reader(path)  # type: ignore[operator]
    path.write_bytes(b"\x00rubbish")
    with pytest.raises(CorruptFile) as caught:
        reader(path)  # type: ignore[operator]
    assert str(path) in str(caught.value)
