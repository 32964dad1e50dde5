from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from made_up_results import LATENTS, TOKENS, counts_of, figure_spec, grid

from bsc.figures.draw import draw
from bsc.figures.frequencies import edges, power, shade
from bsc.io import write_parquet
from bsc.paths import LATENTS as CACHE

pytestmark = pytest.mark.slow


def test_bins_hold_every_latent_that_fires_and_the_surge_is_counted(written, tmp_path: Path) -> None:
    coders = grid()
    draw(figure_spec("fig16", coders), written(coders), tmp_path / "fig16")
    table = pd.read_csv(tmp_path / "fig16.csv")
    for (binariser, k), rows in table.groupby(["binariser", "k"]):
        counts = [counts_of(coder) for coder in coders if (coder.binariser, coder.k) == (binariser, k)]
        surge = np.mean([(count["rate"] > 0.1).sum() for count in counts])
        dead = np.mean([(count["firings"] == 0).sum() for count in counts])
        assert rows["over_10_percent"].iloc[0] == surge
        assert rows["dead"].iloc[0] == dead
        assert rows["latents"].sum() == pytest.approx(LATENTS - dead)
        assert rows[rows["from"] >= 0.099]["latents"].sum() == pytest.approx(surge)
        share = sum(count["firings"][count["rate"] > 0.1].sum() for count in counts) / sum(c["firings"].sum() for c in counts)
        assert rows["over_10_percent_share"].iloc[0] == pytest.approx(share, rel=1e-7)


def test_a_coder_whose_latents_never_fire_is_drawn(written, tmp_path: Path) -> None:
    coders = grid(binarisers=("gumbel",), ks=(16,))
    results = written(coders)
    silent = pd.DataFrame({"latent": np.arange(LATENTS), "firings": 0, "rate": 0.0})
    write_parquet(results / coders[0].at(CACHE, variant="trained") / "counts.parquet", silent)
    draw(figure_spec("fig16", coders), results, tmp_path / "fig16")
    table = pd.read_csv(tmp_path / "fig16.csv")
    assert (table["latents"] == 0).all()
    assert (table["dead"] == LATENTS).all()


@given(st.integers(2, 10**10))
@example(9_999_999_990)
@settings(deadline=None)
def test_edges_reach_from_below_one_firing_to_one_and_meet_the_surge(tokens: int) -> None:
    bins = edges(tokens)
    assert bins[0] < 1 / tokens * (1 - 1e-11)
    assert bins[-1] == 1
    assert np.isclose(bins, 0.1).sum() == 1 or tokens <= 30
    widths = np.diff(np.log10(bins)) * 6
    assert np.allclose(widths, widths.round())
    assert (widths[bins[:-1] * tokens > 5] < 1.5).all()
    assert (np.diff(np.floor(bins * tokens * (1 + 1e-12))) >= 1).all()  # no bin that a number of firings cannot fall into


def test_a_rate_of_exactly_one_firing_has_a_bin() -> None:
    bins = edges(TOKENS)
    assert bins[0] < 1 / TOKENS < bins[-1]


def test_powers_and_shades() -> None:
    assert [power(value) for value in (1.0, 100.0, 1e3, 1e-6)] == ["1", "100", "10³", "10⁻⁶"]
    counts = pd.DataFrame({"k": [16, 32, 64]})
    assert shade("#0072B2", 64, counts) == "#0072b2"
    assert len({shade("#0072B2", k, counts) for k in (16, 32, 64)}) == 3
