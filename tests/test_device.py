"""Which GPU a process takes of several: tested on names, as no test machine has several."""

import subprocess
import sys
from pathlib import Path

from bsc.device import take

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
