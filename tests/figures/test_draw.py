import os
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jinja2 import Environment, StrictUndefined
from made_up_results import STYLE, figure_spec, grid, metrics_of, sequences_of, write_choice, write_text_panels

from bsc.coders.binarisers.registry import REGISTRY
from bsc.errors import UserError
from bsc.figures import style
from bsc.figures.draw import draw
from bsc.figures.registry import FIGURES
from bsc.figures.sheet import Sheet
from bsc.io import write_json, write_parquet
from bsc.paths import EVALUATION, CoderId
from bsc.stages import FigureSpec, coders_of

REPORT = Path(__file__).parents[2] / "workflow" / "report"

DRAW = """
import sys
from pathlib import Path
from bsc.figures.draw import draw
from bsc.stages import FigureSpec
for line in sys.stdin:
    spec = FigureSpec.model_validate_json(line)
    draw(spec, Path(sys.argv[1]), Path(sys.argv[2]) / spec.name)
print([name for name in ("torch", "transformers") if name in sys.modules])
"""


ALONE = grid(ks=(16,), binarisers=("topk", "binary-topk"), architectures=("sae", "skip-transcoder"))
GRID = ALONE + grid(ks=(16,), binarisers=("topk", "binary-topk"), model="smollm2-360m")
VARIANTS = ("trained", "random", "binarised")


@pytest.fixture
def results(written) -> Path:
    folder = written(GRID, VARIANTS)
    for name in ("fig4", "fig5"):
        write_text_panels(folder, coders_of(figure_spec(name, GRID).coders)[0], contexts=60)
    for coder in GRID:
        write_choice(folder, coder)
    return folder


def drawn_elsewhere(names: list[str], coders: list[CoderId], results: Path, output: Path) -> str:
    environment = {**os.environ, "PYTHONHASHSEED": "12345", "TZ": "Pacific/Auckland"}
    text = "\n".join(figure_spec(name, coders, VARIANTS).json_text for name in names)
    command = [sys.executable, "-c", DRAW, str(results), str(output)]
    return subprocess.run(command, input=text, env=environment, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    ("names", "coders"),
    [
        pytest.param(["fig3", "fig5", "table1"], GRID, marks=pytest.mark.slow),
        pytest.param([name for name in sorted(FIGURES) if FIGURES[name].select(ALONE)], ALONE, marks=pytest.mark.slow),
    ],
    ids=["some", "all"],
)
def test_bytes_are_the_same_in_every_process_and_torch_is_never_imported(
    names: list[str], coders: list[CoderId], results: Path, tmp_path: Path
) -> None:
    for name in names:
        draw(figure_spec(name, coders, VARIANTS), results, tmp_path / "here" / name)
    assert drawn_elsewhere(names, coders, results, tmp_path / "there") == "[]\n"
    files = sorted(path.name for path in (tmp_path / "there").iterdir())
    assert files == sorted(Path(file).name for name in names for file in FIGURES[name].files(name))
    for file in files:
        assert (tmp_path / "here" / file).read_bytes() == (tmp_path / "there" / file).read_bytes(), file


def test_panels_lie_at_rounded_places(written, tmp_path: Path, finished) -> None:
    """The layout's solver adds in the order of addresses in memory: unrounded, one file in six differs in a last digit."""
    coders = grid(binarisers=("topk",))
    draw(figure_spec("fig1", coders), written(coders), tmp_path / "fig1")
    corners = [axes.get_position().get_points() for axes in finished[0][0].axes]
    assert corners
    for points in corners:
        assert (points == points.round(6)).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, entry in FIGURES.items() if entry.kind == "figure" and entry.select(GRID)])
