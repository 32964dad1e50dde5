"""A grid of panels, one for each architecture and hookpoint."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bsc.figures import style
from bsc.figures.text import wrapped
from bsc.paths import ARCHITECTURES, JOINT, layer

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
    """A figure with a panel for each architecture (rows) and hookpoint (columns) that the table has, at most four across."""
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
    panels = []
    for number, (architecture, row) in enumerate(rows):
        for column in range(across):
            if column >= len(row):
                axes[number, column].set_axis_off()
                continue
            panel = Panel(architecture, *row[column], first=column == 0, bottom=number == len(rows) - 1)
            axes[number, column].set_title(site_title(row[column], columns, look))
            panels.append((panel, axes[number, column]))
    return figure, panels


def site_title(site: tuple[str, str], columns: list[tuple[str, str]], look: Mapping[str, Any]) -> str:
    """A (model, hookpoint) pair in lines no wider than a panel; the model's name only where there are several."""
    several = len({model for model, _ in columns}) > 1
    lines = wrapped(site[0], look["font_size"], _TITLE_POINTS) if several else []
    return "\n".join([*lines, place(site[1])])
