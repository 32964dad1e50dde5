"""Stale, and only stale: the real Snakemake on the finished smoke DAG, after one change."""

from collections import Counter
from pathlib import Path

import pytest
from checkouts import Checkout, Job

from bsc.io import read_json

pytestmark = pytest.mark.slow

MODEL = "smollm2-135m-instruct"


def rules(jobs: list[Job]) -> set[str]:
    return {job.rule for job in jobs}


def trained(jobs: list[Job]) -> list[str]:
    return [job.wildcards for job in jobs if job.rule == "train"]


def test_a_second_run_does_nothing(checkout: Checkout) -> None:
    assert "Nothing to be done" in checkout.run()
    assert "Nothing to be done" in checkout.run("--config", "checkpoint_minutes=1")


def test_a_new_k_trains_only_that_k(checkout: Checkout) -> None:
    checkout.edit("config/smoke.yaml", "k: [16]", "k: [16, 32]")
    jobs = checkout.stale()
    assert trained(jobs)
    assert all("k=32" in wildcards for wildcards in trained(jobs))
    assert {job.rule for job in jobs if "k=32" not in job.wildcards and not job.rule.startswith("figure_")} == set()


def test_a_new_seed_leaves_the_old_ones(checkout: Checkout) -> None:
    checkout.edit("config/smoke.yaml", "k: [16]", "k: [16]\n    seeds: [1, 2]")
    assert all("seed=2" in wildcards for wildcards in trained(checkout.stale()))


def test_a_learning_rate_retrains_its_binariser_and_what_depends_on_it(checkout: Checkout) -> None:
    checkout.edit("config/smoke.yaml", "\ncoders:", "\nbinarisers:\n  gumbel: {learning_rate: 0.02}\n\ncoders:")
    jobs = checkout.stale()
    assert len(trained(jobs)) == 2
    assert all("gumbel" in job.wildcards for job in jobs if not job.rule.startswith("figure_"))
    assert {"train", "evaluate", "latents", "explain", "score", "figure_fig1", "figure_coders"} <= rules(jobs)


def test_other_text_retrains_every_coder(checkout: Checkout) -> None:
    """Also behind the index, whose remaking alone retrains nothing."""
    checkout.edit("config/smoke.yaml", "  separator: <|endoftext|>", "  separator: <|endoftext|>\n  bos: true")
    jobs = checkout.stale()
    assert len(trained(jobs)) == 5
    assert {"tokens", "index", "evaluate", "latents", "score"} <= rules(jobs)


def test_a_style_redraws_figures_only(checkout: Checkout) -> None:
    checkout.edit("config/smoke.yaml", "\nautointerp:", "\nfigures:\n  font_size: 9\n\nautointerp:")
    stale = rules(checkout.stale())
    assert "figure_fig1" in stale
    assert all(rule.startswith("figure_") for rule in stale)


def test_another_scorer_rescores_only(checkout: Checkout) -> None:
    checkout.edit("config/smoke.yaml", "  latents: 10", "  latents: 10\n  marks: paper")
    kinds = {rule for rule in rules(checkout.stale()) if not rule.startswith("figure_")}
    assert kinds == {"score"}


def test_a_docstring_and_a_comment_rerun_nothing(checkout: Checkout) -> None:
    for path in sorted((checkout.folder / "bsc").rglob("*.py")):
        text = path.read_text()
        assert text.startswith('"""'), path
        path.write_text("# A comment.\n" + text.replace('"""', '"""Reworded. ', 1))
    assert checkout.stale() == []


def test_a_binarisers_code_retrains_that_binariser_only(checkout: Checkout) -> None:
    path = checkout.folder / "bsc" / "coders" / "binarisers" / "gumbel.py"
    path.write_text(path.read_text() + "\n_CHANGED = True\n")
    jobs = checkout.stale()
    assert len(trained(jobs)) == 2
    assert all("gumbel" in wildcards for wildcards in trained(jobs))
    assert not rules(jobs) & {"model", "tokens", "index", f"activations_{MODEL}"}


def test_a_deleted_shard_is_rebuilt_and_nothing_is_retrained(checkout: Checkout) -> None:
    shard = checkout.folder / f"results/smoke/activations/{MODEL}/train/shard1/layers.0.mlp.safetensors"
    before = shard.read_bytes()
    shard.unlink()
    counts = Counter(job.rule for job in checkout.stale())
    assert counts == {f"activations_{MODEL}": 1, "index": 2}
    checkout.run()
    assert shard.read_bytes() == before
    assert "Nothing to be done" in checkout.run()
    assert "Nothing to be done" in checkout.run("--config", "checkpoint_minutes=1")


def test_one_figure_builds_what_it_needs_and_no_more(checkout: Checkout) -> None:
    for part in ("evaluation", "coders", "autointerp", "figures"):
        for path in sorted((checkout.folder / "results" / "smoke" / part).rglob("*")):
            if path.is_file():
                path.unlink()
    jobs = checkout.stale("results/smoke/figures/fig3.pdf")
    assert rules(jobs) == {"train", "latents", "explain", "score", "figure_fig3"}
    assert all("skip-transcoder" in wildcards for wildcards in trained(jobs))


