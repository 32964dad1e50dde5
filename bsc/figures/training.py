"""FVU and dead latents over training (paper, Figs. 9 and 10), and what larger models cost and how they train (Fig. 20)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from bsc import paths
from bsc.figures import style
from bsc.figures.panels import ARCHITECTURE_NAMES, draw_own, place, sites
from bsc.figures.results import KIND, bars, binarisers_of, evaluated_on, evaluations, over_seeds, span
from bsc.figures.text import wrapped
from bsc.io import read_json, read_parquet
from bsc.paths import ARCHITECTURES
from bsc.stages import FigureSpec, coders_of

PIECES = 60
"""Into how many pieces of equal length a run is cut; a point is the mean of a piece's steps."""
_LINESTYLES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)))
_ROW_INCHES = 1.7
_CURVES = {"fig9": ("fvu", "FVU of the batch"), "fig10": ("dead_fraction", "dead latents (share)")}


def draw(spec: FigureSpec, results: Path, output: Path) -> None:
    """Draw the curves of Fig. 9 or 10, or Fig. 20, whichever `spec.name` says."""
    (_draw_larger if spec.name == "fig20" else _draw_curves)(spec, results, output)


def curves(spec: FigureSpec, results: Path) -> pd.DataFrame:
    """One row for each kind of coder and piece of its run: `tokens` at the piece's end, and means over its steps and seeds.

    Columns: KIND, piece, tokens, fvu, dead_fraction, seeds, dead_after_tokens, and steps, how many a seed has in the piece.
    """
    tables = []
    for coder in coders_of(spec.coders):
        folder = results / coder.at(paths.CODERS)
        log = read_parquet(folder / "log.parquet")
        log["piece"] = np.arange(len(log)) * min(PIECES, len(log)) // len(log)
        pieces = log.assign(steps=1).groupby("piece", as_index=False)
        means = pieces.agg({"tokens": "max", "fvu": "mean", "dead_fraction": "mean", "steps": "sum"})
        after = int(read_json(folder / "config.json")["spec"]["dead_after_tokens"])
        tables.append(means.assign(**vars(coder), dead_after_tokens=after))
    grouped = pd.concat(tables, ignore_index=True).groupby([*KIND, "piece"], sort=True)
    columns = {"tokens": "first", "fvu": "mean", "dead_fraction": "mean", "seed": "nunique", "dead_after_tokens": "max"}
    columns["steps"] = "first"
    return grouped.agg(columns).reset_index().rename(columns={"seed": "seeds"})


def _draw_curves(spec: FigureSpec, results: Path, output: Path) -> None:
    points = curves(spec, results)
    column, label = _CURVES[spec.name]
    ks, architectures = sorted(points["k"].unique()), [one for one in ARCHITECTURES if (points["architecture"] == one).any()]
    depths = sites(points)
    with style.styled(spec.style):
        figure = style.canvas(style.width_inches(len(ks), spec.style), _ROW_INCHES * len(architectures))
        grid = figure.subplots(len(architectures), len(ks), squeeze=False, sharex=True, sharey=True)
        for architecture, row in zip(architectures, grid, strict=True):
            row[0].set_ylabel(f"{ARCHITECTURE_NAMES[architecture]}\n{label}")
            for k, axes in zip(ks, row, strict=True):
                here = points[(points["architecture"] == architecture) & (points["k"] == k)]
                _lines(axes, here, column, depths, spec)
                axes.set_title(f"k = {k}")
        for axes in grid[-1]:
            axes.set_xlabel("training tokens")
        if column == "dead_fraction":
            grid[0, 0].set_ylim(-0.02, max(0.1, float(points[column].max()) * 1.1))  # all panels share it
        style.finish(figure, _legend(spec, depths), " ".join(_curve_notes(points, column, depths)), spec.style)
        style.save(figure, points, output)


def _lines(axes: Axes, here: pd.DataFrame, column: str, depths: list[tuple[str, str]], spec: FigureSpec) -> None:
    """A line for each binariser, in its colour, and site, by its dashes. FVU is on a logarithmic axis."""
    for name in binarisers_of(spec):
        for number, (model, hookpoint) in enumerate(depths):
            mine = here[(here["binariser"] == name) & (here["model"] == model) & (here["hookpoint"] == hookpoint)]
            dashes = _LINESTYLES[number % len(_LINESTYLES)]
            axes.plot(mine["tokens"], mine[column], color=style.mark(name, spec.style).colour, linestyle=dashes)
    axes.xaxis.set_major_formatter(lambda value, _: _short(value))
    axes.locator_params(axis="x", nbins=4)
    if column == "fvu":
        axes.set_yscale("log")
        style.plain_log(axes.yaxis)


