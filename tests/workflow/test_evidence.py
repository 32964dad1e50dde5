"""Ablation, probing, the findings and the page of figures, by the real Snakemake, on top of a finished smoke DAG."""

import re
import subprocess
import sys
from collections import Counter

import pandas as pd
import pytest
from checkouts import Checkout

pytestmark = pytest.mark.slow

BLOCKS = """
ablation: { bins: 4, sequences: 3 }
probing: { source: documentation, packages: [snakemake, submitit], labels: kind, documents: 48, tokens: 32, resamples: 100 }
runtime: { rounds: 1 }
"""


@pytest.fixture
def asked(checkout: Checkout) -> Checkout:
    """A finished checkout whose config then asks for ablation and probing."""
    path = checkout.folder / "config" / "smoke.yaml"
    path.write_text(path.read_text() + BLOCKS)
    return checkout


def test_asking_for_more_reruns_nothing_and_adds_figures(asked: Checkout) -> None:
    jobs = Counter(job.rule for job in asked.stale())
    drawn = dict.fromkeys(("figure_fig18", "figure_fig21", "figure_runtime", "figure_gallery"), 1)
    assert jobs == {"ablation": 5, "labelled": 1, "probe": 5, "runtime": 1, **drawn}
    asked.run()
    results = asked.folder / "results" / "smoke"
    page = (results / "figures" / "index.html").read_text()
    for link in re.findall(r'(?:href|src)="([^"]+)"', page):
        assert (results / "figures" / link).is_file(), link
    assert {"fig18.csv", "fig21.csv", "runtime.csv", "claims.csv"} <= {
        link.rpartition("/")[2] for link in re.findall(r'href="([^"]+)"', page)
    }
    assert len(pd.read_csv(results / "figures" / "fig18.csv")) >= 5
    assert asked.stale() == []


def test_a_report_has_the_captions(checkout: Checkout) -> None:
    checkout.run("--report", "report.html")
    page = (checkout.folder / "report.html").read_text()
    assert "CE increase by k" in page
    assert "fig1" in page


def test_claims_are_printed_from_what_snakemake_made(checkout: Checkout) -> None:
    command = [sys.executable, "-m", "bsc", "claims", "config/smoke.yaml"]
    said = subprocess.run(command, cwd=checkout.folder, capture_output=True, text=True, env=checkout.environment, check=True)
    assert "1. binary coders reconstruct worse" in said.stdout
    assert said.stdout.count("; difference ") == len(pd.read_csv(checkout.folder / "results/smoke/tables/claims.csv"))


def test_a_figure_that_the_config_has_nothing_for_is_no_part_of_all(checkout: Checkout) -> None:
    results = checkout.folder / "results" / "smoke" / "figures"
    assert not (results / "fig18.pdf").exists()
    assert "fig18" in (results / "index.html").read_text()
    finished = checkout.snakemake("results/smoke/figures/fig18.pdf")
    assert finished.returncode != 0
    assert "needs a coder in the grid, and `ablation` in the config" in finished.stderr + finished.stdout


def test_the_page_follows_a_caption(checkout: Checkout) -> None:
    checkout.edit("workflow/report/fig1.rst", "CE increase by k.", "What a coder costs.")
    assert {job.rule for job in checkout.stale()} == {"figure_gallery"}
    checkout.run()
    assert "What a coder costs." in (checkout.folder / "results/smoke/figures/index.html").read_text()
