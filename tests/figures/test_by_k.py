import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_up_results import figure_spec, grid, metrics_of, summary_of
from PIL import Image

from bsc.figures.draw import draw
from bsc.io import read_json, write_json
from bsc.paths import EVALUATION, REFERENCES, SCORES

pytestmark = pytest.mark.slow

VARIANTS = ("trained", "random", "binarised")


def drawn(name, coders, results, tmp_path, variants=("trained",), **style):
    draw(figure_spec(name, coders, variants, **style), results, tmp_path / name)
    for ending in ("pdf", "png"):
        assert (tmp_path / f"{name}.{ending}").stat().st_size > 1_000
    return pd.read_csv(tmp_path / f"{name}.csv", keep_default_na=False, na_values=[""])


def row(table, **keys):
    found = table
    for name, value in keys.items():
        found = found[found[name] == value]
    assert len(found) == 1
    return found.iloc[0]


def test_two_seeds_give_their_mean_and_standard_error(written, tmp_path: Path) -> None:
    coders = grid()
    table = drawn("fig1", coders, written(coders), tmp_path)
    shown = row(table, binariser="binary-topk", k=16)
    first, second = (metrics_of(c)["ce_increase"]["value"] for c in coders if c.binariser == "binary-topk" and c.k == 16)
    mean = (first + second) / 2
    error = math.sqrt(((first - mean) ** 2 + (second - mean) ** 2) / 1) / math.sqrt(2)
    assert shown["seeds"] == 2
    assert shown["interval"] == "s.e.m. over seeds"
    assert shown[["value", "low", "high"]].tolist() == pytest.approx([mean, mean - error, mean + error], rel=1e-7)
    ends = [
        np.mean([metrics_of(c)["ce_increase"][end] for c in coders if c.binariser == "binary-topk" and c.k == 16])
        for end in ("low", "high")
    ]
    assert shown[["own_low", "own_high"]].tolist() == pytest.approx(ends, rel=1e-7), "what two seeds on one text do not show"


def test_one_seed_gives_its_own_bootstrap_interval(written, tmp_path: Path) -> None:
    coders = grid()
    table = drawn("fig7", coders, written(coders), tmp_path)
    shown = row(table, binariser="gumbel", k=32)
    (coder,) = (coder for coder in coders if coder.binariser == "gumbel" and coder.k == 32)
    fvu = metrics_of(coder)["fvu"]
    assert (shown["seeds"], shown["interval"]) == (1, "bootstrap 95%")
    assert shown[["value", "low", "high"]].tolist() == pytest.approx([fvu["value"], fvu["low"], fvu["high"]], rel=1e-7)


def test_the_note_says_which_binarisers_have_one_seed(written, tmp_path: Path, finished) -> None:
    coders = grid()
    drawn("fig8", coders, written(coders), tmp_path)
    named = figure_spec("fig8", coders).labels
    several, single = (
        f"{named[one]}, {named[other]}" for one, other in (("topk", "binary-topk"), ("binary-groupmax", "gumbel"))
    )
    said = f"Mean ± s.e.m. over 2 seeds ({several}), or one seed with its Wilson 95% interval over latents ({single}). Thin: "
    assert finished[0][1].startswith(said)


@pytest.mark.parametrize(("name", "column"), [("fig1", "ce_increase"), ("fig6", "accuracy_decrease"), ("fig7", "fvu")])
def test_a_linear_map_is_drawn_where_coders_read_the_input(name: str, column: str, written, tmp_path: Path, finished) -> None:
    coders = grid(architectures=("sae", "skip-transcoder"))
    results = written(coders)
    table = drawn(name, coders, results, tmp_path)
    linear = read_json(results / REFERENCES.format(model=coders[0].model) / "metrics.json")["layers.9.mlp"]["linear"][column]
    shown = row(table, variant="linear")
    assert shown["architecture"] == "skip-transcoder"
    assert shown[["value", "low", "high"]].tolist() == pytest.approx(list(linear.values()), rel=1e-7)
    assert np.isnan(shown["k"])
    (figure, note), *_ = finished
    assert "Linear map:" in note
    low, high = figure.axes[-1].get_ylim()
    assert low <= linear["low"] < linear["high"] < high


def test_figures_of_saes_have_no_linear_map(written, tmp_path: Path, finished) -> None:
    coders = grid(architectures=("sae",))
    table = drawn("fig7", coders, written(coders), tmp_path)
    assert set(table["variant"]) == {"trained"}
    assert "Linear map" not in finished[0][1]


def test_controls_are_there_with_their_range_over_coders(written, tmp_path: Path) -> None:
    coders = grid()
    table = drawn("fig2", coders, written(coders, VARIANTS), tmp_path, VARIANTS)
    shuffled = row(table, binariser="topk", k=16, variant="trained", control="shuffled")
    mine = [coder for coder in coders if coder.binariser == "topk" and coder.k == 16]
    values = [summary_of(c, "trained")["scorers"]["fuzzing"]["shuffled"]["unweighted"]["value"] for c in mine]
    assert [shuffled["lowest"], shuffled["highest"]] == pytest.approx([min(values), max(values)], rel=1e-7)
    assert row(table, binariser="gumbel", k=16, variant="random", control="none")["seeds"] == 1
    assert set(table[table["variant"] == "binarised"]["binariser"]) == {"topk"}


