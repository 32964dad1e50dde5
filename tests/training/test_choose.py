from pathlib import Path

import pytest

from bsc.errors import UserError
from bsc.io import read_json, write_json
from bsc.stages import ChoiceSpec
from bsc.training.choose import choose

SPEC = ChoiceSpec(name="sae topk")


def trials(folder: Path, **found: float | None) -> list[Path]:
    """Trial folders of rates (1, 2, 3, ... by the order of the names) and what was found."""
    for rate, (name, fvu) in enumerate(found.items(), start=1):
        write_json(folder / name / "trial.json", {"learning_rate": float(rate), "fvu": fvu})
    return [folder / name for name in reversed(list(found))]


def test_the_lowest_fvu_is_chosen_and_its_curve_kept(tmp_path: Path) -> None:
    choose(SPEC, trials(tmp_path, a=0.4, b=0.2, c=0.2, d=None), tmp_path / "out")
    choice = read_json(tmp_path / "out" / "choice.json")
    assert choice["learning_rate"] == 2.0
    assert not choice["at_edge"]
    assert [row["learning_rate"] for row in choice["curve"]] == [1.0, 2.0, 3.0, 4.0]
    assert [row["fvu"] for row in choice["curve"]] == [0.4, 0.2, 0.2, None]


def test_a_choice_at_an_end_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    choose(SPEC, trials(tmp_path, a=0.4, b=0.2), tmp_path / "out")
    assert read_json(tmp_path / "out" / "choice.json")["at_edge"]
    assert "widen `tune.rates`" in capsys.readouterr().err


def test_a_rate_whose_neighbours_were_tried_is_no_end(tmp_path: Path) -> None:
    choose(SPEC, trials(tmp_path, a=0.4, b=0.2, c=None), tmp_path / "out")
    assert not read_json(tmp_path / "out" / "choice.json")["at_edge"]


def test_nothing_can_be_chosen_where_all_diverged(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="`sae topk` diverged at every rate"):
        choose(SPEC, trials(tmp_path, a=None, b=None), tmp_path / "out")
    assert not (tmp_path / "out" / "choice.json").exists()
