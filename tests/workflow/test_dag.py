"""The DAG: built fast, without torch, refused when the config is at fault."""

import os
import re
import resource
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from checkouts import Checkout

pytestmark = pytest.mark.slow


def processor_seconds(run: Callable[[], None]) -> float:
    """Of the processes that it starts."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_the_papers_grid_is_planned_in_a_few_times_what_snakemake_takes_to_start(fresh: Callable[[], Checkout]) -> None:
    """Nine times, as measured; the ratio depends less than the seconds on the machine and on what else it does."""
    made = fresh()

    def plan() -> None:
        finished = made.snakemake("--dry-run", "--quiet", "rules", config="config/paper.yaml")
        assert finished.returncode == 0, finished.stderr[-4000:]
        assert re.search(r"^train +432$", finished.stdout + finished.stderr, re.MULTILINE)

    def start() -> None:
        assert made.snakemake("--help").returncode == 0

    planning, starting = (min(processor_seconds(run) for _ in range(2)) for run in (plan, start))
    assert planning < 15 * starting


def test_planning_imports_no_torch(fresh: Callable[[], Checkout]) -> None:
    made = fresh()
    (made.folder / "torch.py").write_text("raise ImportError('the DAG must not import torch')")
    assert made.snakemake("--dry-run", "--quiet").returncode == 0


def test_jobs_find_the_python_of_snakemake_without_an_activated_environment(
    fresh: Callable[[], Checkout], monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout = fresh()
    rule = "rule which:\n    output: 'which'\n    shell: 'command -v python > {output}'\n\n\n"
    checkout.edit("Snakefile", "rule all:", f"{rule}rule all:")
    monkeypatch.setenv("PATH", os.defpath)
    checkout.run("which")
    assert Path((checkout.folder / "which").read_text().strip()).parent == Path(sys.executable).parent


@pytest.mark.parametrize(("more", "said"), [([], "limiter: None"), (["--max-jobs-per-timespan", "5/1s"], "limiter: <")])
def test_snakemake_looks_at_the_dag_when_something_has_happened(
    fresh: Callable[[], Checkout], more: list[str], said: str
) -> None:
    """And not once more a second, for ever, for each job that has ended; a limit that is asked for is kept."""
    made = fresh()
    told = "onsuccess:\n    print('limiter:', workflow.scheduler.job_rate_limiter)\n\n\nrule all:"
    made.edit("Snakefile", "rule all:", f"rule none:\n    output: 'none'\n    shell: 'touch {{output}}'\n\n\n{told}")
    finished = made.snakemake("none", *more)
    assert finished.returncode == 0, finished.stderr[-4000:]
    assert said in finished.stdout + finished.stderr


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("batch_tokens: 512", "batch_token: 512", "did you mean `batch_tokens`"),
        ("k: [16]", "k: [577]", "more than the 576 latents"),
        ("layers.1.mlp]", "layers.30.mlp]", "layers 0 to 29"),
        ("train: { tokens: 8192", "train: { tokens: 128", "fewer than one batch"),
        ("  smollm2-135m-instruct:", "  ../smollm2:", "no safe path"),
        ("\ntraining:", "\ncorpus: {}\n\ntraining:", "stands twice"),
    ],
)
def test_faults_stop_snakemake_before_any_job(fresh: Callable[[], Checkout], old: str, new: str, message: str) -> None:
    made = fresh()
    made.edit("config/smoke.yaml", old, new)
    finished = made.snakemake()
    assert finished.returncode != 0
    assert message in finished.stderr
    assert "config/smoke.yaml:" in finished.stderr
    assert not (made.folder / "results").exists()


def test_a_run_that_would_not_fit_is_refused_before_any_job(fresh: Callable[[], Checkout]) -> None:
    made = fresh()
    made.edit("config/smoke.yaml", "results: results/smoke", "results: results/smoke\ndisk_gb: 0.01")
    finished = made.snakemake()
    assert finished.returncode != 0
    assert "disk_gb" in finished.stderr
    assert not (made.folder / "results" / "smoke" / "models").exists()


def test_a_figure_that_has_nothing_to_show_is_refused_before_any_job(fresh: Callable[[], Checkout]) -> None:
    finished = fresh().snakemake("--dry-run", "results/smoke/figures/fig18.pdf")
    assert finished.returncode != 0
    assert "`fig18` has nothing to show: it needs" in finished.stdout + finished.stderr


@pytest.mark.parametrize("where", ["layers.1.mlp/skip-transcoder-topk-k999", "joint/skip-transcoder-topk-k16"])
def test_a_coder_that_is_not_in_the_grid_is_refused_before_any_job(fresh: Callable[[], Checkout], where: str) -> None:
    """A joint one is evaluated, and nothing that can be trained."""
    coder = f"smollm2-135m-instruct/{where}/seed1"
    finished = fresh().snakemake("--dry-run", f"results/smoke/coders/{coder}/coder.safetensors")
    assert finished.returncode != 0
    assert f"`{coder}` is not in the grid of this config" in finished.stdout + finished.stderr


def test_packages_are_checked_before_any_job(fresh: Callable[[], Checkout]) -> None:
    made = fresh()
    made.edit("config/smoke.yaml", "[snakemake, submitit]", "[snakemake, no-such-package]")
    finished = made.snakemake()
    assert finished.returncode != 0
    assert "`no-such-package` is not installed" in finished.stderr
