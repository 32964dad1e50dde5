"""Sweeps of the learning rate: held-out FVU by rate, a line a binariser, with what was chosen (config key `tune`)."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from bsc import paths
from bsc.coders.binarisers.registry import in_order
from bsc.figures import style
from bsc.figures.panels import ARCHITECTURE_NAMES, Panel, grid
from bsc.io import read_json
from bsc.stages import FigureSpec, coders_of

_MOST_TICKS = 4
_HIGHEST = 1.0
"""An FVU above this, worse than the mean, is drawn at the upper edge."""


def draw(spec: FigureSpec, results: Path, output: Path) -> None:
    """Draw the curves of all sweeps; the chosen rate is ringed, a rate at which training diverged is a cross at the top."""
    points = gather(spec, results)
    with style.styled(spec.style):
        figure, panels = grid(points, spec.style)
        for panel, axes in panels:
            _draw_panel(axes, panel, points, spec)
        handles = [style.handle(name, spec.labels[name], spec.style) for name in in_order(points["binariser"])]
        style.finish(figure, handles, _note(points), spec.style)
        style.save(figure, points, output)


def gather(spec: FigureSpec, results: Path) -> pd.DataFrame:
    """One row a trial: the coder that it was made with, `learning_rate`, `fvu`, `chosen`, `at_edge`, and facts of the sweep.

    fvu is NaN where training diverged.
    """
    rows = []
    for coder in coders_of(spec.coders):
        choice = read_json(results / coder.at(paths.CHOICE) / "choice.json")
        for trial in choice["curve"]:
            chosen = trial["learning_rate"] == choice["learning_rate"]
            rows.append({**vars(coder), **trial, "chosen": chosen, "at_edge": chosen and choice["at_edge"]})
    return pd.DataFrame(rows).astype({"fvu": float}).assign(**(spec.sweep or {}))


def _draw_panel(axes: Axes, panel: Panel, points: pd.DataFrame, spec: FigureSpec) -> None:
    here = panel.rows(points)
    top = min(float(np.nanmax(points["fvu"], initial=0.1)) * 1.1, _HIGHEST)
    for name in in_order(here["binariser"]):
        curve = here[here["binariser"] == name].sort_values("learning_rate")
        line = style.mark(name, spec.style).line
        curve = curve.assign(fvu=curve["fvu"].clip(upper=top))
        axes.plot(curve["learning_rate"], curve["fvu"], **line)
        chosen = curve[curve["chosen"]]
        axes.plot(chosen["learning_rate"], chosen["fvu"], "o", ms=8, mfc="none", mec=line["color"], zorder=3)
        diverged = curve[curve["fvu"].isna()]
        if len(diverged):  # an empty line that is not clipped lies in the figure's corner, and the layout makes room for it
            axes.plot(diverged["learning_rate"], [top] * len(diverged), "x", color=line["color"], clip_on=False)
    axes.set_xscale("log")
    rates = sorted(points["learning_rate"].unique())
    shown = rates[:: -(-len(rates) // _MOST_TICKS)]
    axes.set_xticks(shown, [f"{rate:g}" for rate in shown])
    axes.minorticks_off()
    axes.set_ylim(0, top)
    axes.set_xlabel("learning rate" if panel.bottom else "")
    axes.set_ylabel(f"{ARCHITECTURE_NAMES[panel.architecture]}\nheld-out FVU" if panel.first else "")


def _note(points: pd.DataFrame) -> str:
    sweep = points.iloc[0]
    counts = points.groupby(["model", "architecture", "binariser"]).size()
    ks = ", ".join(str(k) for k in sorted(points["k"].unique()))
    seeds = ", ".join(str(seed) for seed in sorted(points["seed"].unique()))
    edges = int(points["at_edge"].sum())
    at_edge = (
        f" {edges} of {len(counts)} choices {'lies' if edges == 1 else 'lie'} at an end of the grid and may not be the best."
        if edges
        else ""
    )
    return (
        f"Optimiser: {sweep['optimiser']}. {int(counts.max())} rates a binariser, each on {sweep['tokens']:,} tokens "
        f"({sweep['tokens'] / sweep['training_tokens']:.0%} of what the coders are trained on); "
        f"k\u00a0=\u00a0{ks}, seed {seeds}; n\u00a0=\u00a01 trial a point, so no interval. FVU on the interpretation split "
        f"without position 0. Rings: chosen. Crosses: diverged.{at_edge}"
    )
