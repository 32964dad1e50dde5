"""Language models in the real Snakemake: beside the n-grams, cached, and stale only when an answer would change."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from checkouts import ROOT, Checkout

sys.path.insert(0, str(ROOT / "tests" / "autointerp" / "llm"))
from loopback import Loopback, say, served

pytestmark = pytest.mark.slow

CODER = "smollm2-135m-instruct/layers.0.mlp/sae-binary-topk-k16/seed1/trained"
SCORED = f"results/smoke/autointerp/{CODER}/one/scores/manifest.json"
TARGETS = ["results/smoke/figures/explainers.pdf", SCORED]
CONFIG = """
llms:
  one: {{ model: m, endpoint: "{endpoint}", key: SOME_KEY, concurrency: 4 }}
  other: {{ model: n, endpoint: "{endpoint}", key: SOME_KEY }}

figures: {{ explainer: one }}

autointerp:
  llms: [one]
"""
KEY = "sk-workflow-secret"


def answer(server, body, attempt, handler) -> None:
    said = body["messages"][-1]["content"]
    count = re.search(r"list of (\d+) numbers", said)
    if count is None:
        say(handler, "[EXPLANATION]: words that come late in a line")
    else:
        say(handler, json.dumps([(len(said) >> bit) % 2 for bit in range(int(count[1]))]))


@pytest.fixture
def server() -> Iterator[Loopback]:
    with served(answer) as started:
        yield started


def test_the_dag_runs_and_reruns_what_an_answer_depends_on(
    checkout: Checkout, server: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_KEY", KEY)
    checkout.edit("config/smoke.yaml", "\nautointerp:\n", CONFIG.format(endpoint=server.endpoint))
    stale = {job.rule for job in checkout.stale()}
    assert {"explain_llm", "score_llm", "figure_explainers", "figure_fig2", "figure_fig5"} <= stale
    assert not stale & {"train", "latents", "explain", "score", "evaluate", "activations"}
    checkout.run(*TARGETS)
    results = checkout.folder / "results/smoke"
    summary = json.loads((results / "autointerp" / CODER / "one/scores/summary.json").read_text())
    assert set(summary["replies"]) == {"read", "prompt_tokens", "completion_tokens"}
    assert len(pd.read_csv(results / "figures/explainers.csv")["explainer"].unique()) == 2
    asked = sum(server.asked.values())
    assert set(server.asked.values()) == {1}

    # How a model is reached changes nothing.
    checkout.edit(
        "config/smoke.yaml", "concurrency: 4", "concurrency: 9, timeout: 7, prices: { input: 1, output: 1 }, budget: 9"
    )
    assert checkout.stale(*TARGETS) == []
    # A model that nobody asks changes nothing either.
    checkout.edit("config/smoke.yaml", "model: n", "model: o, temperature: 1")
    assert checkout.stale(*TARGETS) == []
    # What is deleted comes back from the cache.
    for path in (results / "autointerp" / CODER / "one/scores").iterdir():
        path.unlink()
    checkout.run(SCORED)
    assert json.loads((results / "autointerp" / CODER / "one/scores/summary.json").read_text()) == summary
    assert sum(server.asked.values()) == asked
    # A prompt is part of what an answer depends on.
    checkout.edit("bsc/autointerp/prompts/fuzzing.md", "You are given", "You get")
    assert {"explain_llm", "score_llm"} <= {job.rule for job in checkout.stale()}
    checkout.edit("bsc/autointerp/prompts/fuzzing.md", "You get", "You are given")
    checkout.edit("config/smoke.yaml", "model: m,", "model: m, temperature: 0.5,")
    stale = {job.rule for job in checkout.stale()}
    assert {"explain_llm", "score_llm"} <= stale
    assert not stale & {"explain", "score", "latents", "train"}
    for path in checkout.folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            assert KEY.encode() not in Path(path).read_bytes(), path
