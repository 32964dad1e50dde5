"""The figure of frequency control, and variants in figures."""

from dataclasses import replace

import pandas as pd
import pytest
from made_up_results import STYLE, band, figure_spec, grid, metrics_of

from bsc.figures import style
from bsc.figures.draw import draw
from bsc.figures.registry import compared
from bsc.io import write_json
from bsc.paths import EVALUATION

pytestmark = pytest.mark.slow

NAMES = ("topk", "binary-topk", "binary-topk.held", "binary-topk.free")
PLACES = {"places": {"binary-topk.free": 1, "binary-topk.held": 3}}


def test_one_point_a_setting_at_the_largest_k(written, tmp_path):
    coders = grid(binarisers=NAMES)
    draw(figure_spec("frequency-control", coders, **PLACES), written(coders), tmp_path / "figure")
    table = pd.read_csv(tmp_path / "figure.csv").set_index("binariser")
    assert sorted(table.index) == sorted(NAMES)
    assert (table["k"] == 32).all()
    for name in NAMES:
        seeds = [metrics_of(coder) for coder in coders if coder.binariser == name and coder.k == 32]
        expected = {
            column: sum(metrics[key]["value"] for metrics in seeds) / len(seeds)
            for column, key in (("value", "ce_increase"), ("share", "ultra_high_share"), ("fvu", "fvu"), ("l0", "l0"))
        }
        assert table.loc[name, list(expected)].to_dict() == pytest.approx(expected)
        assert table.loc[name, "low"] < table.loc[name, "value"] < table.loc[name, "high"]
        assert table.loc[name, "share_low"] <= table.loc[name, "share"] <= table.loc[name, "share_high"]


def test_an_architecture_may_be_missing_at_a_hookpoint(written, tmp_path):
    coders = [coder for coder in grid(ks=(16,), seeds=(1,)) if coder.architecture == "skip-transcoder"]
    elsewhere = [replace(coder, architecture="sae", hookpoint="layers.3.mlp") for coder in coders]
    draw(figure_spec("frequency-control", coders + elsewhere), written(coders + elsewhere), tmp_path / "figure")
    assert len(pd.read_csv(tmp_path / "figure.csv")) == len(coders + elsewhere)


def test_a_coder_that_never_fires_is_said_to_be_missing(written, tmp_path, finished):
    coders = grid(ks=(16,), seeds=(1,), binarisers=NAMES)
    results = written(coders)
    draw(figure_spec("frequency-control", coders, **PLACES), results, tmp_path / "all")
    write_json(results / coders[1].at(EVALUATION) / "metrics.json", metrics_of(coders[1]) | {"ultra_high_share": band(None)})
    draw(figure_spec("frequency-control", coders, **PLACES), results, tmp_path / "silent")
    assert ["Not drawn" in note for _, note in finished] == [False, True]
    assert "no share: 1 of 4" in finished[1][1]


@pytest.mark.parametrize("name", ["fig2", "fig7", "fig16", "coders", "table1"])
def test_variants_are_shown_as_coders_of_their_own(name, written, tmp_path):
    coders = grid(ks=(16,), seeds=(1,), binarisers=NAMES)
    spec = figure_spec(name, coders, **PLACES)
    assert list(spec.labels) == ["topk", "binary-topk", "binary-topk.free", "binary-topk.held"]
    draw(spec, written(coders), tmp_path / "figure")
    shown = pd.read_csv(tmp_path / "figure.csv")["binariser"].dropna()
    assert set(shown) == set(NAMES)


def test_variants_have_marks_of_their_own():
    marks = [style.mark(name, {**STYLE, **PLACES}) for name in NAMES]
    assert len({mark.colour for mark in marks}) == len({mark.marker for mark in marks}) == 4
    assert [mark.continuous for mark in marks] == [True, False, False, False]


def test_claims_are_of_what_is_all_binary_or_all_continuous():
    between = grid(ks=(16,), seeds=(1,), binarisers=("topk", "nbit", "hybrid"))
    assert not compared(between)
    both = grid(ks=(16,), seeds=(1,), binarisers=("topk", "binary-topk", "hybrid", "nbit", "binary-topk.held"))
    assert [coder.binariser for coder in compared(both)] == ["topk", "binary-topk", "binary-topk.held"]
