from pathlib import Path

import pandas as pd
import pytest
from made_up_results import figure_spec, grid

from bsc import paths
from bsc.errors import UserError
from bsc.figures.draw import draw
from bsc.io import write_json

FOUND = {0.001: 0.5, 0.01: 0.25, 0.1: None}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    for coder in grid(ks=(32,), seeds=(1,), binarisers=("topk", "gumbel")):
        curve = [{"learning_rate": rate, "fvu": fvu} for rate, fvu in FOUND.items()]
        at_edge = coder.binariser == "gumbel"
        choice = {"learning_rate": 0.001 if at_edge else 0.01, "at_edge": at_edge, "curve": curve}
        write_json(tmp_path / coder.at(paths.CHOICE) / "choice.json", choice)
    return tmp_path


def test_curves_with_what_was_chosen(results: Path) -> None:
    draw(figure_spec("learning-rates", grid(ks=(32,), seeds=(1,), binarisers=("topk", "gumbel"))), results, results / "figure")
    table = pd.read_csv(results / "figure.csv")
    for name, chosen in (("topk", 0.01), ("gumbel", 0.001)):
        rows = table[table["binariser"] == name].set_index("learning_rate")
        assert rows["fvu"].dropna().to_dict() == {0.001: 0.5, 0.01: 0.25}
        assert list(rows.index[rows["chosen"]]) == [chosen]
        assert rows["at_edge"].any() == (name == "gumbel")
    assert (results / "figure.pdf").exists()
    assert (results / "figure.png").exists()


def test_without_a_sweep_there_is_nothing_to_show(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has nothing to show") as caught:
        draw(figure_spec("learning-rates", []), tmp_path, tmp_path / "figure")
    assert "`tune`" in caught.value.fix