def _short(value: float) -> str:
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def _legend(spec: FigureSpec, depths: list[tuple[str, str]]) -> list[Any]:
    lines = [Line2D([], [], label=spec.labels[name], color=style.mark(name, spec.style).colour) for name in binarisers_of(spec)]
    several = len({model for model, _ in depths}) > 1
    if len(depths) > 1:
        for number, (model, hookpoint) in enumerate(depths):
            label = f"{model}, {place(hookpoint)}" if several else place(hookpoint)
            lines.append(Line2D([], [], label=label, color=style.GREY, linestyle=_LINESTYLES[number % len(_LINESTYLES)]))
    return lines


def _curve_notes(points: pd.DataFrame, column: str, depths: list[tuple[str, str]]) -> Iterator[str]:
    seeds = "one seed" if points["seeds"].max() == 1 else f"{span(points['seeds'])} seeds"
    pieces = points["piece"].nunique()
    steps = f"n\u00a0=\u00a0{span(points['steps'])} steps"
    yield f"Each point is the mean of one of {pieces} equal pieces of the run ({steps}), and over {seeds}; no interval."
    if len(depths) == 1:
        yield f"{place(depths[0][1]).capitalize()}."
    if column == "dead_fraction":
        after, longest = int(points["dead_after_tokens"].max()), int(points["tokens"].max())
        yield f"A latent counts as dead after {after:,} tokens without firing."
        if longest < after:
            yield f"No run is that long (the longest has {longest:,}), so none is counted; Figure 8 has those that never fire."
    else:
        yield "On training batches, position 0 left out; the vertical axis is logarithmic."


def _draw_larger(spec: FigureSpec, results: Path, output: Path) -> None:
    """Fig. 20: a column a model; above its CE increase by k, below its FVU over training at one k; see `at_largest`."""
    evaluated, points = evaluations(spec, results), at_largest(curves(spec, results))
    increases = over_seeds(evaluated, KIND, "ce_increase")
    models = sorted(evaluated["model"].unique())
    depths = sorted({hookpoint for _, hookpoint in sites(evaluated)}, key=paths.layer)
    with style.styled(spec.style):
        figure = style.canvas(style.width_inches(max(len(models), 3), spec.style), 2 * _ROW_INCHES)
        grid = figure.subplots(2, len(models), squeeze=False, sharey="row")
        for model, (above, below) in zip(models, grid.T, strict=True):
            above.set_title("\n".join(wrapped(model, spec.style["font_size"], 160)))
            _increases(above, increases[increases["model"] == model], depths, spec)
            _lines(below, points, "fvu", [(model, hookpoint) for hookpoint in depths], spec)
            below.set_title(f"k = {points.loc[points['model'] == model, 'k'].iloc[0]}")
            below.set_xlabel("training tokens")
        grid[0, 0].set_ylabel("CE increase\n(nats/token)")
        grid[1, 0].set_ylabel("FVU")
        legend = _legend(spec, [("", hookpoint) for hookpoint in depths])
        style.finish(figure, legend, _larger_note(evaluated, increases, points, depths), spec.style)
        parts = [increases.assign(part="CE increase"), points.assign(part="training")]
        style.save(figure, pd.concat(parts, ignore_index=True), output)


def at_largest(points: pd.DataFrame) -> pd.DataFrame:
    """The rows of `curves` at the largest k that all models have, or where they have none in common at each model's largest."""
    by_model = points.groupby("model")["k"]
    common = set.intersection(*by_model.agg(set))
    return points[points["k"] == (max(common) if common else by_model.transform("max"))]


def _increases(axes: Axes, here: pd.DataFrame, depths: list[str], spec: FigureSpec) -> None:
    ks = sorted(int(k) for k in here["k"].unique())
    for name in binarisers_of(spec):
        for hookpoint, line in here[here["binariser"] == name].groupby("hookpoint", sort=True):
            dashes = {"linestyle": _LINESTYLES[depths.index(str(hookpoint)) % len(_LINESTYLES)]}
            ends = style.reach(line["value"], line["low"], line["high"])
            look = style.mark(name, spec.style).line
            draw_own(axes, line["k"], line, look["color"])
            axes.errorbar(line["k"], line["value"], ends, elinewidth=0.9, **{**look, **dashes})
    axes.set_xscale("log", base=2)
    axes.set_xticks(ks, [str(k) for k in ks])
    axes.minorticks_off()
    axes.set_xlabel("k (latents a token)")


def _larger_note(evaluated: pd.DataFrame, increases: pd.DataFrame, points: pd.DataFrame, depths: list[str]) -> str:
    layers = ", ".join(place(hookpoint) for hookpoint in depths)
    pieces = points["piece"].nunique()
    return (
        f"{ARCHITECTURE_NAMES[evaluated['architecture'].iloc[0]]}s, {layers}. {evaluated_on(evaluated)}. "
        f"{bars(increases, 'documents')} Below: each point is the mean of one of {pieces} equal pieces of the "
        "run, on training batches with position 0 left out, and over seeds; no interval; the vertical axis is logarithmic."
    )
