from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_up_results import figure_spec, grid, log_of, metrics_of
from PIL import Image

from bsc.figures.draw import draw
from bsc.figures.training import PIECES

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


def test_runtime_is_the_median_step(written, tmp_path: Path) -> None:
    coders = grid()
    table = drawn("runtime", coders, written(coders), tmp_path)
    for row in table.to_dict("records"):
        assert row["milliseconds"] == pytest.approx(1000 * 1024 / (1e6 / (50 + row["k"])), rel=1e-7)
    assert set(table["coders"]) == {1, 2}


def test_larger_models_have_a_column_each(written, tmp_path: Path) -> None:
    coders = [coder for model in MODELS for coder in grid(model=model, seeds=(1,))]
    table = drawn("fig20", coders, written(coders), tmp_path)
    costs = table[table["part"] == "CE"]
    assert set(costs["model"]) == set(MODELS)
    found = costs.set_index(["model", "binariser", "k"])["ce_increase"]
    for coder in coders:
        assert found[coder.model, coder.binariser, coder.k] == pytest.approx(
            metrics_of(coder)["ce_increase"]["value"], rel=1e-7
        )
    assert (table.loc[table["part"] == "training", "k"] == 32).all()
