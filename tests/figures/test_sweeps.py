from pathlib import Path

import pandas as pd
import pytest
from made_up_results import figure_spec, grid, write_choice

from bsc.errors import UserError
from bsc.figures.draw import draw
from bsc.io import write_json
from bsc.paths import CHOICE

CODERS = grid(ks=(32,), seeds=(1,), binarisers=("topk", "gumbel"))


def test_curves_with_what_was_chosen(tmp_path: Path, finished) -> None:
    for coder in CODERS:
        write_choice(tmp_path, coder, at_edge=coder.binariser == "gumbel")
    draw(figure_spec("learning-rates", CODERS), tmp_path, tmp_path / "figure")
    table = pd.read_csv(tmp_path / "figure.csv")
    for name, chosen, lowest in (("topk", 0.01, 0.5), ("gumbel", 0.001, 0.2)):
        rows = table[table["binariser"] == name].set_index("learning_rate")
        assert rows["fvu"].dropna().to_dict() == {0.001: lowest, 0.01: 0.25}
        assert list(rows.index[rows["chosen"]]) == [chosen]
        assert rows["at_edge"].any() == (name == "gumbel")
    assert set(table["optimiser"]) == {"adam"}
    assert finished[0][1].startswith("Optimiser: adam.")
    assert "each on 153,600 tokens (38% of what the coders are trained on)" in finished[0][1]
    assert (tmp_path / "figure.pdf").exists()
    assert (tmp_path / "figure.png").exists()


def test_a_sweep_in_which_nothing_diverged_has_room_for_its_panel(tmp_path: Path, finished) -> None:
    for coder in CODERS:
        write_choice(tmp_path, coder, highest=0.4)
    draw(figure_spec("learning-rates", CODERS), tmp_path, tmp_path / "figure")
    (figure, _), *_ = finished
    assert all(area.get_window_extent().height / figure.dpi > 1 for area in figure.axes)


def test_a_choice_that_is_beyond_the_axes_keeps_its_ring(tmp_path: Path, finished) -> None:
    for coder in CODERS:
        curve = [{"learning_rate": rate, "fvu": fvu} for rate, fvu in ((0.001, 3.0), (0.01, 4.0))]
        choice = {"learning_rate": 0.001, "at_edge": True, "curve": curve}
        write_json(tmp_path / coder.at(CHOICE) / "choice.json", choice)
    draw(figure_spec("learning-rates", CODERS), tmp_path, tmp_path / "figure")
    (figure, _), *_ = finished
    axes = figure.axes[0]
    assert max(max(line.get_ydata(), default=0) for line in axes.lines) <= axes.get_ylim()[1]


def test_without_a_sweep_there_is_nothing_to_show(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has nothing to show") as caught:
        draw(figure_spec("learning-rates", []), tmp_path, tmp_path / "figure")
    assert "`tune`" in caught.value.fix
