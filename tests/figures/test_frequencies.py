from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_results import LATENTS, TOKENS, counts_of, figure_spec, grid

from bsc.figures.draw import draw
from bsc.figures.frequencies import edges, power, shade
from bsc.io import write_parquet
from bsc.paths import LATENTS as CACHE

pytestmark = pytest.mark.slow


def test_latents_are_in_bins_or_counted_as_rare_or_dead_and_so_is_the_surge(written, tmp_path: Path) -> None:
    coders = grid()
    draw(figure_spec("fig16", coders), written(coders), tmp_path / "fig16")
    table = pd.read_csv(tmp_path / "fig16.csv")
    for (binariser, k), rows in table.groupby(["binariser", "k"]):
        counts = [counts_of(coder) for coder in coders if (coder.binariser, coder.k) == (binariser, k)]
        surge = np.mean([(count["rate"] > 0.1).sum() for count in counts])
        dead = np.mean([(count["firings"] == 0).sum() for count in counts])
        assert rows["over_10_percent"].iloc[0] == surge
        assert rows["dead"].iloc[0] == dead
        rare = np.mean([count["firings"].between(1, rows["from"].min() * TOKENS).sum() for count in counts])
        assert rows["rare"].iloc[0] == pytest.approx(rare)
        assert rows["latents"].sum() == pytest.approx(LATENTS - dead - rare)
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
@settings(deadline=None)
def test_edges_reach_from_ten_firings_to_one_and_meet_the_surge(tokens: int) -> None:
    bins = edges(tokens)
    assert 8 < bins[0] * tokens < 12.2 or bins[0] == pytest.approx(0.1)
    assert bins[-1] == 1
    assert np.isclose(bins, 0.1).sum() == 1
    assert np.allclose(np.diff(np.log10(bins)), 1 / 6)


@given(st.integers(10_000, 10**8))
@settings(deadline=None)
def test_bins_hold_numbers_of_firings_by_their_width(tokens: int) -> None:
    bins = edges(tokens)[:8] * tokens
    held = np.diff(np.floor(bins))
    assert (abs(held / np.diff(bins) - 1) < 0.3).all()


def test_powers_and_shades() -> None:
    assert [power(value) for value in (1.0, 100.0, 1e3, 1e-6)] == ["1", "100", "10³", "10⁻⁶"]
    counts = pd.DataFrame({"k": [16, 32, 64]})
    assert shade("#0072B2", 64, counts) == "#0072b2"
    assert len({shade("#0072B2", k, counts) for k in (16, 32, 64)}) == 3
