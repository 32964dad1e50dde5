"""From one bit to infinitely many: what the levels of a latent's value are worth (the figure 22, *ours*)."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from bsc import paths
from bsc.coders.binarisers.registry import kind_of
from bsc.figures import style
from bsc.figures.panels import cell_rows, cell_title, cells, draw_own
from bsc.figures.results import (
    KEYS,
    SCORES,
    bars,
    binarisers_of,
    evaluated_on,
    evaluations,
    interpreted,
    over_seeds,
    own,
    preferred,
    scores,
)
from bsc.io import read_json
from bsc.paths import CoderId
from bsc.stages import FigureSpec, coders_of

_BY = ["architecture", "model", "hookpoint", "binariser", "bits", "k"]
_LABELS = {"ce_increase": "CE increase\n(nats/token)", "fvu": "FVU", "unweighted": "F1, unweighted", "weighted": "F1, weighted"}


def draw(spec: FigureSpec, results: Path, output: Path) -> None:
    """Draw CE increase, FVU and scores by bits: a row an architecture and layer. `topk` stands at infinity."""
    table, scorer = _table(spec, results)
    points = pd.concat([over_seeds(table, _BY, name).assign(measure=name) for name in _LABELS], ignore_index=True)
    rows = cells(spec)
    with style.styled(spec.style):
        figure = style.canvas(style.width_inches(4, spec.style), 1.8 * len(rows))
        grid = figure.subplots(len(rows), len(_LABELS), squeeze=False, sharex=True)
        for cell, line in zip(rows, grid, strict=True):
            here = cell_rows(points, cell)
            for (name, label), axes in zip(_LABELS.items(), line, strict=True):
                _panel(axes, here[here["measure"] == name], points, spec)
                axes.set_ylabel(f"{scorer} {label}" if name in SCORES else label)
            line[0].set_title(cell_title(cell, spec))
        for axes in grid[-1]:
            axes.set_xlabel("bits of a value")
        handles = [style.handle(name, spec.labels[name], spec.style) for name in binarisers_of(spec)]
        style.finish(figure, handles, _note(table, points, spec), spec.style)
        style.save(figure, points, output)


def _table(spec: FigureSpec, results: Path) -> tuple[pd.DataFrame, str]:
    """One row a coder: its keys, `bits` (infinite for `topk`, 1 for `binary-topk`), metrics and scores; and whose scores."""
    found = scores(spec, results)
    scorer = preferred(found)
    table = evaluations(spec, results).merge(own(found[found["scorer"] == scorer]), on=KEYS, validate="1:1")
    bits = pd.DataFrame({**vars(coder), "bits": _bits(coder, results)} for coder in coders_of(spec.coders))
    return table.merge(bits, on=KEYS, validate="1:1"), scorer


def _bits(coder: CoderId, results: Path) -> float:
    if kind_of(coder.binariser) == "nbit":
        return float(read_json(results / coder.at(paths.CODERS) / "config.json")["spec"]["options"]["bits"])
    return 1.0 if kind_of(coder.binariser) == "binary-topk" else np.inf


def _panel(axes: Axes, here: pd.DataFrame, points: pd.DataFrame, spec: FigureSpec) -> None:
    levels = sorted(points["bits"].unique())
    line = here[here["binariser"].map(kind_of) != "binary-topk"].sort_values("bits")
    axes.plot([levels.index(bits) for bits in line["bits"]], line["value"], color="#B0B0B0", linewidth=0.8, zorder=1)
    for name in binarisers_of(spec):
        mine = here[here["binariser"] == name]
        x, look = [levels.index(bits) for bits in mine["bits"]], {**style.mark(name, spec.style).line, "linestyle": "none"}
        draw_own(axes, x, mine, look["color"])
        axes.errorbar(x, mine["value"], style.reach(mine["value"], mine["low"], mine["high"]), elinewidth=0.9, **look)
    axes.set_xticks(range(len(levels)), ["∞" if np.isinf(bits) else f"{bits:g}" for bits in levels])
    axes.set_xlim(-0.4, len(levels) - 0.6)


def _note(table: pd.DataFrame, points: pd.DataFrame, spec: FigureSpec) -> str:
    return (
        f"k\u00a0=\u00a0{table['k'].iloc[0]}. {bars(points, 'documents or latents')} {evaluated_on(table)}. "
        f"{interpreted(spec, table)} Infinitely many bits: TopK. Binary TopK, of one bit, learns thresholds and no "
        "levels."
    )
