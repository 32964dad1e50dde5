from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_up_results import figure_spec, grid, log_of, metrics_of, steps_of
from PIL import Image

from bsc.figures import style
from bsc.figures.draw import draw
from bsc.figures.registry import of_several_models
from bsc.figures.training import PIECES, at_largest

pytestmark = pytest.mark.slow

MODELS = ("smollm2-135m", "smollm2-360m")


def drawn(name, coders, results, tmp_path):
    draw(figure_spec(name, coders), results, tmp_path / name)
    with Image.open(tmp_path / f"{name}.png") as image:
        assert image.width > 100
    return pd.read_csv(tmp_path / f"{name}.csv")


def test_curves_are_means_of_equal_pieces_and_of_seeds(written, tmp_path: Path) -> None:
    coders = grid(ks=(16,))
    table = drawn("fig9", coders, written(coders), tmp_path)
    mine = table[table["binariser"] == "binary-topk"]
    log = log_of(next(coder for coder in coders if coder.binariser == "binary-topk"))
    pieces = np.arange(len(log)) * PIECES // len(log)
    assert mine["fvu"].tolist() == pytest.approx(log.groupby(pieces)["fvu"].mean().tolist(), rel=1e-7)
    assert mine["tokens"].tolist() == log.groupby(pieces)["tokens"].max().tolist()
    assert (mine["seeds"] == 2).all()
    assert (table.loc[table["binariser"] == "gumbel", "seeds"] == 1).all()


def test_a_short_run_is_a_point_a_step(written, tmp_path: Path) -> None:
    coders = grid(ks=(16,), seeds=(1,), binarisers=("topk",))
    results = written(coders)
    log = log_of(coders[0], steps=7)
    log.to_parquet(results / "coders" / str(coders[0]) / "log.parquet")
    assert drawn("fig10", coders, results, tmp_path)["dead_fraction"].tolist() == pytest.approx(log["dead_fraction"].tolist())


def test_layers_and_architectures_have_lines_and_rows(written, tmp_path: Path) -> None:
    coders = grid([f"layers.{n}.mlp" for n in (9, 18)], ("topk", "gumbel"), architectures=("sae", "transcoder"))
    table = drawn("fig9", coders, written(coders), tmp_path)
    assert len(table.groupby(["architecture", "hookpoint", "binariser", "k"])) == 2 * 2 * 2 * 2


def test_no_line_of_dead_latents_is_above_its_panel(written, tmp_path: Path, finished) -> None:
    coders = grid(seeds=(1,), binarisers=("topk",), architectures=("sae", "transcoder"))
    results = written(coders)
    for number, coder in enumerate(coders):
        log = log_of(coder).assign(dead_fraction=0.9 / (1 + number))
        log.to_parquet(results / "coders" / str(coder) / "log.parquet")
    drawn("fig10", coders, results, tmp_path)
    ((figure, _),) = finished
    assert len(figure.axes) == 4
    for axes in figure.axes:
        (line,) = axes.get_lines()
        low, high = axes.get_ylim()
        assert low < line.get_ydata().min() <= line.get_ydata().max() < high


def test_runtime_has_a_column_for_each_size_and_a_row_for_each_model(written, tmp_path: Path, finished) -> None:
    coders = [coder for model in MODELS for coder in grid(model=model, architectures=("sae", "skip-transcoder"))]
    table = drawn("runtime", coders, written(coders), tmp_path)
    wanted = pd.concat([steps_of(model, coders).assign(model=model) for model in MODELS], ignore_index=True)
    pd.testing.assert_frame_equal(table[list(wanted.columns)], wanted, check_exact=False, rtol=1e-7)
    ((figure, note),) = finished
    assert [axes.get_title(loc="left") for axes in figure.axes[::3]] == [
        f"{m}\nSkip-transcoder, d\u00a0=\u00a0576" for m in MODELS
    ]
    labels = ["k (latents a token)", "N (tokens a batch)", "M (latents)"]
    assert [axes.get_xlabel() for axes in figure.axes] == labels * 2
    assert [tick.get_text() for tick in figure.axes[1].get_xticklabels()] == ["512", "1,024"]
    assert "on random inputs; k\u00a0=\u00a032, N\u00a0=\u00a01,024 and M\u00a0=\u00a04,608" in note
    assert "Some CPU, 2 threads" in note


