"""Cohorts and streamed activations under the real Snakemake: the same coders, and stale only what is."""

from pathlib import Path

import pytest
from checkouts import Checkout

pytestmark = pytest.mark.slow

KEYS = "\ncohort: 8\n\nactivations:\n  mode: stream\n"


def coders(checkout: Checkout) -> dict[Path, tuple[bytes, int]]:
    """The files of all coders: their bytes and times."""
    folder = checkout.folder / "results/smoke/coders"
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def test_cohorts_that_make_their_activations(tokenised: Checkout) -> None:
    """In two processes, as on two GPUs."""
    made = tokenised
    made.edit("config/smoke.yaml", "\nactivations:\n", f"\ngpus: 2{KEYS}")
    rules = [job.rule for job in made.stale("coders")]
    assert rules.count("cohort") == 2
    assert not any(rule.startswith("activations_") for rule in rules)
    made.run("coders")
    before = coders(made)
    assert len(before) == 5 * 4, "four files each, and no checkpoint is left"
    assert made.stale("coders") == []

    # A new k: the cohort of each hookpoint runs, trains what is missing, and leaves the files that were there alone.
    made.edit("config/smoke.yaml", "k: [16]", "k: [16, 32]")
    jobs = made.stale("coders")
    assert all("k=32" in job.wildcards for job in jobs if job.rule == "train")
    assert [job.rule for job in jobs].count("train") == 4
    assert "2 of 5 coders are to be trained" in made.run("coders")
    after = coders(made)
    assert {path: after[path] for path in before} == before
    assert len(after) == 9 * 4

    # Stored and one by one again: no coder is stale, and one that is trained anew from the store has the same bits.
    made.edit("config/smoke.yaml", f"\ngpus: 2{KEYS}", "\nactivations:\n")
    assert not [job for job in made.stale("coders") if job.rule == "train"]
    lost = next(path for path in after if "gumbel-k16" in str(path) and path.name == "coder.safetensors")
    lost.unlink()
    jobs = made.stale(str(lost.relative_to(made.folder)))
    assert [job.rule for job in jobs].count("train") == 1
    made.run(str(lost.relative_to(made.folder)))
    assert lost.read_bytes() == after[lost][0]


def test_one_binarisers_rate_retrains_that_binariser_only(tokenised: Checkout) -> None:
    """Also of coders at two hookpoints, which one cohort trains."""
    made = tokenised
    made.edit("config/smoke.yaml", "\nactivations:\n", f"\ncohort_of: model{KEYS}")
    assert [job.rule for job in made.stale("coders")].count("cohort") == 1
    made.run("coders")
    before = coders(made)
    made.edit("config/smoke.yaml", "\ncoders:", "\nbinarisers:\n  gumbel: {learning_rate: 0.02}\n\ncoders:")
    made.run("coders")
    after = coders(made)
    changed = {path for path in before if after[path] != before[path]}
    assert changed == {path for path in before if "gumbel" in str(path)}


def test_a_failing_cohort_holds_up_its_own_coders_alone(checkout: Checkout) -> None:
    """And a change of something else is seen in the same run, of coders behind no cohort that runs."""
    made = checkout
    made.edit("config/smoke.yaml", "\nactivations:\n", "\ncohort: 2\n\nactivations:\n")
    made.edit("config/smoke.yaml", "k: [16]", "k: [16, 32]")
    made.edit("config/smoke.yaml", "explanation_windows: 10", "explanation_windows: 20")
    jobs = made.stale()
    explained = [job.wildcards for job in jobs if job.rule == "explain"]
    assert sum("k=16" in wildcards for wildcards in explained) == len(explained) - sum("k=32" in w for w in explained) > 0
    assert all("k=32" in job.wildcards for job in jobs if job.rule in ("train", "evaluate", "latents"))

    before = coders(made)
    folder = made.folder / "results/smoke/coders/smollm2-135m-instruct/layers.0.mlp"
    obstacle = folder / "skip-transcoder-topk-k32/seed1/checkpoint"
    obstacle.parent.mkdir(parents=True)
    obstacle.write_text("no folder")
    failed = made.snakemake("coders", "--keep-going")
    assert failed.returncode != 0
    after = coders(made)
    assert {path: after[path] for path in before} == before
    written = {str(path.parent.relative_to(folder.parent)) for path in after if path.name == "manifest.json"}
    assert {f"layers.{layer}.mlp/skip-transcoder-gumbel-k32/seed1" for layer in (0, 1)} <= written
    assert "layers.0.mlp/skip-transcoder-topk-k32/seed1" not in written

    obstacle.unlink()
    jobs = made.stale("coders")
    assert sorted(job.rule for job in jobs if job.rule != "coders") == ["cohort", "train"]
    assert "k=32" in next(job.wildcards for job in jobs if job.rule == "train")
