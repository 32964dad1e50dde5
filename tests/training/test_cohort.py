"""Coders that are trained together come out as they would alone, and those that are finished are left alone."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bsc.errors import UserError
from bsc.io import read_json, read_parquet
from bsc.stages import CoderSpec, CohortSpec
from bsc.training import loop
from bsc.training.cohort import train_cohort
from bsc.training.train import train
from bsc.training.trainer import Trainer

MakeSpec = Callable[..., CoderSpec]

HOOKPOINT = "layers.0.mlp"

MEMBERS: dict[str, dict[str, Any]] = {
    "sae": {"architecture": "sae"},
    "binary": {"binariser": "binary-topk", "auxk": True, "dead_after_tokens": 200},
    "noisy": {"binariser": "gumbel", "optimiser": "signum", "k": 8},
    "half": {"binariser": "reinmax", "dtype": "bfloat16", "architecture": "transcoder"},
}


def cohort_of(make_spec: MakeSpec, names: list[str], **changes: Any) -> CohortSpec:
    """A cohort of some of MEMBERS; a member's digest says what its spec is."""
    specs = {name: make_spec(**MEMBERS[name] | changes.get(name, {})) for name in names}
    members = [
        {"spec": spec.model_dump(), "hookpoint": HOOKPOINT, "folder": name, "digest": spec.json_text}
        for name, spec in specs.items()
    ]
    return CohortSpec.model_validate({"members": members})


def finish(cohort: CohortSpec, index: Path, coders: Path) -> None:
    """Write each coder, as the jobs after the cohort do."""
    for member in cohort.members:
        train(member.spec, index, coders / member.folder, digest=member.digest)


def assert_as_alone(cohort: CohortSpec, index: Path, coders: Path, alone: Path) -> None:
    for member in cohort.members:
        train(member.spec, index, alone / member.folder)
        made = coders / member.folder
        assert (made / "coder.safetensors").read_bytes() == (alone / member.folder / "coder.safetensors").read_bytes()
        logs = [read_parquet(folder / "log.parquet") for folder in (made, alone / member.folder)]
        pd.testing.assert_frame_equal(*(log.drop(columns="tokens_per_second") for log in logs), check_exact=True)
        assert not (made / "checkpoint").exists()