def test_larger_models_have_a_column_each(written, tmp_path: Path, finished) -> None:
    coders = [coder for model in MODELS for coder in grid(model=model, architectures=("sae", "skip-transcoder"))]
    table = drawn("fig20", coders, written(coders), tmp_path)
    assert set(table["architecture"]) == {"skip-transcoder"}
    found = table[table["part"] == "CE increase"].set_index(["model", "binariser", "k"])
    shown = [coder for coder in coders if coder.architecture == "skip-transcoder"]
    assert set(found.index) == {(coder.model, coder.binariser, coder.k) for coder in shown}
    for key, row in found.iterrows():
        seeds = [c for c in shown if (c.model, c.binariser, c.k) == key]
        rises = np.array([metrics_of(coder)["ce_increase"]["value"] for coder in seeds])
        assert (row["seeds"], row["value"]) == (len(rises), pytest.approx(rises.mean(), rel=1e-7))
        error = rises.std(ddof=1) / len(rises) ** 0.5 if len(rises) > 1 else 0.1 * rises[0]
        assert [row["value"] - row["low"], row["high"] - row["value"]] == pytest.approx([error, error], rel=1e-4)
    assert (table.loc[table["part"] == "training", "k"] == 32).all()
    ((figure, note),) = finished
    lines = [line.get_xdata() for axes in figure.axes for line in axes.get_lines() if len(line.get_xdata())]
    assert len(lines) >= 2 * len(MODELS) * 4
    assert all((np.diff(line) > 0).all() for line in lines)
    assert note.startswith("Skip-transcoders, layer 9.")
    assert "± s.e.m. over 2 seeds, or one seed with its bootstrap 95% interval over documents" in note


def test_models_of_different_k_all_have_curves(written, tmp_path: Path, finished) -> None:
    coders = grid(seeds=(1,)) + grid(seeds=(1,), ks=(8, 16), model=MODELS[1])
    table = drawn("fig20", coders, written(coders), tmp_path)
    assert set(table.loc[table["part"] == "training", "k"]) == {16}
    ((figure, _),) = finished
    below = figure.axes[len(MODELS) :]
    assert [axes.get_title(loc="left") for axes in below] == ["k = 16"] * 2
    assert all(len(line.get_xdata()) for axes in below for line in axes.get_lines())


def test_models_without_a_k_in_common_are_shown_at_their_own_largest() -> None:
    points = pd.DataFrame({"model": [*"aaab"], "k": [16, 32, 32, 64]})
    assert at_largest(points).index.tolist() == [1, 2, 3]


def test_larger_models_are_of_an_architecture_that_several_have() -> None:
    coders = grid(architectures=("sae", "skip-transcoder")) + grid(architectures=("sae",), model=MODELS[1])
    assert {coder.architecture for coder in of_several_models(coders)} == {"sae"}
    assert not of_several_models(grid(architectures=("skip-transcoder",)) + grid(architectures=("sae",), model=MODELS[1]))


@pytest.mark.parametrize(("low", "high"), [(0.7, 1.04), (0.31, 0.33), (0.1, 9.0), (0.004, 0.03)])
def test_a_logarithmic_axis_has_two_ticks_in_view_at_least(low: float, high: float) -> None:
    axes = style.canvas(3.0, 2.0).subplots()
    axes.set(yscale="log", ylim=(low, high))
    style.plain_log(axes.yaxis)
    shown = [tick for tick in axes.get_yticks() if low <= tick <= high]
    assert len(shown) >= 2
    assert all(len(text.get_text()) <= 6 for text in axes.get_yticklabels())
