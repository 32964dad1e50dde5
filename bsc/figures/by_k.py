"""One number by k: a panel for each architecture and hookpoint, a line a binariser (paper, Figs. 1-3, 6-8, 11-15)."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from bsc.coders.binarisers.registry import in_order
from bsc.figures import style
from bsc.figures.panels import ARCHITECTURE_NAMES, Panel, draw_own, grid, nothing_scored
from bsc.figures.registry import FIGURES
from bsc.figures.results import (
    BOOTSTRAP,
    BOUNDS,
    KIND,
    LINEAR,
    PALE_BARS,
    bars,
    evaluated_on,
    evaluations,
    interpreted,
    over_seeds,
    reading_input,
    references,
    scores,
)
from bsc.stages import FigureSpec

_DODGE = 0.03
_EDGE: dict[str, Any] = {"edgecolor": "#9A9A9A", "linewidth": 0.8}
_BANDS: dict[tuple[str, str], tuple[str, dict[str, Any]]] = {
    ("trained", "shuffled"): ("shuffled explanations", {"facecolor": "#DADADA", "linestyle": "-", **_EDGE}),
    ("random", "none"): ("random coders", {"facecolor": "none", "hatch": "/////", "linestyle": (0, (3, 2)), **_EDGE}),
}
"""Label and look of each band. Of one without height only the edges are seen, by whose dashes it is known."""
_LINEAR: dict[str, Any] = {"color": style.GREY, "linewidth": 0.9, "linestyle": "-."}


@dataclass(frozen=True)
class View:
    """What a figure shows. column: of the results; scorer: whose scores, or None for a metric of the evaluation.

    interval, unit: how the interval of a single seed is made, and over what. meaning: what a reader may not know of it.
    """

    column: str
    label: str
    scorer: str | None = None
    interval: str = BOOTSTRAP
    unit: str = "documents"
    meaning: str = ""


def _score(name: str, column: str) -> View:
    scorer = FIGURES[name].scorer
    return View(column, f"{scorer} F1, {column}", scorer, unit="latents")


_CE = View("ce_increase", "CE increase (nats/token)")
VIEWS = {
    "fig1": _CE,
    "fig6": View("accuracy_decrease", "accuracy decrease"),
    "fig7": View("fvu", "FVU (share of variance)"),
    "fig8": View(
        "dead_fraction",
        "dead latents (share)",
        interval="Wilson 95%",
        unit="latents",
        meaning="Dead: fires on none of these tokens; on more of them fewer are.",
    ),
    "fig13": _CE,
    **{name: _score(name, "unweighted") for name in ("fig2", "fig11", "fig14")},
    **{name: _score(name, "weighted") for name in ("fig3", "fig12", "fig15")},
}


def draw(spec: FigureSpec, results: Path, output: Path) -> None:
    """Draw the figure that `spec.name` names. The error bars are the standard error over seeds, or of one seed its interval."""
    view = VIEWS[spec.name]
    table, facts = _evaluated(spec, results) if view.scorer is None else _interpreted(spec, results, view)
    points = gather(table, view)
    linear = linear_maps(spec, results, view) if "references" in FIGURES[spec.name].needs else points.iloc[:0]
    with style.styled(spec.style):
        figure, panels = grid(points, spec.style)
        for panel, axes in panels:
            _draw_panel(axes, panel, points, linear, view, spec)
        legend = [*_legend(points, view, spec), *([Line2D([], [], label="linear map", **_LINEAR)] if len(linear) else [])]
        style.finish(figure, legend, " ".join([*_notes(points, linear, view, spec), facts]), spec.style)
        style.save(figure, pd.concat([points, linear], ignore_index=True) if len(linear) else points, output)


def _evaluated(spec: FigureSpec, results: Path) -> tuple[pd.DataFrame, str]:
    table = evaluations(spec, results).assign(variant="trained", control="none")
    return table, " ".join([f"{evaluated_on(table)}.", *filter(None, [VIEWS[spec.name].meaning])])


def _interpreted(spec: FigureSpec, results: Path, view: View) -> tuple[pd.DataFrame, str]:
    table = scores(spec, results)
    shown = table[table["scorer"] == view.scorer]
    return shown, interpreted(spec, shown)


def gather(table: pd.DataFrame, view: View) -> pd.DataFrame:
    """The numbers shown: one row for each kind of coder, variant and control, over its seeds.

    `lowest` and `highest` are of single coders, where the controls' bands end; `BOUNDS` are there for weighted scores.
    """
    by = [*KIND, "variant", "control"]
    points = over_seeds(table, by, view.column)
    grouped = table.groupby(by, sort=True)
    extremes = grouped[view.column].agg(lowest="min", highest="max").reset_index()
    points = points.merge(extremes, on=by)
    if view.column == "weighted":
        points = points.merge(grouped[list(BOUNDS)].mean().reset_index(), on=by)
    points["interval"] = points["interval"].replace(BOOTSTRAP, view.interval)
    points.insert(len(by), "measure", view.column if view.scorer is None else f"{view.scorer} {view.column}")
    return points


def linear_maps(spec: FigureSpec, results: Path, view: View) -> pd.DataFrame:
    """What a linear map costs in the module's place: a row for each panel of coders that read its input, and no k.

    `variant` is `linear`; the other columns are as of `gather`.
    """
    found = references(spec, results)
    rows = []
    for architecture, model, hookpoint in reading_input(spec):
        here = (found["model"] == model) & (found["hookpoint"] == hookpoint) & (found["kind"] == LINEAR)
        value, low, high = found.loc[here, [view.column, f"{view.column}_low", f"{view.column}_high"]].to_numpy()[0]
        cell = {"model": model, "hookpoint": hookpoint, "architecture": architecture}
        shown = {"variant": LINEAR, "control": "none", "measure": view.column, "value": value, "low": low, "high": high}
        rows.append({**cell, **shown, "interval": view.interval})
    return pd.DataFrame(rows)


def _draw_panel(axes: Axes, panel: Panel, points: pd.DataFrame, linear: pd.DataFrame, view: View, spec: FigureSpec) -> None:
    here = panel.rows(points)
    lines = panel.rows(linear) if len(linear) else linear
    for line in lines.to_dict("records"):
        axes.axhspan(line["low"], line["high"], color=style.GREY, alpha=0.15, linewidth=0, zorder=0.4)
        axes.axhline(line["value"], zorder=0.7, **_LINEAR)
    ks = sorted(points["k"].unique())
    for (variant, control), (_, look) in _BANDS.items():
        _draw_band(axes, here[(here["variant"] == variant) & (here["control"] == control)], look)
    trained = here[(here["variant"] == "trained") & (here["control"] == "none")]
    for binariser, at in _dodged(spec, ks):
        _draw_line(axes, trained[trained["binariser"] == binariser], at, style.mark(binariser, spec.style).line)
        binarised = here[(here["variant"] == "binarised") & (here["control"] == "none") & (here["binariser"] == binariser)]
        _draw_line(axes, binarised, at, _binarised(binariser, spec.style))
    if not here["value"].notna().any():
        nothing_scored(axes)
    axes.set_xscale("log", base=2)
    axes.set_xticks(ks, [str(k) for k in ks])
    axes.minorticks_off()
    axes.set_xlim(min(ks) * 2**-0.5, max(ks) * 2**0.5)
    axes.grid(visible=False, axis="x")
    axes.set_xlabel("k (latents a token)" if panel.bottom else "")
    axes.set_ylabel(f"{ARCHITECTURE_NAMES[panel.architecture]}\n{view.label}" if panel.first else "")
    axes.set_ylim(*_limits(points if view.scorer else pd.concat([here, lines]), view))


def _dodged(spec: FigureSpec, ks: list[int]) -> Iterator[tuple[str, float]]:
    """Each binariser with the factor by which its points stand beside k, so that error bars do not hide each other."""
    names = in_order(spec.labels)
    octaves = 1 + np.log2(max(ks) / min(ks))
    for place, name in enumerate(names):
        yield name, 2 ** ((place - (len(names) - 1) / 2) * _DODGE * octaves)


def _draw_line(axes: Axes, points: pd.DataFrame, at: float, line: dict[str, Any]) -> None:
    points = points[points["value"].notna()].sort_values("k")
    if not len(points):
        return
    x, value = points["k"].to_numpy() * at, points["value"].to_numpy()
    if set(BOUNDS) <= set(points):
        style.pale_bars(axes, x, points[list(BOUNDS)], line["color"])
    draw_own(axes, x, points, line["color"])
    errors = style.reach(value, points["low"], points["high"])
    axes.errorbar(x, value, errors, elinewidth=0.9, capsize=1.6, capthick=0.9, **line)


def _binarised(binariser: str, look: dict[str, Any]) -> dict[str, Any]:
    return {**style.mark(binariser, look).line, "linestyle": ":", "marker": "+"}


def _draw_band(axes: Axes, points: pd.DataFrame, look: dict[str, Any]) -> None:
    """From the lowest to the highest coder at each k, carried on by half a step at both ends so that one k has a width too."""
    ends = points.groupby("k").agg(low=("lowest", "min"), high=("highest", "max")).dropna()
    if not len(ends):
        return
    x = np.array([ends.index[0] * 2**-0.5, *ends.index, ends.index[-1] * 2**0.5], dtype=float)
    low, high = (np.pad(ends[end].to_numpy(), 1, mode="edge") for end in ("low", "high"))
    axes.fill_between(x, low, high, zorder=0.5, **{**look, "linewidth": 0, "linestyle": "-"})
    axes.plot(x, low, x, high, color=look["edgecolor"], linewidth=look["linewidth"], linestyle=look["linestyle"], zorder=0.6)


def _limits(points: pd.DataFrame, view: View) -> tuple[float, float]:
    """Scores: the tenths around all that is drawn, alike in all panels. Metrics: zero and all that is drawn, with some room."""
    ends = ("low", "high", "lowest", "highest", "own_low", "own_high", *BOUNDS)
    drawn = points[[name for name in ("value", *ends) if name in points]]
    low, high = float(drawn.min().min()), float(drawn.max().max())
    if np.isnan(low):
        return 0.0, 1.0
    if view.scorer is not None:
        return max(np.floor(10 * low - 0.2) / 10, -0.02), min(np.ceil(10 * high + 0.2) / 10, 1.02)
    room = 0.08 * (max(0.0, high) - min(0.0, low))
    return (low - room if low < 0 else 0.0), (high + room if high > 0 else 0.0)


def _legend(points: pd.DataFrame, view: View, spec: FigureSpec) -> list[Any]:
    names = in_order(spec.labels)
    handles: list[Any] = [style.handle(name, spec.labels[name], spec.style) for name in names]
    seen = points[points["value"].notna()]
    for name in names:
        if ((seen["binariser"] == name) & (seen["variant"] == "binarised")).any():
            binarised = style.handle(name, f"{spec.labels[name]}, binarised", spec.style)
            binarised.set(**_binarised(name, spec.style))
            handles.append(binarised)
    handles += [Patch(label=label, **look) for label, look in _bands(seen)]
    return handles


def _bands(seen: pd.DataFrame) -> list[tuple[str, dict[str, Any]]]:
    """Label and look of the bands that some points are drawn as."""
    there = set(zip(seen["variant"], seen["control"], strict=True))
    return [band for key, band in _BANDS.items() if key in there]


def _notes(points: pd.DataFrame, linear: pd.DataFrame, view: View, spec: FigureSpec) -> Iterator[str]:
    """Sentences that say what is drawn, of how many seeds, and what the bars are."""
    shown = points[(points["variant"] == "trained") & (points["control"] == "none")]
    if said := bars(shown, view.unit, view.interval, lambda some: _labels(some, spec)):
        yield said
    if len(linear):
        yield f"Linear map: of the module's input to its output, by least squares, with its {view.interval} interval."
    if _bands(points):
        yield "Bands: from the lowest to the highest coder."
    if not set(points["variant"]) <= {"trained"}:
        yield "Random and binarised coders: the first seed."
    if set(BOUNDS) <= set(points):
        yield PALE_BARS


def _labels(points: pd.DataFrame, spec: FigureSpec) -> str:
    """The binarisers of some points, by architecture where the figure has several."""
    several = len({block["architecture"] for block in spec.coders}) > 1
    found = []
    for architecture, group in points.groupby("architecture", sort=True):
        names = ", ".join(spec.labels[name] for name in in_order(group["binariser"]))
        found.append(f"{ARCHITECTURE_NAMES[str(architecture)]}: {names}" if several else names)
    return "; ".join(found)
