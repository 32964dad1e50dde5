import re
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from made_up_results import figure_spec, grid

from bsc.errors import UserError
from bsc.figures.draw import draw
from bsc.figures.gallery import gallery
from bsc.figures.registry import FIGURES
from bsc.stages import GallerySpec

REPORT = Path(__file__).parents[2] / "workflow" / "report"


class Page(HTMLParser):
    """Links, images, tags and text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name in ("href", "src")]

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def results(written) -> Path:
    coders = grid(ks=(16,))
    folder = written(coders)
    for name in ("fig1", "table1", "claims"):
        draw(figure_spec(name, coders), folder, folder / f"{FIGURES[name].kind}s" / name)
    return folder


def page(results: Path, captions: Path = REPORT, shown=("fig1", "table1", "claims")) -> Page:
    output = results / "figures" / "index.html"
    gallery(GallerySpec(shown=list(shown), left_out={"fig20": "coders of a second model"}), results, captions, output)
    return Page(output.read_text())


def test_every_link_leads_to_a_file_that_is_there(results: Path) -> None:
    made = page(results)
    assert len(made.links) == 1 + 3 + 2 + 1
    assert all((results / "figures" / link).is_file() for link in made.links)
    assert any(link.endswith("fig1.csv") for link in made.links)


def test_captions_findings_and_what_is_left_out_are_there(results: Path) -> None:
    made = page(results)
    assert "CE increase by k." in made.text
    assert "fig20: needs coders of a second model" in made.text
    assert made.text.count("binary coders reconstruct worse") == 3
    assert "{{" not in made.text
    assert "**" not in made.text


def test_text_from_data_is_escaped(results: Path, tmp_path: Path) -> None:
    table = pd.read_csv(results / "tables" / "claims.csv")
    hostile = '<script>alert("x")</script><img src=x onerror=y>'
    table.assign(note=hostile, quantity=hostile, verdict=hostile).to_csv(results / "tables" / "claims.csv", index=False)
    captions = tmp_path / "captions"
    captions.mkdir()
    for name in ("fig1", "table1", "claims"):
        (captions / f"{name}.rst").write_text(f"**{hostile}** & ``{hostile}``")
    made = page(results, captions)
    assert "script" not in made.tags
    assert made.tags.count("img") == 1
    assert hostile in made.text


def test_the_page_is_the_same_from_anywhere(results: Path, tmp_path: Path, monkeypatch) -> None:
    page(results)
    first = (results / "figures" / "index.html").read_text()
    monkeypatch.chdir(results)
    page(results)
    assert (results / "figures" / "index.html").read_text() == first
    assert not re.search(r'(href|src)="/', first)


def test_a_figure_of_the_grid_that_is_left_out_says_so_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="coders of a second model") as raised:
        draw(figure_spec("fig20", grid()), tmp_path, tmp_path / "fig20")
    assert len(str(raised.value).splitlines()) <= 2