def test_an_added_binariser_is_one_file_and_one_line(checkout: Checkout) -> None:
    folder = checkout.folder / "bsc" / "coders" / "binarisers"
    (folder / "mine.py").write_text((folder / "topk.py").read_text().replace("class TopK", "class Mine"))
    registry, line = "bsc/coders/binarisers/registry.py", '        "mine": Entry("mine:Mine", "Mine", continuous=True),\n'
    first, end = '        "topk": Entry', "    }\n)\n\n\ndef kind_of"
    checkout.edit(registry, first, line + first)
    jobs = checkout.stale()
    assert jobs
    assert all(job.rule.startswith("figure_") for job in jobs)  # each binariser has the colour of the one before it
    checkout.edit(registry, line, "")
    checkout.edit(registry, end, line + end)
    assert checkout.stale() == []
    checkout.edit("config/smoke.yaml", "binarisers: [topk, gumbel]", "binarisers: [topk, gumbel, mine]")
    assert all("binariser=mine" in wildcards for wildcards in trained(checkout.stale()))
    checkout.run("results/smoke/figures/fig1.pdf")
    assert ",mine," in (checkout.folder / "results/smoke/figures/fig1.csv").read_text()


def test_every_output_is_there_and_no_temporary_file_is_left(finished: Checkout) -> None:
    results = finished.folder / "results" / "smoke"
    figures = {path.name for path in (results / "figures").iterdir()}
    assert {f"fig{n}.{ending}" for n in (1, 2, 3, 4, 5, 7, 16) for ending in ("pdf", "png")} <= figures
    assert {"table1.csv", "table1.tex", "coders.csv"} <= {path.name for path in (results / "tables").iterdir()}
    left = [path for path in results.rglob("*") if ".part" in path.name or "checkpoint" in path.parts]
    assert left == []


def test_each_rule_has_its_log_and_benchmark(finished: Checkout) -> None:
    results = finished.folder / "results" / "smoke"
    coders = [path.parent for path in Path(results / "coders").rglob("manifest.json")]
    assert len(coders) == 5
    for coder in coders:
        at = coder.relative_to(results)
        assert (results / "logs" / f"{at}.log").stat().st_size > 0
        assert (results / "benchmarks" / f"{at}.tsv").stat().st_size > 0


TUNED = "\ntune: {rates: [0.001, 0.01], tokens: 5120}\nbinarisers: {gumbel: {learning_rate: 0.02}}\n\ncoders:"


def test_a_sweep_is_made_before_the_coders_that_it_chooses_for(checkout: Checkout) -> None:
    checkout.edit("config/smoke.yaml", "\ncoders:", TUNED)
    jobs = Counter(job.rule for job in checkout.stale("coders"))
    assert jobs == {"trial": 4, "choose": 2, "train": 5, "coders": 1}
    target = f"results/smoke/coders/{MODEL}/layers.0.mlp/sae-binary-topk-k16/seed1/manifest.json"
    checkout.run(target, "results/smoke/figures/learning-rates.pdf")
    folder = checkout.folder / "results" / "smoke"
    choice = read_json(folder / f"tuning/{MODEL}/layers.0.mlp/sae-binary-topk-k16/seed1/choice.json")
    assert choice["learning_rate"] == min(choice["curve"], key=lambda row: row["fvu"])["learning_rate"]
    assert read_json((checkout.folder / target).parent / "config.json")["spec"]["learning_rate"] == choice["learning_rate"]
    assert (folder / "figures" / "learning-rates.png").exists()
    assert "Nothing to be done" in checkout.run(target, "results/smoke/figures/learning-rates.pdf")

    checkout.edit("config/smoke.yaml", "[0.001, 0.01]", "[0.001, 0.01, 0.1]")
    jobs = checkout.stale(target)
    assert [job.rule for job in jobs] == ["trial", "choose", "train"]
    assert "rate=0.1" in jobs[0].wildcards


def test_other_text_is_swept_again(checkout: Checkout) -> None:
    """Also behind indices, whose remaking alone sweeps nothing."""
    checkout.edit("config/smoke.yaml", "\ncoders:", TUNED)
    target = f"results/smoke/coders/{MODEL}/layers.0.mlp/sae-binary-topk-k16/seed1/manifest.json"
    checkout.run(target)
    for index in (checkout.folder / "results" / "smoke" / "activations").rglob("layers.*.mlp.json"):
        index.touch()
    assert checkout.stale(target) == []
    checkout.edit("config/smoke.yaml", "  separator: <|endoftext|>", "  separator: <|endoftext|>\n  bos: true")
    counts = Counter(job.rule for job in checkout.stale(target))
    assert (counts["trial"], counts["choose"], counts["train"]) == (2, 1, 1)


def test_a_variant_is_trained_beside_its_binariser(checkout: Checkout) -> None:
    held = "\nbinarisers: {binary-topk.held: {frequency: {control: bias, strength: 0.1}}}\n\ncoders:"
    checkout.edit("config/smoke.yaml", "\ncoders:", held)
    checkout.edit("config/smoke.yaml", "binarisers: [binary-topk]", "binarisers: [binary-topk, binary-topk.held]")
    assert all("binariser=binary-topk.held" in wildcards for wildcards in trained(checkout.stale()))
    checkout.run("results/smoke/figures/frequency-control.pdf")
    table = (checkout.folder / "results/smoke/figures/frequency-control.csv").read_text()
    assert "sae,binary-topk.held,16" in table
