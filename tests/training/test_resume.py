"""A run that was stopped, however rudely, and run again gives the same coder bit for bit."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest
from killing import train_and_kill

from bsc.errors import UserError
from bsc.io import read_json, read_parquet, read_tensors
from bsc.stages import CoderSpec
from bsc.training.batches import Batch
from bsc.training.interruption import EXIT_CODE
from bsc.training.train import train
from bsc.training.trainer import Trainer

MakeSpec = Callable[..., CoderSpec]

RARE = {"cap": 0.05, "memory_tokens": 700}
RUNS = {
    "sae topk adam": {"architecture": "sae"},
    "sae topk signum multi-topk": {"architecture": "sae", "optimiser": "signum", "multi_topk": True},
    "binary-topk adam auxk": {"binariser": "binary-topk", "auxk": True, "dead_after_tokens": 200},
    "gumbel signum": {"binariser": "gumbel", "optimiser": "signum"},
    "reinmax adam bf16": {"binariser": "reinmax", "dtype": "bfloat16"},
    "nbit sae": {"binariser": "nbit", "architecture": "sae"},
    "hybrid penalty": {"binariser": "hybrid", "frequency": {"control": "penalty", "strength": 1.0, **RARE}},
    "binary-topk bias": {"binariser": "binary-topk", "frequency": {"control": "bias", "strength": 0.1, **RARE}},
}


@contextmanager
def at_step(step: int, act: Callable[[], None]) -> Iterator[None]:
    """`act` after step `step` of any training."""
    advance = Trainer.advance

    def advance_and_act(trainer: Trainer, batch: Batch) -> None:
        advance(trainer, batch)
        if trainer.step == step:
            act()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "advance", advance_and_act)
        yield


def fail() -> None:
    raise OSError("the node went away")


def stop_at(step: int, spec: CoderSpec, index: Path, output: Path) -> None:
    """Train with a checkpoint a step and lose the process in step `step`."""
    with at_step(step, fail), pytest.raises(OSError, match="went away"):
        train(spec, index, output, checkpoint_seconds=0)


def reproducible(folder: Path) -> pd.DataFrame:
    return read_parquet(folder / "log.parquet").drop(columns="tokens_per_second")


def assert_same(folder: Path, whole: Path) -> None:
    assert (folder / "coder.safetensors").read_bytes() == (whole / "coder.safetensors").read_bytes()
    pd.testing.assert_frame_equal(reproducible(folder), reproducible(whole), check_exact=True)
    files = ["coder.safetensors", "config.json", "log.parquet", "manifest.json"]
    assert sorted(path.name for path in folder.iterdir()) == files


@pytest.mark.parametrize("run", RUNS)
def test_an_error_and_again(run: str, make_spec: MakeSpec, store_index: Path, tmp_path: Path) -> None:
    spec = make_spec(**RUNS[run])
    train(spec, store_index, tmp_path / "whole")
    for step in (6, 13):
        stop_at(step, spec, store_index, tmp_path / "stopped")
        assert (tmp_path / "stopped" / "checkpoint" / f"step-{step - 1}.json").exists()
    train(spec, store_index, tmp_path / "stopped")
    assert_same(tmp_path / "stopped", tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("run", ["gumbel signum", "sae topk adam"])
def test_kill_9_and_again(run: str, make_spec: MakeSpec, store_index: Path, tmp_path: Path) -> None:
    spec = make_spec(**RUNS[run], tokens=500 * 128)
    output = tmp_path / "killed"
    train_and_kill(spec, store_index, output)
    train(spec, store_index, output)
    train(spec, store_index, tmp_path / "whole")
    assert_same(output, tmp_path / "whole")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR2])
def test_a_signal_saves_and_stops(
    number: signal.Signals, make_spec: MakeSpec, store_index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = make_spec(binariser="binary-topk")
    with at_step(7, lambda: os.kill(os.getpid(), number)), pytest.raises(SystemExit) as stopped:
        train(spec, store_index, tmp_path / "stopped")
    assert stopped.value.code == EXIT_CODE
    assert f"stopped by {number.name} after step 7" in capsys.readouterr().err
    assert not (tmp_path / "stopped" / "coder.safetensors").exists()
    train(spec, store_index, tmp_path / "stopped")
    assert "going on from the checkpoint after step 7" in capsys.readouterr().err
    train(spec, store_index, tmp_path / "whole")
    assert_same(tmp_path / "stopped", tmp_path / "whole")


def test_a_signal_in_the_last_step_stops_nothing(make_spec: MakeSpec, store_index: Path, tmp_path: Path) -> None:
    with at_step(20, lambda: os.kill(os.getpid(), signal.SIGTERM)):
        train(make_spec(), store_index, tmp_path)
    assert (tmp_path / "manifest.json").exists()


def test_a_damaged_checkpoint_and_again(
    make_spec: MakeSpec, store_index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = make_spec()
    stop_at(9, spec, store_index, tmp_path / "stopped")
    weights = tmp_path / "stopped" / "checkpoint" / "step-8.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    train(spec, store_index, tmp_path / "stopped")
    said = capsys.readouterr().err
    assert "step-8.json: checkpoint ignored" in said
    assert "going on from the checkpoint after step 7" in said
    train(spec, store_index, tmp_path / "whole")
    assert_same(tmp_path / "stopped", tmp_path / "whole")


@pytest.mark.parametrize("other", [{"learning_rate": 2e-3}, {"seed": 2}, {"binariser": "groupmax"}])
def test_a_checkpoint_of_another_spec_is_not_taken(
    other: dict[str, object], make_spec: MakeSpec, store_index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stop_at(9, make_spec(**other), store_index, tmp_path / "stopped")
    train(make_spec(), store_index, tmp_path / "stopped")
    said = capsys.readouterr().err
    assert "checkpoint ignored" in said
    assert "going on" not in said
    train(make_spec(), store_index, tmp_path / "whole")
    assert_same(tmp_path / "stopped", tmp_path / "whole")


def test_a_checkpoint_of_other_activations_is_not_taken(
    make_store: Callable[..., Path], make_spec: MakeSpec, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stop_at(9, make_spec(), make_store(40, seed=1), tmp_path)
    train(make_spec(), make_store(40, seed=2), tmp_path)
    assert "checkpoint ignored" in capsys.readouterr().err


@pytest.mark.parametrize(("optimiser", "rate"), [("adam", 1e30), ("adam", 1e2), ("signum", 1e3)])
def test_divergence(optimiser: str, rate: float, make_spec: MakeSpec, store_index: Path, tmp_path: Path) -> None:
    spec = make_spec(learning_rate=rate, optimiser=optimiser, warmup_steps=0)
    stopped_at = []
    for _ in range(2):
        with pytest.raises(UserError, match=r"diverged at step \d+") as error:
            train(spec, store_index, tmp_path, checkpoint_seconds=0)
        assert "binarisers.topk.learning_rate" in error.value.fix
        facts = read_json(tmp_path / "diverged.json")
        stopped_at.append(facts["step"])
        assert facts["last"][-1]["step"] == facts["step"]
        assert "coder.W_enc" in read_tensors(tmp_path / "diverged.safetensors")
        assert not (tmp_path / "coder.safetensors").exists()
    assert stopped_at[0] == stopped_at[1]
    train(make_spec(), store_index, tmp_path)
    train(make_spec(), store_index, tmp_path / "whole")
    assert (tmp_path / "coder.safetensors").read_bytes() == (tmp_path / "whole" / "coder.safetensors").read_bytes()
    assert not list(tmp_path.glob("diverged*"))


def test_wrong_width(make_spec: MakeSpec, store_index: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="width 16 and the coder 8"):
        train(make_spec(width=8), store_index, tmp_path)


def test_fewer_tokens_than_a_batch(make_spec: MakeSpec, store_index: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="fewer than one batch"):
        train(make_spec(tokens=100), store_index, tmp_path)