def test_weighted_scores_come_with_the_bounds_of_the_too_dense(written, tmp_path: Path) -> None:
    coders = grid()
    table = drawn("fig3", coders, written(coders), tmp_path)
    mine = [coder for coder in coders if coder.binariser == "binary-topk" and coder.k == 32]
    found = [summary_of(coder, "trained")["scorers"]["fuzzing"]["none"]["weighted"] for coder in mine]
    shown = row(table, binariser="binary-topk", k=32, control="none")
    for bound in ("dense_as_zero", "dense_as_one"):
        assert shown[bound] == pytest.approx(np.mean([weighted[bound] for weighted in found]), rel=1e-7)


@pytest.mark.parametrize("name", ["fig1", "fig3"])
def test_one_k_and_one_seed_are_drawn(name: str, written, tmp_path: Path) -> None:
    coders = grid(ks=(16,), seeds=(3,))
    table = drawn(name, coders, written(coders), tmp_path)
    assert (table.loc[table["variant"] != "linear", "seeds"] == 1).all()


def test_no_scored_latent_draws_an_empty_panel(written, tmp_path: Path) -> None:
    coders = grid(binarisers=("topk",))
    table = drawn("fig3", coders, written(coders, scored=False), tmp_path)
    assert table["value"].isna().all()
    assert (table["seeds"] == 0).all()


def test_a_seed_without_a_score_is_left_out_of_the_mean(written, tmp_path: Path) -> None:
    coders = grid(binarisers=("topk",), ks=(16,))
    results = written(coders)
    write_json(
        results / coders[1].at(SCORES, variant="trained") / "summary.json", summary_of(coders[1], "trained", scored=False)
    )
    shown = row(drawn("fig2", coders, results, tmp_path), control="none")
    score = summary_of(coders[0], "trained")["scorers"]["fuzzing"]["none"]["unweighted"]
    assert (shown["seeds"], shown["interval"]) == (1, "bootstrap 95%")
    assert shown[["value", "low", "high"]].tolist() == pytest.approx([score["value"], score["low"], score["high"]], rel=1e-7)


def test_a_grid_of_layers_and_architectures_has_a_row_and_a_column_each(written, tmp_path: Path) -> None:
    hookpoints = [f"layers.{number}.mlp" for number in (0, 9, 10)]
    coders = grid(hookpoints, ("topk",), seeds=(1,), architectures=("sae", "transcoder"))
    results = written(coders)
    table = drawn("fig7", coders, results, tmp_path, dpi=50, column_inches=3.0)
    assert len(table) == 3 * 2 * 2 + 3, "and a linear map for the transcoders of each layer"
    with Image.open(tmp_path / "fig7.png") as image:
        assert image.width == round(50 * (2 * 3.0 + 0.2))


def test_saes_and_detection_have_figures_of_their_own(written, tmp_path: Path) -> None:
    coders = grid(architectures=("sae", "skip-transcoder"), seeds=(1,))
    results = written(coders)
    table = drawn("fig13", coders, results, tmp_path)
    assert set(table["architecture"]) == {"sae"}
    shown = row(drawn("fig12", coders, results, tmp_path), binariser="gumbel", k=16, control="none")
    (coder,) = (c for c in coders if c.binariser == "gumbel" and c.k == 16 and c.architecture == "skip-transcoder")
    detection = summary_of(coder, "trained")["scorers"]["detection"]["none"]["weighted"]
    assert shown["value"] == pytest.approx(detection["value"], rel=1e-7)


def test_shares_of_latents_say_that_their_interval_is_wilsons(written, tmp_path: Path) -> None:
    coders = grid(seeds=(1,))
    assert set(drawn("fig8", coders, written(coders), tmp_path)["interval"]) == {"Wilson 95%"}


def test_a_metric_below_zero_is_drawn_whole(written, tmp_path: Path, finished) -> None:
    coders = grid(binarisers=("topk",), ks=(16,), seeds=(1,))
    results = written(coders)
    path = results / coders[0].at(EVALUATION) / "metrics.json"
    write_json(path, {**read_json(path), "ce_increase": {"value": -0.02, "low": -0.03, "high": -0.01}})
    drawn("fig1", coders, results, tmp_path)
    (figure, _), *_ = finished
    low, high = figure.axes[0].get_ylim()
    assert low < -0.03
    assert high >= 0


def test_only_what_is_drawn_as_a_band_is_said_to_be_one(written, tmp_path: Path, finished) -> None:
    coders = grid(binarisers=("topk",), ks=(16,), seeds=(1,))
    drawn("fig2", coders, written(coders), tmp_path)
    assert "Bands:" in finished[0][1]
    variants = ("trained", "binarised")
    results = written(coders, variants)
    for variant in variants:
        summary = summary_of(coders[0], variant)
        scorers = {name: {"none": controls["none"]} for name, controls in summary["scorers"].items()}
        write_json(results / coders[0].at(SCORES, variant=variant) / "summary.json", {**summary, "scorers": scorers})
    drawn("fig2", coders, results, tmp_path, variants)
    assert "Bands:" not in finished[1][1]
    assert "binarised coders: the first seed" in finished[1][1]


def test_bands_without_height_are_told_apart_by_the_dashes_of_their_edges(written, tmp_path: Path, finished) -> None:
    coders = grid(binarisers=("topk",), seeds=(1,))
    drawn("fig2", coders, written(coders, VARIANTS), tmp_path, ("trained", "random"))
    ((figure, _),) = finished
    grey = [line for line in figure.axes[0].get_lines() if line.get_color() == "#9A9A9A"]
    assert [line.get_linestyle() for line in grey] == ["-", "-", "--", "--"], "two edges of each band"
