"""The time of a training step by k, from what training logged (the figure `runtime`)."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from bsc import paths
from bsc.figures import style
from bsc.figures.panels import ARCHITECTURE_NAMES, under_model
from bsc.figures.results import binarisers_of, span
from bsc.io import read_json, read_parquet
from bsc.paths import ARCHITECTURES
from bsc.stages import FigureSpec, coders_of


def draw(spec: FigureSpec, results: Path, output: Path) -> None:
    """Draw the time of a training step by k: a panel an architecture and model, a line a binariser."""
    points = runtimes(spec, results)
    pairs = [(a, m) for a in ARCHITECTURES for m in sorted(points["model"].unique())]
    panels = [pair for pair in pairs if ((points["architecture"] == pair[0]) & (points["model"] == pair[1])).any()]
    with style.styled(spec.style):
        across = min(len(panels), 4)
        rows = -(-len(panels) // across)
        figure = style.canvas(style.width_inches(across, spec.style), 1.9 * rows)
        grid = figure.subplots(rows, across, squeeze=False, sharey=True)
        for axes in grid.flat[len(panels) :]:
            axes.set_axis_off()
        for number, ((architecture, model), axes) in enumerate(zip(panels, grid.flat, strict=False)):
            here = points[(points["architecture"] == architecture) & (points["model"] == model)]
            _times(axes, here, spec)
            axes.set_ylim(0, float(points["slowest"].max()) * 1.08)
            title = f"{ARCHITECTURE_NAMES[architecture]}\nM = {int(here['latents'].iloc[0]):,}"
            axes.set_title(under_model(title, model, {one for _, one in panels}, spec.style))
            axes.set_ylabel("milliseconds a step" if number % across == 0 else "")
        style.finish(
            figure, [style.handle(n, spec.labels[n], spec.style) for n in binarisers_of(spec)], _time_note(points), spec.style
        )
        style.save(figure, points, output)


def runtimes(spec: FigureSpec, results: Path) -> pd.DataFrame:
    """One row a kind of coder: `milliseconds` a training step, the median over the later half of each run, then over coders.

    `fastest` and `slowest` are over coders of the kind (hookpoints and seeds, which take the same time but for the machine).
    """
    rows = []
    for coder in coders_of(spec.coders):
        folder = results / coder.at(paths.CODERS)
        trained, log = read_json(folder / "config.json")["spec"], read_parquet(folder / "log.parquet")
        rate = float(log["tokens_per_second"].iloc[len(log) // 2 :].median())
        sizes = {name: int(trained[name]) for name in ("latents", "batch_tokens")}
        rows.append({**vars(coder), **sizes, "one": 1000 * sizes["batch_tokens"] / rate})
    by = ["model", "architecture", "binariser", "k", "latents", "batch_tokens"]
    grouped = pd.DataFrame(rows).groupby(by, sort=True)["one"]
    return grouped.agg(milliseconds="median", fastest="min", slowest="max", coders="count").reset_index()


def _times(axes: Axes, here: pd.DataFrame, spec: FigureSpec) -> None:
    ks = sorted(int(k) for k in here["k"].unique())
    for name in binarisers_of(spec):
        mine = here[here["binariser"] == name].sort_values("k")
        if len(mine):
            ends = np.stack([mine["milliseconds"] - mine["fastest"], mine["slowest"] - mine["milliseconds"]])
            axes.errorbar(mine["k"], mine["milliseconds"], ends, elinewidth=0.9, **style.mark(name, spec.style).line)
    axes.set_xscale("log", base=2)
    axes.set_xticks(ks, [str(k) for k in ks])
    axes.minorticks_off()
    axes.set_xlim(min(ks) * 2**-0.5, max(ks) * 2**0.5)
    axes.set_xlabel("k (latents a token)")


def _time_note(points: pd.DataFrame) -> str:
    batches = ", ".join(f"{size:,}" for size in sorted(points["batch_tokens"].unique()))
    return (
        f"Steps of {batches} tokens. Median of the later half of each run's steps, by the wall clock of the machine that "
        f"trained it and whatever else it did; n\u00a0=\u00a0{span(points['coders'])} coders a point, bars "
        "from the fastest to the slowest."
    )
