"""A grid of panels, one for each architecture and hookpoint."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from bsc.figures import style
from bsc.figures.results import SEEDS
from bsc.figures.text import wrapped
from bsc.paths import ARCHITECTURES, JOINT, layer
from bsc.stages import FigureSpec

_MOST_ACROSS = 4
_PANEL_INCHES = {1: 2.0, 2: 1.75}
_NARROW_INCHES = 1.7
_TITLE_POINTS = 80
ARCHITECTURE_NAMES = {"sae": "SAE", "transcoder": "Transcoder", "skip-transcoder": "Skip-transcoder"}


@dataclass(frozen=True)
class Panel:
    """One panel: whose numbers it shows, and whether it is the first of its row and the last of its column."""

    architecture: str
    model: str
    hookpoint: str
    first: bool
    bottom: bool

    def rows(self, table: pd.DataFrame) -> pd.DataFrame:
        """The rows of a table that belong to this panel."""
        here = table["architecture"] == self.architecture
        return table[here & (table["model"] == self.model) & (table["hookpoint"] == self.hookpoint)]


def place(hookpoint: str) -> str:
    """A hookpoint in words: `layer 9`, or `all layers` for a joint evaluation."""
    return "all layers" if hookpoint == JOINT else f"layer {layer(hookpoint)}"


def sites(table: pd.DataFrame) -> list[tuple[str, str]]:
    """The (model, hookpoint) pairs of a table, by model and depth, joint ones last."""
    pairs = set(zip(table["model"], table["hookpoint"], strict=True))
    return sorted(pairs, key=lambda pair: (pair[0], pair[1] == JOINT, 0 if pair[1] == JOINT else layer(pair[1])))


def grid(table: pd.DataFrame, look: Mapping[str, Any]) -> tuple[Figure, list[tuple[Panel, Axes]]]:
    """A figure with a panel for each architecture (rows) and hookpoint (columns) that the table has, at most four across.

    Where the table has an architecture at other hookpoints alone, there is no panel.
    """
    columns = sites(table)
    across = min(len(columns), _MOST_ACROSS)
    rows = [
        (architecture, columns[start : start + across])
        for architecture in ARCHITECTURES
        if (table["architecture"] == architecture).any()
        for start in range(0, len(columns), across)
    ]
    height = _PANEL_INCHES.get(across, _NARROW_INCHES) * len(rows)
    figure = style.canvas(style.width_inches(across, look), height)
    axes = figure.subplots(len(rows), across, squeeze=False)
    there = set(zip(table["architecture"], table["model"], table["hookpoint"], strict=True))
    panels: dict[tuple[int, int], Panel] = {}
    for number, (architecture, row) in reversed(list(enumerate(rows))):
        shown = [column for column, site in enumerate(row) if (architecture, *site) in there]
        for column in shown:
            bottom = all(below != column for _, below in panels)
            panels[number, column] = Panel(architecture, *row[column], first=column == shown[0], bottom=bottom)
    for at, area in np.ndenumerate(axes):
        if at in panels:
            area.set_title(site_title((panels[at].model, panels[at].hookpoint), columns, look))
        else:
            area.set_axis_off()
    return figure, [(panels[at], axes[at]) for at in sorted(panels)]


def draw_own(axes: Axes, x: ArrayLike, points: pd.DataFrame, colour: str) -> None:
    """Behind each mean over seeds, as a thin line at `x`, the mean of their own intervals, if any; see `over_seeds`."""
    several = ((points["interval"] == SEEDS) & points["own_low"].notna()).to_numpy()
    low, high = (points[end].to_numpy()[several] for end in ("own_low", "own_high"))
    axes.vlines(np.asarray(x)[several], low, high, colors=colour, linewidth=0.5)


def nothing_scored(axes: Axes) -> None:
    """Say in an empty panel why it is."""
    axes.text(0.5, 0.5, "no latent could be scored", transform=axes.transAxes, ha="center", color=style.GREY)


def site_title(site: tuple[str, str], columns: list[tuple[str, str]], look: Mapping[str, Any]) -> str:
    """A (model, hookpoint) pair in lines no wider than a panel; the model's name only where there are several."""
    return under_model(place(site[1]), site[0], {model for model, _ in columns}, look)


def under_model(title: str, model: str, models: Collection[str], look: Mapping[str, Any]) -> str:
    """A panel's title, with the name of its model above it where the figure has several; it breaks after hyphens."""
    parts = wrapped(model.replace("-", "- "), look["font_size"], _TITLE_POINTS) if len(models) > 1 else []
    return "\n".join([*(part.replace("- ", "-") for part in parts), title])


def cells(spec: FigureSpec) -> list[tuple[str, str, str]]:
    """Every (architecture, model, hookpoint) of a figure: what it has a row of panels for."""
    found = {(block["architecture"], block["model"], block["hookpoint"]) for block in spec.coders}
    return sorted(found, key=lambda cell: (ARCHITECTURES.index(cell[0]), cell[1], layer(cell[2])))


def cell_rows(table: pd.DataFrame, cell: tuple[str, str, str]) -> pd.DataFrame:
    """The rows of a table that belong to one of `cells`."""
    return Panel(*cell, first=False, bottom=False).rows(table)


def cell_title(cell: tuple[str, str, str], spec: FigureSpec) -> str:
    """One of `cells` in words; the model's name only where there are several."""
    title = f"{ARCHITECTURE_NAMES[cell[0]]}, {place(cell[2])}"
    return under_model(title, cell[1], {model for _, model, _ in cells(spec)}, spec.style)
