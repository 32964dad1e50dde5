"""What the documentation quotes of a command's output is what the command says."""

import re
from pathlib import Path

import pytest

from bsc.estimate.machines import MACHINES
from bsc.estimate.report import report

ROOT = Path(__file__).parent.parent
PAPER = ROOT / "config" / "paper.yaml"


def blocks(page: str, opening: str) -> list[str]:
    """The code blocks of a page of docs/ whose text begins so."""
    found = re.findall(r"^```\w*\n(.*?)^```$", (ROOT / "docs" / page).read_text(), re.MULTILINE | re.DOTALL)
    return [block for block in found if block.startswith(opening)]


@pytest.mark.parametrize(("place", "smaller"), [(0, False), (1, True)])
def test_estimates_of_the_papers_grid(place: int, smaller: bool, tmp_path: Path) -> None:
    small = tmp_path / "small.yaml"
    (text,) = blocks("cluster.md", "corpus:")
    small.write_text(text)
    said = report([PAPER, small] if smaller else [PAPER], MACHINES["h100"])
    _, table, totals = said.split("\n\n")
    quoted = "\n\n".join([table, "\n".join(totals.splitlines()[:2])]) + "\n"
    assert blocks("cluster.md", "rule ")[place] == quoted
