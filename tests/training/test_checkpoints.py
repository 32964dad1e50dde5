from pathlib import Path

import pytest
import torch

from bsc.training.checkpoints import Checkpoints


def state(value: float) -> dict[str, torch.Tensor]:
    return {"coder.W": torch.full((3,), value), "log": torch.zeros(0, 9, dtype=torch.float64)}


def test_the_last_two_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoint", "a")
    assert checkpoints.latest() is None
    for step in (8, 9, 10):
        checkpoints.save(step, state(step))
    names = sorted(path.name for path in checkpoints.folder.iterdir())
    assert names == ["step-10.json", "step-10.safetensors", "step-9.json", "step-9.safetensors"]
    found = checkpoints.latest()
    assert found is not None
    assert found.step == 10
    assert found.tensors["coder.W"].tolist() == [10.0] * 3
    assert found.tensors["log"].shape == (0, 9)
    checkpoints.remove()
    assert not checkpoints.folder.exists()


@pytest.mark.parametrize("file", ["step-2.safetensors", "step-2.json"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "missing", "empty"])
def test_of_a_damaged_one_the_one_before_is_taken(
    file: str, damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoints = Checkpoints(tmp_path, "a")
    checkpoints.save(1, state(1))
    checkpoints.save(2, state(2))
    path = tmp_path / file
    whole = path.read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :]
    damaged = {"cut": whole[:-20], "flipped": flipped, "empty": b""}
    path.unlink() if damage == "missing" else path.write_bytes(damaged[damage])
    found = checkpoints.latest()
    assert found is not None
    assert found.step == 1
    assert found.tensors["coder.W"].tolist() == [1.0] * 3
    silent = (file, damage) == ("step-2.json", "missing")  # tensors alone are what a kill leaves
    assert ("step-2.json: checkpoint ignored" in capsys.readouterr().err) != silent


def test_of_another_run_none_is_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Checkpoints(tmp_path, "a").save(3, state(1))
    other = Checkpoints(tmp_path, "b")
    assert other.latest() is None
    assert "another spec" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_what_a_kill_left_is_swept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, "a")
    checkpoints.save(1, state(1))
    (tmp_path / ".step-2.safetensors.abc.part").write_bytes(b"half")
    (tmp_path / "step-2.safetensors").write_bytes(b"whole, but its JSON never came")
    found = checkpoints.latest()
    assert found is not None
    assert found.step == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-1.json", "step-1.safetensors"]
