"""A sheet of text, laid out downwards: headings, paragraphs, and passages of tokens shaded by activation.

Passages are set in cells of a fixed width, so what a token holds cannot move its neighbours, and nothing leaves the sheet.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from bsc.figures import style
from bsc.figures.text import FAMILY, MONOSPACE, printable, width_points, wrapped

SHADE = "#E69F00"
_PALEST, _DARKEST = 0.2, 0.9
_MARGIN = 3.0
_LEADING = 1.45


@dataclass(frozen=True)
class Passage:
    """A window of tokens. label: at its left; note: at its right; shades: for each token, 0 (fires not) to 1 (strongest)."""

    label: str
    tokens: Sequence[str]
    shades: Sequence[float]
    note: str = ""


@dataclass
class Sheet:
    """Collects what stands on it, each piece below the last; `figure` then draws it at the height that it needs.

    width: in inches; look: the figures' style. Text is made printable here, so callers hand over what the data hold.
    """

    width: float
    look: Mapping[str, Any]
    _texts: list[tuple[float, float, str, dict[str, Any]]] = field(default_factory=list)
    _boxes: list[tuple[float, float, float, float, float]] = field(default_factory=list)
    _below: float = _MARGIN

    @property
    def size(self) -> float:
        """The font size of passages, in points."""
        return float(self.look["font_size"]) * 0.8

    @property
    def _points(self) -> float:
        return self.width * 72 - 2 * _MARGIN

    def paragraph(self, text: str, *, bold: bool = False, small: bool = False, most: int = 6) -> None:
        """Text over the sheet's whole width, at most `most` lines of it."""
        size = self.size if small else float(self.look["font_size"])
        look = {"size": size, "weight": "bold" if bold else "normal", "color": "#404040" if small else "black"}
        wide = self._points * (0.88 if bold else 1)
        for line in wrapped(printable(text, FAMILY), size, wide, most=most):
            self._texts.append((_MARGIN, self._below, line, look))
            self._below += size * _LEADING

    def gap(self) -> None:
        """Half a line of nothing."""
        self._below += self.size * 0.6

    def passages(self, passages: Sequence[Passage]) -> None:
        """Windows one below the other, labels and notes in columns of their own."""
        labels = max((width_points(passage.label, self.size) for passage in passages), default=0) + self.size
        notes = max((width_points(passage.note, self.size) for passage in passages), default=0) + self.size
        for passage in passages:
            look = {"size": self.size, "color": "#404040"}
            self._texts.append((_MARGIN, self._below, passage.label, look))
            self._texts.append((_MARGIN + self._points, self._below, passage.note, {**look, "ha": "right"}))
            self._set_tokens(passage, _MARGIN + labels, self._points - labels - notes)
            self._below += self.size * (_LEADING + 0.65)

    def _set_tokens(self, passage: Passage, left: float, width: float) -> None:
        cell = width_points("0" * 100, self.size, MONOSPACE) / 100
        across = max(int(width / cell), 8)
        column = 0
        for token, shade in zip(passage.tokens, passage.shades, strict=True):
            text = printable(token)
            if column + len(text) > across >= len(text):
                column, self._below = 0, self._below + self.size * _LEADING
            while text:
                if column == across:
                    column, self._below = 0, self._below + self.size * _LEADING
                piece, text = text[: across - column], text[across - column :]
                self._piece(left + column * cell, piece, len(piece) * cell, shade)
                column += len(piece)

    def _piece(self, x: float, text: str, width: float, shade: float) -> None:
        if shade > 0:
            self._boxes.append((x, self._below, width, self.size * 1.25, _PALEST + (_DARKEST - _PALEST) * min(shade, 1.0)))
        if text.strip():
            self._texts.append((x, self._below, text, {"size": self.size, "family": MONOSPACE}))

    def figure(self) -> Figure:
        """The sheet as a figure, as high as what stands on it."""
        height = self._below + _MARGIN
        figure = style.canvas(self.width, height / 72)
        axes: Axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, self.width * 72), ylim=(height, 0))
        axes.set_axis_off()
        for x, y, width, high, strength in self._boxes:
            axes.add_patch(Rectangle((x, y - high * 0.06), width, high, facecolor=SHADE, alpha=strength, linewidth=0))
        for x, y, text, look in self._texts:
            axes.text(x, y + look["size"] * 0.95, text, va="baseline", **look)
        return figure
