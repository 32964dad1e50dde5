"""Explainers side by side: the same coders, scored by the n-grams' explanations and by each language model's (*ours*)."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from bsc.coders.binarisers.registry import in_order
from bsc.figures import style
from bsc.figures.panels import ARCHITECTURE_NAMES, Panel, draw_own, grid
from bsc.figures.results import KIND, bars, interpreted, over_seeds, preferred, scores
from bsc.stages import FigureSpec

_WIDTH = 0.7
"""How much of the room between two explainers their points take."""
_BAND: dict[str, Any] = {"color": "#DADADA", "linewidth": 0, "zorder": 0.5}


def draw(spec: FigureSpec, results: Path, output: Path) -> None:
    """Draw F1 by explainer, at the coders' median k: fuzzing where it was scored, else detection.

    Points are means over seeds, with the standard error or, of one seed, its interval; the weighted score stands beside the
    unweighted one, smaller. Grey: the scores of explanations shuffled among latents, from the lowest to the highest coder.
    """
    table = scores(spec, results)
    scorer = preferred(table)
    ks = sorted(table["k"].unique())
    shown = table[(table["variant"] == "trained") & (table["scorer"] == scorer) & (table["k"] == ks[len(ks) // 2])]
    points = gather(shown)
    with style.styled(spec.style):
        figure, panels = grid(points, spec.style)
        for panel, axes in panels:
            _draw_panel(axes, panel, points, spec, scorer)
        style.finish(figure, _legend(points, spec), _note(points, shown, spec), spec.style)
        style.save(figure, points, output)


def gather(table: pd.DataFrame) -> pd.DataFrame:
    """One row for each kind of coder, explainer, control and measure (unweighted, weighted), over its seeds."""
    by = [*KIND, "explainer", "control"]
    return pd.concat(
        [over_seeds(table, by, measure).assign(measure=measure) for measure in ("unweighted", "weighted")], ignore_index=True
    )


def _draw_panel(axes: Axes, panel: Panel, points: pd.DataFrame, spec: FigureSpec, scorer: str) -> None:
    here = panel.rows(points)
    names = in_order(spec.labels)
    for place, explainer in enumerate(spec.explainers):
        of_explainer = here[here["explainer"] == explainer]
        shuffled = of_explainer[(of_explainer["control"] == "shuffled") & (of_explainer["measure"] == "unweighted")]["value"]
        if shuffled.notna().any():
            axes.fill_between([place - 0.45, place + 0.45], shuffled.min(), shuffled.max(), **_BAND)
        for number, name in enumerate(names):
            at = place + _WIDTH * ((number + 0.5) / len(names) - 0.5)
            own = of_explainer[(of_explainer["control"] == "none") & (of_explainer["binariser"] == name)]
            _draw_points(axes, own, at, _WIDTH / len(names) / 4, style.mark(name, spec.style).line)
    axes.set_xticks(range(len(spec.explainers)), spec.explainers)
    axes.set_xlim(-0.5, len(spec.explainers) - 0.5)
    axes.set_ylim(0, 1)
    axes.grid(visible=False, axis="x")
    axes.set_ylabel(f"{ARCHITECTURE_NAMES[panel.architecture]}\n{scorer} F1" if panel.first else "")


def _draw_points(axes: Axes, points: pd.DataFrame, at: float, step: float, line: dict[str, Any]) -> None:
    """The unweighted score at the left, the weighted one at the right."""
    for measure, side, size in (("unweighted", -1, 1.0), ("weighted", 1, 0.6)):
        row = points[(points["measure"] == measure) & points["value"].notna()]
        errors = style.reach(row["value"], row["low"], row["high"])
        look = {**line, "linestyle": "none", "markersize": size * mpl.rcParams["lines.markersize"]}
        x = np.full(len(row), at + side * step)
        draw_own(axes, x, row, line["color"])
        axes.errorbar(x, row["value"], errors, elinewidth=0.9, capsize=1.2, **look)


def _legend(points: pd.DataFrame, spec: FigureSpec) -> list[Line2D | Patch]:
    handles: list[Line2D | Patch] = [style.handle(name, spec.labels[name], spec.style) for name in in_order(spec.labels)]
    if (points["control"] == "shuffled").any():
        handles.append(Patch(label="shuffled explanations", **{**_BAND, "zorder": 1}))
    return handles


def _note(points: pd.DataFrame, shown: pd.DataFrame, spec: FigureSpec) -> str:
    return (
        f"k\u00a0=\u00a0{points['k'].iloc[0]}. Large: unweighted; small, at the right: weighted by frequency. "
        f"{bars(points, 'latents')} {interpreted(spec, shown)}"
    )
