"""The time of a training step by k, batch and number of latents (the figure `runtime`, *ours*)."""

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullLocator

from bsc import paths
from bsc.figures import style
from bsc.figures.panels import ARCHITECTURE_NAMES, under_model
from bsc.figures.results import binarisers_of, span
from bsc.io import read_manifest, read_parquet
from bsc.stages import FigureSpec, coders_of

_VARIED = {"k": "k (latents a token)", "batch_tokens": "N (tokens a batch)", "latents": "M (latents)"}


def draw(spec: FigureSpec, results: Path, output: Path) -> None:
    """Draw milliseconds a step: a row a model, a column for each of k, batch and latents, a line a binariser."""
    points = runtimes(spec, results)
    models = sorted(points["model"].unique())
    with style.styled(spec.style):
        figure = style.canvas(style.width_inches(len(_VARIED), spec.style), 1.9 * len(models))
        grid = figure.subplots(len(models), len(_VARIED), squeeze=False, sharey="row")
        for model, row in zip(models, grid, strict=True):
            mine = points[points["model"] == model]
            for varied, axes in zip(_VARIED, row, strict=True):
                _panel(axes, mine[mine["varied"] == varied], varied, spec)
            row[0].set_ylim(0, float(mine["slowest"].max()) * 1.08)
            row[0].set_ylabel("milliseconds a step")
            row[0].set_title(under_model(_title(mine), model, models, spec.style))
        style.finish(
            figure, [style.handle(n, spec.labels[n], spec.style) for n in _shown(points, spec)], _note(points), spec.style
        )
        style.save(figure, points, output)


def runtimes(spec: FigureSpec, results: Path) -> pd.DataFrame:
    """`steps.parquet` of every model, with its name, the machine that it was measured on and the threads."""
    tables = []
    for model in sorted({coder.model for coder in coders_of(spec.coders)}):
        folder = results / paths.RUNTIME.format(model=model)
        facts = read_manifest(folder)
        table = read_parquet(folder / "steps.parquet")
        tables.append(table.assign(model=model, machine=facts["machine"], threads=facts["threads"]))
    return pd.concat(tables, ignore_index=True)


def _title(here: pd.DataFrame) -> str:
    first = here.iloc[0]
    return f"{ARCHITECTURE_NAMES[first['architecture']]}, d\u00a0=\u00a0{int(first['width']):,}"


def _shown(points: pd.DataFrame, spec: FigureSpec) -> list[str]:
    return [name for name in binarisers_of(spec) if (points["binariser"] == name).any()]


def _panel(axes: Axes, here: pd.DataFrame, varied: str, spec: FigureSpec) -> None:
    sizes = sorted(int(size) for size in here[varied].unique())
    for name in _shown(here, spec):
        mine = here[here["binariser"] == name].sort_values(varied)
        ends = style.reach(mine["milliseconds"], mine["fastest"], mine["slowest"])
        axes.errorbar(mine[varied], mine["milliseconds"], ends, elinewidth=0.9, **style.mark(name, spec.style).line)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{size:,.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(min(sizes) * 2**-0.4, max(sizes) * 2**0.4)
    axes.set_xlabel(_VARIED[varied])


def _note(points: pd.DataFrame) -> str:
    by_k, by_batch = (points[points["varied"] == varied] for varied in ("k", "batch_tokens"))
    fixed = (
        f"k\u00a0=\u00a0{span(by_batch['k'])}, N\u00a0=\u00a0{span(by_k['batch_tokens'])} and "
        f"M\u00a0=\u00a0{span(by_k['latents'])}"
    )
    machines = ", ".join(sorted(points["machine"].unique()))
    threads = span(points["threads"])
    return (
        f"One step (forward, backward, optimiser) on random inputs; {fixed} where not varied. "
        f"{machines}, {threads} thread{'' if threads == '1' else 's'}, beside whatever else it did. Median of n\u00a0=\u00a0"
        f"{span(points['steps'])} steps in rounds in which all take turns, bars from the fastest to the slowest."
    )
