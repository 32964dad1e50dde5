"""One style for every figure: sizes, colours, markers, notes, and files whose bytes depend on nothing but the numbers.

Colours are Okabe and Ito's, which colour-blind readers tell apart. A binariser keeps its colour and marker, by its place in the
registry, in every figure; continuous ones are dashed with open markers, binary ones solid and filled.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from matplotlib.transforms import Bbox

from bsc.coders.binarisers.registry import REGISTRY
from bsc.figures.text import FAMILY, width_points, wrapped
from bsc.io import atomic

OKABE_ITO = ("#000000", "#E69F00", "#0072B2", "#56B4E9", "#B3A400", "#D55E00", "#009E73", "#CC79A7")
"""Their eight, the yellow darkened: it vanishes on white."""
PALETTE = (*OKABE_ITO, "#882255", "#7A7A7A", "#332288", "#44AA99", "#661100")
"""Then colours of Tol's, and a grey. Markers are 10, which has no factor in common with 13: 130 looks in all."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "h")
GREY = "#6F6F6F"
_GUTTER_INCHES = 0.2
_SMALLER = 0.8


@dataclass(frozen=True)
class Mark:
    """How a binariser's line looks."""

    colour: str
    marker: str
    continuous: bool

    @property
    def line(self) -> dict[str, Any]:
        """Keyword arguments for `Axes.plot` and `Line2D`."""
        return {
            "color": self.colour,
            "marker": self.marker,
            "linestyle": (0, (4, 2)) if self.continuous else "-",
            "markerfacecolor": "white" if self.continuous else self.colour,
        }


def mark(binariser: str, style: Mapping[str, Any]) -> Mark:
    """The fixed colour and marker of a binariser; `style["palette"]`, where set, gives other colours in the same order.

    A variant has those that `style["places"]` gives it, which no binariser of the grid needs.
    """
    place = style["places"][binariser] if binariser in style.get("places", {}) else list(REGISTRY).index(binariser)
    palette = style.get("palette") or PALETTE
    return Mark(palette[place % len(palette)], MARKERS[place % len(MARKERS)], REGISTRY[binariser].continuous)


@contextmanager
def styled(style: Mapping[str, Any]) -> Iterator[None]:
    """Draw and save under the style. Mathtext is off: text from data sets is full of dollar signs."""
    size = style["font_size"]
    settings: Any = {
        "axes.axisbelow": True,
        "axes.edgecolor": "#B0B0B0",
        "axes.grid": True,
        "axes.labelsize": size,
        "axes.linewidth": 0.6,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.titlelocation": "left",
        "axes.titlesize": size,
        "axes.unicode_minus": True,
        "font.family": FAMILY,
        "font.size": size,
        "grid.color": "#E6E6E6",
        "grid.linewidth": 0.5,
        "hatch.linewidth": 0.5,
        "legend.fontsize": size * 0.9,
        "legend.frameon": False,
        "lines.linewidth": 1.1,
        "lines.markersize": size * 0.5,
        "pdf.fonttype": 42,
        "savefig.dpi": style["dpi"],
        "text.hinting": "none",
        "text.parse_math": False,
        "text.usetex": False,
        "xtick.color": "#B0B0B0",
        "xtick.labelcolor": "black",
        "xtick.labelsize": size * 0.9,
        "ytick.color": "#B0B0B0",
        "ytick.labelcolor": "black",
        "ytick.labelsize": size * 0.9,
    }
    with mpl.rc_context(settings):
        yield


def width_inches(columns: int, style: Mapping[str, Any]) -> float:
    """One text column for up to two panels side by side, two columns for more."""
    column = float(style["column_inches"])
    return column if columns <= 2 else 2 * column + _GUTTER_INCHES


