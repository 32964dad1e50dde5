"""The time of training steps: what is timed, in turns, and what is written of it."""

from pathlib import Path

import pandas as pd
import pytest
from specs import coder_spec

from bsc.io import read_manifest
from bsc.stages import CoderSpec, RuntimeSpec
from bsc.training import runtime
from bsc.training.runtime import time_steps
from bsc.training.trainer import Trainer


def cases() -> list[dict[str, object]]:
    """Two binarisers of which k and batch are varied; a coder of each is in both lines."""
    return [
        {"varied": varied, "binariser": binariser, "coder": coder_spec(binariser=binariser, **{varied: value})}
        for binariser in ("topk", "binary-groupmax")
        for varied, values in {"k": (4, 8), "batch_tokens": (64, 128)}.items()
        for value in values
    ]


def test_every_case_has_a_row_and_what_they_share_is_timed_once_a_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = RuntimeSpec(cases=cases(), rounds=2, steps=2)
    timed: list[CoderSpec] = []

    def noted(coder: CoderSpec, *rest: object) -> list[float]:
        timed.append(coder)
        return given(coder, *rest)

    given = runtime._timed
    monkeypatch.setattr(runtime, "_timed", noted)
    time_steps(spec, tmp_path)
    assert len(timed) == 2 * 6
    assert timed[:6] == timed[6:], "a round is all of them"
    table = pd.read_parquet(tmp_path / "steps.parquet")
    assert [(row.varied, row.binariser, row.k, row.batch_tokens) for row in table.itertuples()] == [
        (case.varied, case.binariser, case.coder.k, case.coder.batch_tokens) for case in spec.cases
    ]
    assert (table["steps"] == 2 * 2).all()
    assert (table["fastest"] > 0).all()
    assert (table["fastest"] <= table["milliseconds"]).all()
    assert (table["milliseconds"] <= table["slowest"]).all()
    shared = table[(table["k"] == 4) & (table["batch_tokens"] == 128) & (table["binariser"] == "topk")]
    assert shared["varied"].tolist() == ["k", "batch_tokens"]
    assert shared["milliseconds"].nunique() == 1
    facts = read_manifest(tmp_path)
    assert facts["machine"]
    assert facts["threads"] >= 1


def test_a_step_is_one_of_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Timed are whole steps on batches of the case's size; what comes before them is not."""
    advance, sizes, clock = Trainer.advance, [], iter(range(100))
    monkeypatch.setattr(Trainer, "advance", lambda self, batch: sizes.append(batch.x.shape) or advance(self, batch))
    monkeypatch.setattr(runtime.time, "perf_counter", lambda: 3.0 * next(clock))
    time_steps(RuntimeSpec(cases=cases()[2:3], rounds=1, steps=2), tmp_path)
    assert sizes == [(64, 16)] * (1 + 2)
    row = pd.read_parquet(tmp_path / "steps.parquet").iloc[0]
    assert (row["milliseconds"], row["fastest"], row["slowest"]) == (3000, 3000, 3000)
