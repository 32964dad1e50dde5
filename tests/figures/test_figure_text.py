import unicodedata
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_results import STYLE

from bsc.figures import style
from bsc.figures.sheet import Passage, Sheet
from bsc.figures.text import MONOSPACE, printable, width_points, wrapped

ANYTHING = st.text(st.characters(codec=None), max_size=60)


@given(ANYTHING)
@settings(deadline=None)
def test_printable_keeps_the_length_and_leaves_nothing_invisible(text: str) -> None:
    shown = printable(text)
    assert len(shown) == len(text)
    assert not any(unicodedata.category(character) in ("Cc", "Cf", "Cs", "Mn", "Zl", "Zp") for character in shown)
    assert printable(shown) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb\tc", "a↵b⇥c"),
        ("\x00\x1b[1m", "□□[1m"),
        ("e\u0301", "e□"),
        ("漢", "□"),
        ("\u202eabc", "□abc"),
        ("$x_1$ %", "$x_1$ %"),
    ],
)
def test_what_cannot_be_seen_is_shown(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(ANYTHING.map(printable), st.floats(20, 300))
@settings(max_examples=40, deadline=None)
def test_wrapped_lines_fit_and_lose_nothing(text: str, width: float) -> None:
    lines = wrapped(text, 8, width)
    assert all(width_points(line, 8) <= width or len(line) == 1 for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")


def test_the_last_line_of_a_text_cut_short_ends_in_an_ellipsis() -> None:
    lines = wrapped("word " * 100, 8, 100, most=3)
    assert len(lines) == 3
    assert lines[-1].endswith("…")
    assert all(width_points(line, 8) <= 100 for line in lines)


TOKENS = st.lists(ANYTHING, min_size=1, max_size=12)


@given(TOKENS, ANYTHING)
@settings(max_examples=15, deadline=None)
def test_nothing_leaves_a_sheet_and_no_glyph_is_missing(tokens: list[str], label: str) -> None:
    with style.styled(STYLE), warnings.catch_warnings():
        warnings.simplefilter("error")
        sheet = Sheet(3.4, STYLE)
        sheet.paragraph(label)
        sheet.passages([Passage("decile 1", tokens, [0.5] * len(tokens), "1.00")])
        figure = sheet.figure()
        figure.canvas.draw()
        extent = figure.bbox
        for text in figure.axes[0].texts:
            box = text.get_window_extent()
            assert extent.x0 - 2 <= box.x0 <= box.x1 <= extent.x1 + 2
            assert extent.y0 - 2 <= box.y0 <= box.y1 <= extent.y1 + 2


def test_tokens_stand_in_cells_whatever_they_hold() -> None:
    with style.styled(STYLE):
        sheet = Sheet(3.4, STYLE)
        tokens = ["ab", "\u202e", "x" * 200, "$y$"]
        sheet.passages([Passage("", tokens, [0, 1, 0, 0])])
        pieces = [text for _, _, text, look in sheet._texts if look.get("family") == MONOSPACE]
    assert "".join(pieces) == "ab□" + "x" * 200 + "$y$"
    assert len(sheet._boxes) == 1
