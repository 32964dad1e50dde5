"""Text that is not ours, made fit to draw: one cell a character, nothing invisible, nothing that the font lacks.

Tokens and explanations come from data sets. They may hold control characters, direction marks, combining marks without end and
scripts that the bundled fonts have no glyphs for; none of that may move, hide or break what is drawn around it.
"""

import functools
import unicodedata

from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.textpath import TextToPath

FAMILY = "DejaVu Sans"
MONOSPACE = "DejaVu Sans Mono"
"""Both come with matplotlib, so a figure is the same everywhere."""

UNKNOWN = "□"
_VISIBLE = {"\n": "↵", "\r": "↵", "\t": "⇥"}
_INVISIBLE = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Mn", "Me", "Zl", "Zp"))


@functools.cache
def _glyphs(family: str) -> frozenset[int]:
    return frozenset(get_font(findfont(FontProperties(family=family))).get_charmap())


def printable(text: str, family: str = MONOSPACE) -> str:
    """The text with as many characters, each with a glyph of its own: line ends as ↵, tabs as ⇥, what cannot be drawn as □."""
    return "".join(_drawn(character, family) for character in text)


def _drawn(character: str, family: str) -> str:
    if character in _VISIBLE:
        return _VISIBLE[character]
    category = unicodedata.category(character)
    if category == "Zs":
        return " "
    return UNKNOWN if category in _INVISIBLE or ord(character) not in _glyphs(family) else character


def width_points(text: str, size: float, family: str = FAMILY) -> float:
    """How wide a line is at a font size, both in points."""
    width, _, _ = TextToPath().get_text_width_height_descent(text, FontProperties(family=family, size=size), ismath=False)
    return float(width)


def wrapped(text: str, size: float, width: float, *, most: int | None = None) -> list[str]:
    """Lines no wider than `width` points; a word that is wider alone is cut.

    most: at most so many lines, the last of which ends in … where something is left out.
    """
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if width_points(longer, size) <= width:
            lines[-1] = longer
        else:
            head, *tail = _cut(word, size, width)
            lines = [*(lines if lines[-1] else lines[:-1]), head, *tail]
    if most is None or len(lines) <= most:
        return lines
    return [*lines[: most - 1], _cut(lines[most - 1], size, width - width_points("…", size))[0] + "…"]


def _cut(word: str, size: float, width: float) -> list[str]:
    pieces = [""]
    for character in word:
        if pieces[-1] and width_points(pieces[-1] + character, size) > width:
            pieces.append("")
        pieces[-1] += character
    return pieces
