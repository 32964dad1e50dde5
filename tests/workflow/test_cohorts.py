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
