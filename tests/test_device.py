"""Which GPU a process takes of several (on names, as no test machine has several), and where bfloat16 products are fast."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bsc import device
from bsc.device import has_fast_bfloat16, take

NAMES = ["GPU-a", "GPU-b"]
TAKE = "import sys, pathlib; from bsc.device import take; print(take(sys.argv[2:], pathlib.Path(sys.argv[1])), flush=True)"


def started(folder: Path, then: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", f"{TAKE}; {then}", str(folder), *NAMES], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_each_process_has_one_to_itself_until_it_ends(tmp_path: Path) -> None:
    folder = tmp_path / "gpus"
    with started(folder, "input()") as first, started(folder, "input()") as second, started(folder, "input()") as third:
        others = [process.stdout.readline().strip() for process in (first, second, third)]  # type: ignore[union-attr]
        assert sorted(others) == ["0", "1", "None"]
        holder = (first, second, third)[others.index("1")]
        holder.kill()
        holder.wait()
        assert take(NAMES, folder) == 1
        first.kill()
        second.kill()
        third.kill()


def test_without_a_folder_to_write_nothing_is_taken(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert take(NAMES, tmp_path / "file" / "gpus") is None


@pytest.mark.parametrize(
    ("vendor", "avx512_bf16", "amx", "fast"),
    [
        ("AuthenticAMD", True, False, True),
        ("AuthenticAMD", False, False, False),
        ("GenuineIntel", True, True, True),
        ("GenuineIntel", True, False, False),
        ("GenuineIntel", False, False, False),
    ],
)
def test_bfloat16_is_fast_by_amx_or_by_amds_avx512(
    monkeypatch: pytest.MonkeyPatch, vendor: str, avx512_bf16: bool, amx: bool, fast: bool
) -> None:
    monkeypatch.setattr(device, "_of_processor", {"vendor_id": vendor}.get)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert has_fast_bfloat16(torch.device("cpu")) == fast


def test_a_bfloat16_product_is_faster_where_that_is_said_and_only_there(medians: Callable[..., dict[str, float]]) -> None:
    """A product that takes half of what float32's does on AMD's cores, and twice that where Intel's have no AMX; a fifth of a
    second at most where it is emulated."""
    x, W = torch.randn(128, 576), torch.randn(512, 576)
    x_half, W_half = x.bfloat16(), W.bfloat16()
    taken = medians({"float32": lambda: x @ W.T, "bfloat16": lambda: x_half @ W_half.T}, 9)
    assert (taken["bfloat16"] < taken["float32"]) == has_fast_bfloat16(torch.device("cpu")), taken
