"""Coders set beside each other: binarisers at one k, by what they cost and how they score (paper, Fig. 19), and their seeds."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from bsc.figures import style
from bsc.figures.panels import ARCHITECTURE_NAMES, cell_rows, cell_title, cells, place
from bsc.figures.results import (
    BOUNDS,
    KEYS,
    PALE_BARS,
    SCORES,
    binarisers_of,
    evaluations,
    interpreted,
    own,
    preferred,
    scores,
    span,
)
from bsc.stages import FigureSpec

_LABELS = {
    "fvu": "FVU",
    "ce_increase": "CE increase\n(nats/token)",
    "unweighted": "F1,\nunweighted",
    "weighted": "F1,\nweighted",
}
_CELL = ["architecture", "model", "hookpoint"]


def draw(spec: FigureSpec, results: Path, output: Path) -> None:
    """Draw Fig. 19 or `seeds`, whichever `spec.name` says."""
    table, scorer = _both(spec, results)
    with style.styled(spec.style):
        (_draw_binarisers if spec.name == "fig19" else _draw_seeds)(table, scorer, spec, output)


def _both(spec: FigureSpec, results: Path) -> tuple[pd.DataFrame, str]:
    """One row a coder: its evaluation and the scores of the preferred scorer, and that one's name."""
    found = scores(spec, results)
    scorer = preferred(found)
    return evaluations(spec, results).merge(own(found[found["scorer"] == scorer]), on=KEYS, validate="1:1"), scorer


def _draw_binarisers(table: pd.DataFrame, scorer: str, spec: FigureSpec, output: Path) -> None:
    rows = cells(spec)
    figure = style.canvas(style.width_inches(2, spec.style), 1.9 * len(rows))
    axes = figure.subplots(len(rows), 2, squeeze=False, sharey="row", sharex="row")
    for cell, row in zip(rows, axes, strict=True):
        for score, one in zip(SCORES, row, strict=True):
            _binarisers(one, cell_rows(table, cell), score, spec)
            one.set_title(f"{cell_title(cell, spec)}\n{score}" if one is row[0] else score)
        row[0].set_ylabel(f"{scorer} F1")
    for one in axes[-1]:
        one.set_xlabel("CE increase (nats/token)")
    note = (
        f"k\u00a0=\u00a0{table['k'].iloc[0]}; a point a seed. Bars: bootstrap 95% intervals, across over "
        f"{span(table['documents'])} documents, upwards over scored latents. {interpreted(spec, table)} {PALE_BARS} Better is "
        "up and to the left. Differences with their intervals: comparisons.csv."
    )
    style.finish(figure, [style.handle(name, spec.labels[name], spec.style) for name in binarisers_of(spec)], note, spec.style)
    ends = ("", "_low", "_high")
    shown = [*KEYS, *(f"{name}{end}" for name in ("ce_increase", *SCORES) for end in ends), *BOUNDS, "latents_scored"]
    style.save(figure, table[shown], output)


def _binarisers(axes: Axes, here: pd.DataFrame, score: str, spec: FigureSpec) -> None:
    axes.axvline(0, color="#C8C8C8", linewidth=0.7)
    for name in binarisers_of(spec):
        mine = here[here["binariser"] == name]
        look = {**style.mark(name, spec.style).line, "linestyle": "none"}
        if score == "weighted":
            style.pale_bars(axes, mine["ce_increase"], mine[list(BOUNDS)], look["color"])
        errors = [_reach(mine, column) for column in ("ce_increase", score)]
        axes.errorbar(mine["ce_increase"], mine[score], errors[1], errors[0], elinewidth=0.8, **look)
    axes.locator_params(axis="x", nbins=4)


def _reach(table: pd.DataFrame, column: str) -> Any:
    return style.reach(table[column], table[f"{column}_low"], table[f"{column}_high"])


def _draw_seeds(table: pd.DataFrame, scorer: str, spec: FigureSpec, output: Path) -> None:
    kinds = _kinds(table, spec)
    high = 0.17 * len(kinds) + 0.55
    figure = style.canvas(style.width_inches(3, spec.style), high)
    axes = figure.subplots(1, len(_LABELS), sharey=True)
    for one, (column, label) in zip(axes, _LABELS.items(), strict=True):
        for row, (_, mine) in enumerate(kinds):
            mark = style.mark(mine["binariser"].iloc[0], spec.style)
            one.errorbar(mine[column], _spread(row, len(mine)), None, _reach(mine, column), **_dots(mark))
        one.set_xlabel(f"{scorer} {label}" if column in SCORES else label)
        one.locator_params(axis="x", nbins=4)
    axes[0].set_yticks(range(len(kinds)), [name for name, _ in kinds])
    axes[0].set_ylim(len(kinds) - 0.4, -0.6)
    seeds = span(pd.Series([len(mine) for _, mine in kinds]))
    note = (
        f"A point a seed, {seeds} of each kind, with its own bootstrap 95% interval, over "
        f"{span(table['documents'])} documents or over scored latents. {interpreted(spec, table)} "
        "Points that lie further apart than their bars differ by more than what they were measured on explains."
    )
    style.finish(figure, [], note, spec.style)
    style.save(figure, table[[*KEYS, *(f"{name}{end}" for name in _LABELS for end in ("", "_low", "_high"))]], output)


def _kinds(table: pd.DataFrame, spec: FigureSpec) -> list[tuple[str, pd.DataFrame]]:
    """The coders of each kind by seed, under a label that tells kinds apart."""
    several = {name: table[name].nunique() > 1 for name in ("model", "hookpoint", "architecture")}
    found = []
    for key, mine in table.groupby([*_CELL, "binariser", "k"], sort=True):
        architecture, model, hookpoint, binariser, k = map(str, key)
        parts = [model] if several["model"] else []
        parts += [ARCHITECTURE_NAMES[architecture]] if several["architecture"] else []
        parts += [place(hookpoint)] if several["hookpoint"] else []
        found.append((", ".join([*parts, spec.labels[binariser], f"k = {k}"]), mine.sort_values("seed")))
    return found


def _spread(row: int, count: int) -> Any:
    return row + (np.arange(count) - (count - 1) / 2) * 0.5 / count


def _dots(mark: style.Mark) -> dict[str, Any]:
    return {**mark.line, "linestyle": "none", "elinewidth": 0.7, "markersize": 2.5}