def steps_taken(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The binariser of each step that is taken from now on."""
    taken: list[str] = []
    advance = Trainer.advance

    def count(trainer: Trainer, *arguments: Any) -> None:
        taken.append(trainer.spec.binariser)
        advance(trainer, *arguments)

    monkeypatch.setattr(Trainer, "advance", count)
    return taken


def test_each_member_is_what_it_is_alone(
    make_spec: MakeSpec, store_index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort = cohort_of(make_spec, list(MEMBERS))
    train_cohort(cohort, [store_index], tmp_path / "together", tmp_path / "cohort.json")
    assert [entry["folder"] for entry in read_json(tmp_path / "cohort.json")] == list(MEMBERS)
    assert not list((tmp_path / "together").rglob("manifest.json")), "coders are written by their own stage"
    taken = steps_taken(monkeypatch)
    finish(cohort, store_index, tmp_path / "together")
    assert taken == []
    assert_as_alone(cohort, store_index, tmp_path / "together", tmp_path / "alone")


def test_batches_are_made_once(make_spec: MakeSpec, store_index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    at = loop.batches_at
    monkeypatch.setattr(loop, "batches_at", lambda batches, step: made.append(step) or at(batches, step))
    train_cohort(cohort_of(make_spec, list(MEMBERS)), [store_index], tmp_path, tmp_path / "cohort.json")
    assert made == [0, *range(20)]


def test_stopped_and_gone_on_together_or_alone(make_spec: MakeSpec, store_index: Path, tmp_path: Path) -> None:
    """The process is lost twice; in between, one member goes on alone, and another joins."""
    cohort = cohort_of(make_spec, ["binary", "noisy"])
    with losing_the_process_at(7), pytest.raises(OSError, match="went away"):
        train_cohort(cohort, [store_index], tmp_path / "coders", tmp_path / "cohort.json", checkpoint_seconds=0)
    with losing_the_process_at(12), pytest.raises(OSError, match="went away"):
        train(cohort.members[0].spec, store_index, tmp_path / "coders" / "binary", checkpoint_seconds=0)
    assert not (tmp_path / "cohort.json").exists()
    larger = cohort_of(make_spec, ["binary", "noisy", "sae"])
    train_cohort(larger, [store_index], tmp_path / "coders", tmp_path / "cohort.json")
    finish(larger, store_index, tmp_path / "coders")
    assert_as_alone(larger, store_index, tmp_path / "coders", tmp_path / "alone")


@contextmanager
def losing_the_process_at(step: int) -> Iterator[None]:
    """Any training fails after step `step` of a coder."""
    advance = Trainer.advance

    def advance_and_fail(trainer: Trainer, *arguments: Any) -> None:
        advance(trainer, *arguments)
        if trainer.step == step:
            raise OSError("the node went away")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "advance", advance_and_fail)
        yield


def test_only_the_missing_and_the_stale_are_trained(
    make_spec: MakeSpec, store_index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = cohort_of(make_spec, ["sae", "binary"])
    train_cohort(first, [store_index], tmp_path / "coders", tmp_path / "cohort.json")
    finish(first, store_index, tmp_path / "coders")
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in (tmp_path / "coders").rglob("*.*")}

    taken = steps_taken(monkeypatch)
    train_cohort(first, [store_index], tmp_path / "coders", tmp_path / "cohort.json")
    assert taken == []
    changed = cohort_of(make_spec, ["sae", "binary", "noisy"], binary={"learning_rate": 2e-2})
    train_cohort(changed, [store_index], tmp_path / "coders", tmp_path / "cohort.json")
    assert sorted(taken) == ["binary-topk"] * 20 + ["gumbel"] * 20
    assert all((path.read_bytes(), path.stat().st_mtime_ns) == was for path, was in before.items())
    for member in changed.members[1:]:
        train(member.spec, store_index, tmp_path / "coders" / member.folder, digest=member.digest)
    assert_as_alone(changed, store_index, tmp_path / "coders", tmp_path / "alone")


@pytest.mark.parametrize("fault", ["damaged", "deleted"])
def test_a_damaged_coder_is_not_finished(
    fault: str, make_spec: MakeSpec, store_index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort = cohort_of(make_spec, ["sae", "binary"])
    train_cohort(cohort, [store_index], tmp_path / "coders", tmp_path / "cohort.json")
    finish(cohort, store_index, tmp_path / "coders")
    weights = tmp_path / "coders" / "sae" / "coder.safetensors"
    weights.unlink() if fault == "deleted" else weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    taken = steps_taken(monkeypatch)
    train_cohort(cohort, [store_index], tmp_path / "coders", tmp_path / "cohort.json")
    assert taken == ["topk"] * 20


def test_one_that_diverges_does_not_stop_the_others(
    make_spec: MakeSpec,
    store_index: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cohort = cohort_of(make_spec, ["sae", "binary", "noisy"], sae={"learning_rate": 1e30, "warmup_steps": 0})
    train_cohort(cohort, [store_index], tmp_path / "coders", tmp_path / "cohort.json")
    assert "diverged at step" in capsys.readouterr().err
    assert (tmp_path / "coders" / "sae" / "diverged.json").exists()
    assert len(read_json(tmp_path / "cohort.json")) == 3, "the others' own jobs need not wait for it"
    sae, *others = cohort.members
    with pytest.raises(UserError, match="diverged at step"):
        train(sae.spec, store_index, tmp_path / "coders" / sae.folder)
    for member in others:
        train(member.spec, store_index, tmp_path / "coders" / member.folder, digest=member.digest)
    taken = steps_taken(monkeypatch)
    mended = cohort_of(make_spec, ["sae", "binary", "noisy"])
    train_cohort(mended, [store_index], tmp_path / "coders", tmp_path / "cohort.json")
    assert taken == ["topk"] * 20
    finish(mended, store_index, tmp_path / "coders")
    assert_as_alone(mended, store_index, tmp_path / "coders", tmp_path / "alone")


def test_coders_that_read_other_batches_are_refused(make_spec: MakeSpec, store_index: Path, tmp_path: Path) -> None:
    cohort = cohort_of(make_spec, ["sae", "binary"], binary={"seed": 2})
    with pytest.raises(UserError, match="differ in `seed`"):
        train_cohort(cohort, [store_index], tmp_path, tmp_path / "cohort.json")


def test_stores_of_other_shards_are_refused(make_spec: MakeSpec, make_store: Callable[..., Path], tmp_path: Path) -> None:
    indices = [make_store(20, 40), make_store(40, 20)]
    facts = read_json(indices[1])
    indices[1].write_text(json.dumps(facts | {"hookpoint": "layers.1.mlp"}))
    cohort = cohort_of(make_spec, ["sae", "binary"])
    cohort.members[1] = cohort.members[1].model_copy(update={"hookpoint": "layers.1.mlp"})
    with pytest.raises(UserError, match="lie in other shards"):
        train_cohort(cohort, indices, tmp_path, tmp_path / "cohort.json")
    with pytest.raises(UserError, match=r"no index is of layers\.1\.mlp"):
        train_cohort(cohort, indices[:1], tmp_path, tmp_path / "cohort.json")
    with pytest.raises(UserError, match=r"are both of layers\.0\.mlp"):
        train_cohort(cohort, [indices[0], indices[0]], tmp_path, tmp_path / "cohort.json")
