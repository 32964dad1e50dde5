"""Finetuned coders in the DAG: planned behind their base, in cohorts too, and stale by themselves."""

from collections.abc import Callable

import pytest
from checkouts import Checkout, Job

pytestmark = pytest.mark.slow

SETTINGS = """
binarisers:
  binary-topk.e2e: {finetune: {tokens: 1024, batch_sequences: 2, warmup_steps: 1}}

coders:"""


def with_finetuning(checkout: Checkout) -> None:
    checkout.edit("config/smoke.yaml", "\ncoders:", SETTINGS)
    checkout.edit("config/smoke.yaml", "[binary-topk]", "[binary-topk, binary-topk.e2e]")


def of(jobs: list[Job], rule: str) -> list[str]:
    return [job.wildcards for job in jobs if job.rule == rule]


@pytest.mark.parametrize("cohort", [False, True])
def test_a_finetuned_coder_is_planned_behind_its_base(cohort: bool, fresh: Callable[[], Checkout]) -> None:
    made = fresh()
    with_finetuning(made)
    if cohort:
        made.edit("config/smoke.yaml", "results: results/smoke", "results: results/smoke\ncohort: 4")
        made.edit("config/smoke.yaml", "shard_tokens: 4096", "shard_tokens: 4096\n  mode: stream")
    jobs = made.stale()
    (tuned,) = of(jobs, "finetune")
    assert "binariser=binary-topk.e2e" in tuned
    assert len(of(jobs, "train")) == 5
    assert not any("e2e" in wildcards for wildcards in of(jobs, "train"))
    for rule in ("evaluate", "latents", "explain", "score"):
        assert any("binary-topk.e2e" in wildcards for wildcards in of(jobs, rule)), rule


def test_finetuning_runs_and_its_settings_rerun_it_alone(checkout: Checkout) -> None:
    with_finetuning(checkout)
    coder = "results/smoke/coders/smollm2-135m-instruct/layers.0.mlp/sae-binary-topk.e2e-k16/seed1"
    added = checkout.stale()
    assert all("e2e" in job.wildcards for job in added if not job.rule.startswith("figure_"))
    checkout.run(f"{coder}/manifest.json")
    assert (checkout.folder / coder / "coder.safetensors").exists()
    checkout.edit("config/smoke.yaml", "warmup_steps: 1}", "warmup_steps: 1, learning_rate: 0.002}")
    jobs = checkout.stale(f"{coder}/manifest.json")
    assert [job.rule for job in jobs] == ["finetune"]
    checkout.edit("config/smoke.yaml", "binarisers:", "binarisers:\n  binary-topk: {learning_rate: 0.03}")
    jobs = checkout.stale(f"{coder}/manifest.json")
    assert sorted(job.rule for job in jobs) == ["finetune", "train"]
