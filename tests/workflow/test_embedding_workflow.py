"""Sentence embeddings and hard negatives in the real Snakemake: fetched and made once, and no part of an explanation."""

import json
import sys
from pathlib import Path

import pandas as pd
import pytest
from checkouts import ROOT, Checkout

sys.path.insert(0, str(ROOT / "tests" / "autointerp"))
from tiny_embedder import save_embedder

pytestmark = pytest.mark.slow

SCORES = "results/smoke/autointerp/smollm2-135m-instruct/layers.0.mlp/sae-binary-topk-k16/seed1/trained/scores"
CONFIG = """
autointerp:
  scorers: [detection, embedding]
  embedding: {{ source: "folder:{folder}" }}
  negatives: nearest
"""


def test_scores_by_embeddings_and_another_kind_of_negatives(checkout: Checkout, tmp_path: Path) -> None:
    checkout.edit("config/smoke.yaml", "\nautointerp:\n", CONFIG.format(folder=save_embedder(tmp_path / "embedder")))
    target = f"{SCORES}/manifest.json"
    assert {job.rule for job in checkout.stale(target)} == {"embedder", "embed", "score"}
    checkout.run(target)
    summary = json.loads((checkout.folder / SCORES / "summary.json").read_text())
    assert summary["negatives"] == {"kind": "nearest", "random_windows": 0, "latents_with_random": 0}
    assert set(summary["scorers"]) == {"detection", "embedding"}
    scores = pd.read_parquet(checkout.folder / SCORES / "scores.parquet")
    assert scores.loc[scores["scorer"] == "embedding", "auroc"].between(0, 1).all()
    assert len(scores[scores["scorer"] == "embedding"]) == len(scores[scores["scorer"] == "detection"]) > 0
    assert checkout.stale(target) == []

    checkout.edit("config/smoke.yaml", "negatives: nearest", "negatives: cooccurring")
    assert [job.rule for job in checkout.stale(target)] == ["score"]
    checkout.run(target)
    assert json.loads((checkout.folder / SCORES / "summary.json").read_text())["negatives"]["kind"] == "cooccurring"
