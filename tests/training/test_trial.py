import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from test_resume import at_step

from bsc.activations.store import ActivationStore
from bsc.coders.load import load_coder
from bsc.errors import UserError
from bsc.io import read_json, write_json
from bsc.stages import CoderSpec
from bsc.training.train import train
from bsc.training.trial import held_out_fvu, trial

MakeSpec = Callable[..., CoderSpec]
MakeStore = Callable[..., Path]


@pytest.mark.parametrize("architecture", ["sae", "skip-transcoder"])
def test_a_trial_is_the_held_out_fvu_of_what_training_gives(
    architecture: str, make_spec: MakeSpec, make_store: MakeStore, store_index: Path, tmp_path: Path
) -> None:
    spec, held_out = make_spec(architecture=architecture), make_store(3, 5, seed=40)
    trial(spec, store_index, held_out, tmp_path / "trial", digest="0123")
    found = read_json(tmp_path / "trial" / "trial.json")
    train(spec, store_index, tmp_path / "coder")
    coder, store = load_coder(tmp_path / "coder"), ActivationStore.open(held_out)
    keep = torch.arange(8 * 16) % 16 != 0
    x, y = (torch.cat([getattr(shard, side) for shard in store.shards])[keep].float() for side in (coder.reads, "output"))
    with torch.no_grad():
        error = (coder(x) - y).double().square().sum()
    fvu = error / (y.double() - y.double().mean(0)).square().sum()
    assert (found["digest"], found["learning_rate"]) == ("0123", spec.learning_rate)
    assert found["fvu"] == pytest.approx(fvu.item(), rel=1e-5)
    assert held_out_fvu(coder, store) == found["fvu"]
    assert [path.name for path in (tmp_path / "trial").iterdir()] == ["trial.json"]


def test_a_diverged_trial_is_an_answer(make_spec: MakeSpec, store_index: Path, tmp_path: Path) -> None:
    trial(make_spec(learning_rate=1e30), store_index, store_index, tmp_path)
    assert read_json(tmp_path / "trial.json") == {"digest": None, "learning_rate": 1e30, "fvu": None}
    assert [path.name for path in tmp_path.iterdir()] == ["trial.json"]


def test_an_interrupted_trial_goes_on(make_spec: MakeSpec, store_index: Path, tmp_path: Path) -> None:
    with at_step(7, lambda: os.kill(os.getpid(), signal.SIGTERM)), pytest.raises(SystemExit):
        trial(make_spec(), store_index, store_index, tmp_path / "stopped")
    assert not (tmp_path / "stopped" / "trial.json").exists()
    assert list((tmp_path / "stopped" / "coder" / "checkpoint").iterdir())
    for name in ("stopped", "whole"):
        trial(make_spec(), store_index, store_index, tmp_path / name)
    assert read_json(tmp_path / "stopped" / "trial.json") == read_json(tmp_path / "whole" / "trial.json")


def test_training_takes_the_rate_of_a_choice(make_spec: MakeSpec, store_index: Path, tmp_path: Path) -> None:
    choice = tmp_path / "choice.json"
    write_json(choice, {"learning_rate": 0.004, "at_edge": False, "curve": []})
    train(make_spec(learning_rate=None), store_index, tmp_path / "tuned", choice=choice)
    train(make_spec(learning_rate=0.004), store_index, tmp_path / "told")
    tuned, told = ((tmp_path / name / "coder.safetensors").read_bytes() for name in ("tuned", "told"))
    assert tuned == told
    assert read_json(tmp_path / "tuned" / "config.json")["spec"]["learning_rate"] == 0.004


def test_a_spec_without_a_rate_needs_a_choice(make_spec: MakeSpec, store_index: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no learning rate"):
        train(make_spec(learning_rate=None), store_index, tmp_path)