def test_every_figure_says_of_how_much_it_is(name: str, results: Path, tmp_path: Path, finished, monkeypatch) -> None:
    written: list[str] = []
    paragraph = Sheet.paragraph

    def noted(sheet: Sheet, text: str, **look: Any) -> None:
        written.append(text)
        paragraph(sheet, text, **look)

    monkeypatch.setattr(Sheet, "paragraph", noted)
    draw(figure_spec(name, GRID, VARIANTS), results, tmp_path / name)
    note = " ".join([*written, *(note for _, note in finished)])
    assert "n\u00a0=\u00a0" in note
    if name != "runtime":  # of the machine, not of the coders: its bars are its fastest and its slowest
        assert "seed" in note
        assert "interval" in note or "s.e.m." in note
    if "scores" in FIGURES[name].needs:
        assert re.search(r"unscored \(too rare, too dense or not sampled\) have [\d to]+% of all firings", note)
    if "scores" in FIGURES[name].needs or name == "fig18":
        assert "Explained by token patterns (ngram, no LLM)" in note


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [1, 2])
def test_what_one_document_leaves_without_intervals_is_drawn(seeds: int, results: Path, tmp_path: Path) -> None:
    coders = [coder for coder in GRID if coder.seed <= seeds]
    for coder in coders:
        found = metrics_of(coder)
        for metric in ("ce_increase", "relative_ce_increase", "accuracy_decrease", "fvu", "l0"):
            found[metric] |= {"low": None, "high": None}
        write_json(results / coder.at(EVALUATION) / "metrics.json", found | {"documents": 1})
        write_parquet(results / coder.at(EVALUATION) / "sequences.parquet", sequences_of(coder).assign(document=1))
    names = [name for name, entry in FIGURES.items() if "evaluation" in entry.needs and entry.select(coders)]
    assert len(names) >= 10
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in names:
            draw(figure_spec(name, coders, VARIANTS), results, tmp_path / name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fig18", "fig19", "fig21", "score-distribution", "runtime"])
def test_panels_of_several_models_are_told_apart(name: str, results: Path, tmp_path: Path, finished) -> None:
    draw(figure_spec(name, GRID, VARIANTS), results, tmp_path / name)
    titles = [axes.get_title(loc="left") for axes in finished[0][0].axes]
    named = [title for title in titles if "ranscoder" in title]
    assert len(named) == len(set(named)) == 2
    assert sum("360m" in title for title in named) == 1


@pytest.mark.slow
def test_an_architecture_has_no_panel_where_the_grid_has_none(results: Path, tmp_path: Path, finished) -> None:
    for name in ("fig7", "fig17", "frequency-control", "learning-rates"):
        draw(figure_spec(name, GRID, VARIANTS), results, tmp_path / name)
        axes = finished.pop()[0].axes
        assert [one.axison for one in axes] == [True, False, True, True]
        assert [bool(one.get_ylabel()) for one in axes] == [True, False, True, False]
        assert [bool(one.get_xlabel()) for one in axes] == [False, False, True, True]


def test_pdfs_embed_truetype_fonts_and_no_date(written, tmp_path: Path) -> None:
    coders = grid(binarisers=("topk",))
    draw(figure_spec("fig1", coders), written(coders), tmp_path / "fig1")
    pdf = (tmp_path / "fig1.pdf").read_bytes()
    assert b"/FontFile2" in pdf
    assert b"/Type3" not in pdf
    assert b"CreationDate" not in pdf


def test_a_figure_without_coders_says_what_the_config_lacks(tmp_path: Path) -> None:
    spec = figure_spec("fig5", grid(binarisers=("topk",)))
    with pytest.raises(UserError, match=r"needs a `binary-topk` coder in the grid"):
        draw(spec, tmp_path, tmp_path / "fig5")
    assert not list(tmp_path.iterdir())


def test_an_unknown_figure_is_named(tmp_path: Path) -> None:
    spec = FigureSpec(name="fig99", coders=[], labels={}, variants={}, style=STYLE, resamples=200, seed=0)
    with pytest.raises(UserError, match="fig99"):
        draw(spec, tmp_path, tmp_path / "fig99")


def test_missing_results_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"metrics\.json"):
        draw(figure_spec("fig1", grid()), tmp_path, tmp_path / "fig1")


def test_binarisers_are_told_apart_and_keep_their_looks() -> None:
    marks = [style.mark(name, STYLE) for name in REGISTRY]
    assert len({(mark.colour, mark.marker) for mark in marks}) == len(REGISTRY)
    more = [style.mark(name, {**STYLE, "places": {name: place}}) for name in ("topk",) for place in range(130)]
    assert len({(mark.colour, mark.marker) for mark in more}) == 130
    assert [mark.continuous for mark in marks] == [entry.continuous for entry in REGISTRY.values()]
    assert style.mark("gumbel", {**STYLE, "palette": ["red"]}).colour == "red"


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_has_a_caption_that_renders(name: str) -> None:
    template = Environment(undefined=StrictUndefined, autoescape=False).from_string((REPORT / f"{name}.rst").read_text())
    text = template.render(snakemake={"params": {"results": "results"}})
    assert "{{" not in text
    assert text.startswith("**")


def test_error_bars_never_point_away_from_their_ends() -> None:
    """A bootstrap interval need not hold its point; an end that is unknown has no bar."""
    found = style.reach([1.0, 1.0, 1.0, np.nan], [0.5, 1.2, np.nan, np.nan], [1.5, 1.4, 2.0, np.nan])
    assert found == pytest.approx(np.array([[0.5, 0, 0, 0], [0.5, 0.4, 1.0, 0]]))
    assert style.reach(1.0, 0.25, 3.0).tolist() == [[0.75], [2.0]]
