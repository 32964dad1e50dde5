"""The stage: it lowers the divergence, leaves other coders alone, and gives the same bytes however often it was stopped."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from bsc.coders.load import load_coder, load_spec
from bsc.errors import UserError
from bsc.evaluation.baseline import baseline
from bsc.evaluation.evaluate import evaluate
from bsc.finetuning.finetune import finetune
from bsc.finetuning.sequences import Sequences
from bsc.io import read_json, read_manifest, read_parquet
from bsc.stages import CoderSpec, EvaluationSpec
from bsc.training.log import COLUMNS
from bsc.training.trainer import Trainer

MakeSpec = Callable[..., CoderSpec]
Save = Callable[[str, CoderSpec], Path]


@pytest.mark.parametrize(
    "changes",
    [
        {"architecture": "skip-transcoder"},
        {"architecture": "sae"},
        {"binariser": "binary-topk", "learning_rate": 1e-1},
    ],
    ids=["skip-transcoder", "sae", "binary-topk"],
)
def test_the_divergence_falls(
    changes: dict[str, Any], make_spec: MakeSpec, save: Save, tiny_model: Path, tiny_tokens: Path, tmp_path: Path
) -> None:
    coder = save("base", make_spec(**changes))
    spec = make_spec({}, **changes, tokens=100 * 64)
    finetune(spec, tiny_model, tiny_tokens, coder, tmp_path / "tuned", digest="abc")
    log = read_parquet(tmp_path / "tuned" / "log.parquet")
    assert [*log.columns] == [*COLUMNS[:-2], "kl", "ce", "ce_increase", *COLUMNS[-2:]]
    assert len(log) == 100
    assert log["kl"].tail(6).mean() < 0.8 * log["kl"].head(6).mean()
    assert log["loss"].equals(log["kl"])
    assert read_manifest(tmp_path / "tuned")["digest"] == "abc"
    assert load_spec(tmp_path / "tuned") == spec
    tuned = load_coder(tmp_path / "tuned")
    if tuned.unit_norm:
        torch.testing.assert_close(tuned.W_dec.norm(dim=1), torch.ones(64))

    asked = EvaluationSpec(hookpoints=["layers.1.mlp"], sequences=24, batch_sequences=8, resamples=100, seed=0, dtype="float32")
    split = tmp_path / "baseline"
    baseline(asked.model_copy(update={"hookpoints": []}), tiny_model, tiny_tokens, split)
    evaluate(asked, tiny_model, tiny_tokens, split, [tmp_path / "tuned"], tmp_path / "evaluation")
    assert read_json(tmp_path / "evaluation" / "metrics.json")


def test_other_coders_stay_as_they_are(
    make_spec: MakeSpec, save: Save, tiny_model: Path, tiny_tokens: Path, tmp_path: Path
) -> None:
    folders = [save(name, make_spec(seed=seed)) for name, seed in (("base", 1), ("below", 2), ("above", 3))]
    before = {path: path.read_bytes() for folder in folders for path in folder.iterdir()}
    others = ["layers.0.mlp", "layers.2.mlp"]
    finetune(make_spec({"others": others}), tiny_model, tiny_tokens, folders[0], tmp_path / "tuned", others=folders[1:])
    finetune(make_spec({}), tiny_model, tiny_tokens, folders[0], tmp_path / "alone")
    assert {path: path.read_bytes() for folder in folders for path in folder.iterdir()} == before
    weights = [(tmp_path / name / "coder.safetensors").read_bytes() for name in ("tuned", "alone")]
    assert weights[0] != weights[1]


RUNS: dict[str, dict[str, Any]] = {
    "sae": {"architecture": "sae"},
    "noisy": {"binariser": "gumbel"},
    "bias": {
        "binariser": "binary-topk",
        "frequency": {"control": "bias", "cap": 0.05, "strength": 0.1, "memory_tokens": 100},
    },
    "penalty": {"frequency": {"control": "penalty", "cap": 0.05, "strength": 0.1, "memory_tokens": 100}},
}


@contextmanager
def the_node_goes_away(after: int) -> Iterator[None]:
    """Training must fail in here, once it has taken so many steps."""
    descend = Trainer.descend

    def fail(trainer: Trainer, *arguments: Any) -> None:
        descend(trainer, *arguments)
        if trainer.step == after:
            raise OSError("the node went away")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Trainer, "descend", fail)
        with pytest.raises(OSError, match="went away"):
            yield


@pytest.mark.parametrize("run", RUNS)
def test_stopped_and_gone_on(
    run: str,
    make_spec: MakeSpec,
    save: Save,
    tiny_model: Path,
    tiny_tokens: Path,
    tmp_path: Path,
) -> None:
    coder, spec = save("base", make_spec(**RUNS[run])), make_spec({}, **RUNS[run])
    finetune(spec, tiny_model, tiny_tokens, coder, tmp_path / "whole")
    for step in (3, 8):
        with the_node_goes_away(step):
            finetune(spec, tiny_model, tiny_tokens, coder, tmp_path / "stopped", checkpoint_seconds=0)
        assert (tmp_path / "stopped" / "checkpoint" / f"step-{step - 1}.json").exists()
    finetune(spec, tiny_model, tiny_tokens, coder, tmp_path / "stopped")
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert (stopped / "coder.safetensors").read_bytes() == (whole / "coder.safetensors").read_bytes()
    logs = [read_parquet(folder / "log.parquet").drop(columns="tokens_per_second") for folder in (stopped, whole)]
    pd.testing.assert_frame_equal(*logs, check_exact=True)
    assert sorted(path.name for path in stopped.iterdir()) == sorted(path.name for path in whole.iterdir())


def test_a_checkpoint_from_another_base_is_not_taken(
    make_spec: MakeSpec,
    save: Save,
    tiny_model: Path,
    tiny_tokens: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spec = make_spec({})
    one, other = save("one", make_spec()), save("other", make_spec(learning_rate=2e-2))
    with the_node_goes_away(4):
        finetune(spec, tiny_model, tiny_tokens, one, tmp_path / "tuned", checkpoint_seconds=0)
    finetune(spec, tiny_model, tiny_tokens, other, tmp_path / "tuned")
    assert "checkpoint ignored" in capsys.readouterr().err


def test_divergence_says_what_to_lower(
    make_spec: MakeSpec, save: Save, tiny_model: Path, tiny_tokens: Path, tmp_path: Path
) -> None:
    spec = make_spec({}, learning_rate=1e30, warmup_steps=0)
    with pytest.raises(UserError, match="diverged at step") as caught:
        finetune(spec, tiny_model, tiny_tokens, save("base", make_spec()), tmp_path / "tuned")
    assert "finetune.learning_rate" in caught.value.fix
    assert not (tmp_path / "tuned" / "coder.safetensors").exists()


def test_faults(make_spec: MakeSpec, save: Save, tiny_model: Path, tiny_tokens: Path, tmp_path: Path) -> None:
    coder = save("base", make_spec())

    def run(spec: CoderSpec, **arguments: Any) -> None:
        finetune(spec, tiny_model, tiny_tokens, coder, tmp_path / "tuned", **arguments)

    with pytest.raises(UserError, match="trained from the start"):
        run(make_spec())
    with pytest.raises(UserError, match="the coder has `seed` 1 and the spec 2"):
        run(make_spec({}, seed=2))
    with pytest.raises(UserError, match="Adam"):
        run(make_spec({}, optimiser="signum"))
    with pytest.raises(UserError, match="0 coders for 1 other hookpoints"):
        run(make_spec({"others": ["layers.0.mlp"]}))
    with pytest.raises(UserError, match="a batch has 32 tokens and the spec says 64"):
        run(make_spec({"batch_sequences": 2}))
    wide = save("wide", make_spec(width=16))
    with pytest.raises(UserError, match="width 16 and the model 32"):
        finetune(make_spec({}, width=16), tiny_model, tiny_tokens, wide, tmp_path / "tuned")
    assert not (tmp_path / "tuned").exists()


def test_every_context_comes_once_an_epoch() -> None:
    contexts = torch.arange(10, dtype=torch.int32)[:, None].expand(10, 4)
    sequences = Sequences(contexts, 4, seed=1, device=torch.device("cpu"))
    stream = torch.cat([sequences.at(step)[:, 0] for step in range(5)])
    assert sorted(stream[:10].tolist()) == sorted(stream[10:].tolist()) == list(range(10))
    assert stream[:10].tolist() != stream[10:].tolist()
    again = Sequences(contexts, 4, seed=1, device=torch.device("cpu")).at(3)[:, 0]
    assert again.tolist() == stream[12:16].tolist()
    other = Sequences(contexts, 4, seed=2, device=torch.device("cpu")).at(0)[:, 0]
    assert other.tolist() != stream[:4].tolist()
