"""Sparse probing: how well a few latents, or a few dimensions, tell a document's label (the figure 21, *ours*)."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from bsc import paths
from bsc.figures import style
from bsc.figures.panels import cell_rows, cell_title, cells
from bsc.figures.results import binarisers_of, span
from bsc.io import read_json, read_parquet
from bsc.stages import FigureSpec, coders_of

MEAN = "mean over labels"
_RAW: dict[str, Any] = {"color": style.GREY, "marker": ".", "linestyle": ":"}
_POOLINGS = ("max", "mean")


def draw(spec: FigureSpec, results: Path, output: Path) -> None:
    """Draw AUROC by how many latents a probe reads: a row an architecture and layer, a column for each pooling."""
    points = probes(spec, results)
    rows = cells(spec)
    shown = points[points["label"] == MEAN]
    with style.styled(spec.style):
        figure = style.canvas(style.width_inches(2, spec.style), 1.9 * len(rows))
        grid = figure.subplots(len(rows), len(_POOLINGS), squeeze=False, sharey=True, sharex=True)
        for cell, line in zip(rows, grid, strict=True):
            here = cell_rows(shown, cell)
            for pooling, axes in zip(_POOLINGS, line, strict=True):
                _panel(axes, here[here["pooling"] == pooling], spec)
                axes.set_title(f"{pooling}-pooled")
            line[0].set_title(f"{cell_title(cell, spec)}\n{_POOLINGS[0]}-pooled")
            line[0].set_ylabel("AUROC")
        for axes in grid[-1]:
            axes.set_xlabel("latents read")
        handles = [style.handle(name, spec.labels[name], spec.style) for name in binarisers_of(spec)]
        raw = [Line2D([], [], label="activations, n best", **_RAW), Line2D([], [], label="activations, all", color=style.GREY)]
        style.finish(figure, [*handles, *raw], _note(points), spec.style)
        style.save(figure, points, output)


def probes(spec: FigureSpec, results: Path) -> pd.DataFrame:
    """One row a probe of each coder: its keys, `probes.parquet` without the features that were read, and `metrics.json`."""
    tables = []
    for coder in coders_of(spec.coders):
        folder = results / coder.at(paths.PROBES)
        table = read_parquet(folder / "probes.parquet").drop(columns="features")
        tables.append(table.assign(**vars(coder), **read_json(folder / "metrics.json")))
    return pd.concat(tables, ignore_index=True)


def _panel(axes: Axes, here: pd.DataFrame, spec: FigureSpec) -> None:
    counts = sorted(int(count) for count in here["count"].unique() if count)
    first = here[here["binariser"] == here["binariser"].iloc[0]]
    raw = first[first["source"] == "raw"]
    whole = raw[raw["count"] == 0].iloc[0]
    axes.axhspan(whole["auroc_low"], whole["auroc_high"], color="#ECECEC", zorder=0.5, linewidth=0)
    axes.axhline(whole["auroc"], color=style.GREY, linewidth=0.8)
    lines = [(raw[raw["count"] > 0], _RAW)]
    for name in binarisers_of(spec):
        mine = here[(here["binariser"] == name) & (here["source"] == "latents")]
        lines.append((mine, style.mark(name, spec.style).line))
    for place_, (line, look) in enumerate(lines):
        line = line.sort_values("count")
        at = np.array([counts.index(int(count)) for count in line["count"]]) + (place_ - len(lines) / 2) * 0.06
        errors = style.reach(line["auroc"], line["auroc_low"], line["auroc_high"])
        axes.errorbar(at, line["auroc"], errors, elinewidth=0.7, **look)
    axes.set_xticks(range(len(counts)), [str(count) for count in counts])
    axes.grid(visible=False, axis="x")


def _note(points: pd.DataFrame) -> str:
    several = points["labels"].min() > 2
    told = f"mean over {span(points['labels'])} labels" if several else "two labels, so one probe tells them apart"
    return (
        f"k\u00a0=\u00a0{points['k'].iloc[0]}; one seed. Logistic regressions on the n latents that differ most between a "
        f"label and the others on training documents; {told}. "
        f"n\u00a0=\u00a0{span(points['test_documents'])} test documents of {span(points['documents'])}, bootstrap 95% "
        "intervals over test documents. Grey: the same on the activations that the encoder reads, dotted on their n best "
        "dimensions, solid on all of them."
    )
