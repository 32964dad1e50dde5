from pathlib import Path

import pandas as pd
import pytest
from made_up_results import figure_spec, grid, summary_of

from bsc.figures.draw import draw
from bsc.paths import NGRAM

pytestmark = pytest.mark.slow


def test_explainers_stand_side_by_side_at_one_k(written, tmp_path: Path) -> None:
    coders = grid(ks=(16, 32, 64))
    draw(figure_spec("explainers", coders), written(coders), tmp_path / "explainers")
    table = pd.read_csv(tmp_path / "explainers.csv", keep_default_na=False, na_values=[""])
    assert set(table["k"]) == {32}
    (coder,) = (coder for coder in coders if coder.binariser == "gumbel" and coder.k == 32)
    for explainer in (NGRAM, "some-llm"):
        found = summary_of(coder, "trained", explainer)["scorers"]["fuzzing"]
        for control in ("none", "shuffled"):
            for measure in ("unweighted", "weighted"):
                row = table.query(
                    "binariser == 'gumbel' and explainer == @explainer and control == @control and measure == @measure"
                )
                assert row["value"].item() == pytest.approx(found[control][measure]["value"])
                assert row["low"].item() == pytest.approx(found[control][measure]["low"])
    for ending in ("pdf", "png"):
        assert (tmp_path / f"explainers.{ending}").stat().st_size > 1_000


def test_a_note_says_how_much_of_an_explainers_words_could_not_be_read(written, tmp_path: Path, finished) -> None:
    coders = grid()
    results = written(coders)
    for explainer in (NGRAM, "some-llm"):
        draw(figure_spec("fig2", coders, explainer=explainer), results, tmp_path / "fig2")
    (_, without), (_, note) = finished
    assert "could not be read" not in without
    assert "Counted as wrong: 2 to 3% of the answers, which could not be read; 1 to 2 scored latents a coder have no" in note


def test_figures_by_k_show_the_explainer_that_is_asked_for(written, tmp_path: Path) -> None:
    coders = grid()
    results = written(coders)
    for explainer in (NGRAM, "some-llm"):
        draw(figure_spec("fig2", coders, explainer=explainer), results, tmp_path / "fig2")
        table = pd.read_csv(tmp_path / "fig2.csv", keep_default_na=False, na_values=[""])
        row = table.query("binariser == 'gumbel' and k == 16 and control == 'none'")
        (coder,) = (coder for coder in coders if coder.binariser == "gumbel" and coder.k == 16)
        expected = summary_of(coder, "trained", explainer)["scorers"]["fuzzing"]["none"]["unweighted"]["value"]
        assert row["value"].item() == pytest.approx(expected)