def canvas(width: float, height: float) -> Figure:
    """An empty figure, in inches, that knows how to be drawn without a display."""
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def finish(figure: Figure, handles: list[Any], note: str, style: Mapping[str, Any]) -> None:
    """Give a figure of panels its legend above and its note below; both add to its height, so panels keep theirs."""
    size = style["font_size"] * _SMALLER
    width, height = figure.get_size_inches()
    lines = wrapped(note, size, (width - 0.1) * 72)
    below = (len(lines) * size * 1.3 + 3) / 72
    columns = _legend_columns([str(one.get_label()) for one in handles], width * 72, style["font_size"])
    above = -(-len(handles) // columns) * style["font_size"] * 1.45 / 72
    figure.set_size_inches(width, height + below + above)
    if handles:
        figure.legend(handles=handles, loc="outside upper left", ncols=columns, columnspacing=1.0, borderaxespad=0.1)
    share = below / (height + below + above)
    figure.set_layout_engine(ConstrainedLayoutEngine(rect=(0, share, 1, 1 - share), w_pad=0.04, h_pad=0.03))
    figure.text(0.05 / width, 2 / 72 / (height + below + above), "\n".join(lines), size=size, color="#404040", linespacing=1.25)


def _legend_columns(labels: list[str], width: float, size: float) -> int:
    """The most columns, filled downwards as matplotlib does, that a legend can have within `width` points."""
    widths = [width_points(label, size * 0.9) + size * 4 for label in labels]
    for columns in range(len(labels), 1, -1):
        longer = len(labels) % columns
        heights = [len(labels) // columns + (column < longer) for column in range(columns)]
        begins = [sum(heights[:column]) for column in range(columns)]
        if sum(max(widths[begin : begin + high]) for begin, high in zip(begins, heights, strict=True)) <= width:
            return columns
    return 1


class _PlainLocator(LogLocator):
    """Ticks at 1, 2 and 5 of each decade; where fewer than two of them are in view, at round numbers."""

    def __init__(self) -> None:
        super().__init__(subs=(1.0, 2.0, 5.0))

    def tick_values(self, vmin: float, vmax: float) -> Sequence[float]:
        low, high = sorted((vmin, vmax))
        ticks = super().tick_values(low, high)
        in_view = sum(low <= tick <= high for tick in ticks)
        return ticks if in_view >= 2 else MaxNLocator(4).tick_values(low, high)


def plain_log(axis: Axis) -> None:
    """Tick labels of a logarithmic axis as plain numbers: mathtext is off."""
    axis.set_major_locator(_PlainLocator())
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def handle(binariser: str, label: str, style: Mapping[str, Any]) -> Line2D:
    """A binariser's legend entry."""
    return Line2D([], [], label=label, **mark(binariser, style).line)


def pale_bars(axes: Axes, x: Any, ends: pd.DataFrame, colour: str) -> None:
    """Pale bars behind what is drawn at x: where it may lie for want of knowledge, not by chance. ends: two columns."""
    axes.vlines(x, ends.iloc[:, 0], ends.iloc[:, 1], colors=colour, alpha=0.22, linewidth=2.4, zorder=1.5)


def reach(value: Any, low: Any, high: Any) -> Float[np.ndarray, "2 n"]:
    """How far error bars go down and up from one value or n: not at all where an end is unknown, or lies on the other side."""
    at, down, up = (np.atleast_1d(np.asarray(numbers, dtype=float)) for numbers in (value, low, high))
    found: Float[np.ndarray, "2 n"] = np.nan_to_num(np.maximum(np.stack([at - down, up - at]), 0))
    return found


def save(figure: Figure, numbers: pd.DataFrame, output: Path) -> None:
    """Write `output.csv`, the numbers that the figure shows, and `output.pdf` and `output.png`, without dates in them."""
    write_csv(numbers, output)
    _lay_out(figure)
    with atomic(_with(output, ".pdf")) as temporary:
        figure.savefig(temporary, format="pdf", metadata={"CreationDate": None, "ModDate": None})
    with atomic(_with(output, ".png")) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})


def _lay_out(figure: Figure) -> None:
    """Place the panels for good, and round: the solver adds in the order of addresses in memory, so its last bits vary."""
    if (engine := figure.get_layout_engine()) is None:
        return
    engine.execute(figure)
    figure.set_layout_engine("none")
    for axes in figure.axes:
        axes.set_position(Bbox(axes.get_position().get_points().round(6)))


def write_csv(numbers: pd.DataFrame, output: Path) -> None:
    """Write `output.csv` atomically: eight significant digits, empty cells for what is undefined."""
    with atomic(_with(output, ".csv")) as temporary:
        numbers.to_csv(temporary, index=False, float_format="%.8g", lineterminator="\n")


def _with(output: Path, ending: str) -> Path:
    return output.with_name(output.name + ending)
