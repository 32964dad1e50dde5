"""Sparse probing: how well a few latents, or a few dimensions, tell a document's label (the figure 21, *ours*)."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from bsc import paths
from bsc.coders.binarisers.registry import REGISTRY
from bsc.evaluation.bootstrap import Counts, Interval, bootstrap
from bsc.figures import style
from bsc.figures.panels import cell_rows, cell_title, cells
from bsc.figures.questions import continuous_counterpart
from bsc.figures.registry import cell
from bsc.figures.results import binarisers_of, span
from bsc.io import read_json, read_parquet
from bsc.paths import CoderId
from bsc.probing.fit import auroc, mean_over_labels
from bsc.stages import FigureSpec, coders_of

MEAN = "mean over labels"
_PROBE = ["source", "pooling", "count", "label"]
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
    """One row a probe of each coder: its keys, `probes.parquet` without the features that were read, and `metrics.json`.

    Of latents of a coder that is not continuous, where its cell has one that is: `against`, which, and `auroc_less_against`
    with its ends, the difference of the two probes, paired by test document.
    """
    coders, tables = coders_of(spec.coders), []
    tested = cache(lambda coder: read_parquet(results / coder.at(paths.PROBES) / "scores.parquet"))
    for coder in coders:
        folder = results / coder.at(paths.PROBES)
        table = read_parquet(folder / "probes.parquet").drop(columns="features")
        table = table.merge(_differences(coder, coders, spec, tested), on=_PROBE, how="left")
        tables.append(table.assign(**vars(coder), **read_json(folder / "metrics.json")))
    return pd.concat(tables, ignore_index=True)


def _differences(
    coder: CoderId, coders: list[CoderId], spec: FigureSpec, tested: Callable[[CoderId], pd.DataFrame]
) -> pd.DataFrame:
    """tested: the scores of a coder's probes."""
    alike = {other.binariser: other for other in coders if cell(other) == cell(coder)}
    name = None if REGISTRY[coder.binariser].continuous else continuous_counterpart(coder.binariser, set(alike))
    rows = []
    if name is not None:
        mine, theirs = (tested(one) for one in (coder, alike[name]))
        for (pooling, count), here in mine.groupby(["pooling", "count"], sort=False):
            there = theirs[(theirs["pooling"] == pooling) & (theirs["count"] == count)]
            labels = here["label"].unique().tolist()
            for label, of in (*((one, [one]) for one in labels), (MEAN, labels)):
                found = _difference(here[here["label"].isin(of)], there[there["label"].isin(of)], spec)
                ends = {f"auroc_less_against{end}": value for end, value in zip(("", "_low", "_high"), found, strict=True)}
                rows.append({"source": "latents", "pooling": pooling, "count": count, "label": label, "against": name, **ends})
    numbers = [f"auroc_less_against{end}" for end in ("", "_low", "_high")]
    return pd.DataFrame(rows, columns=[*_PROBE, "against", *numbers]).astype(dict.fromkeys(numbers, float))


class _Tested(NamedTuple):
    """A coder's probes, a column a label, a row a test document."""

    scores: pd.DataFrame
    positive: pd.DataFrame

    def auroc(self, counts: Counts) -> Float[np.ndarray, " r"]:
        """The mean over labels."""
        pairs = ((self.scores[label].to_numpy(), self.positive[label].to_numpy()) for label in self.scores)
        return mean_over_labels([auroc(scores, positive, counts) for scores, positive in pairs])


def _tested(table: pd.DataFrame) -> _Tested:
    return _Tested(*(table.pivot(index="document", columns="label", values=name) for name in ("score", "positive")))


def _difference(mine: pd.DataFrame, theirs: pd.DataFrame, spec: FigureSpec) -> Interval:
    """Of two coders' mean AUROC over labels. Raises ValueError when they were not tested on the same documents."""
    one, other = _tested(mine), _tested(theirs)
    if not one.positive.equals(other.positive):
        raise ValueError("the probes were tested on different documents")
    units, options = len(one.scores), {"resamples": spec.resamples, "seed": spec.seed}
    return bootstrap(lambda counts: one.auroc(counts) - other.auroc(counts), units, **options)


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
        "dimensions, solid on all of them. Differences, paired by document: fig21.csv."
    )
