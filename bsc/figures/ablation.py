"""What latents are worth to the model, by how well they are explained: ablation in bins of F1 (paper, Fig. 18)."""

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes

from bsc import paths
from bsc.figures import style
from bsc.figures.panels import cell_rows, cell_title, cells, nothing_scored
from bsc.figures.results import binarisers_of, explained, span
from bsc.io import read_manifest, read_parquet
from bsc.stages import FigureSpec, coders_of

MEASURES = {
    "ce_change": "change of CE\n(nats/token)",
    "accuracy_change": "change of accuracy",
    "fvu_change": "change of FVU",
}
_ROW = ["architecture", "model", "hookpoint"]


def draw(spec: FigureSpec, results: Path, output: Path) -> None:
    """Draw the changes of CE, accuracy and FVU without each bin, by the bin's F1: a row an architecture and layer."""
    points = impacts(spec, results)
    with style.styled(spec.style):
        rows = cells(spec)
        figure = style.canvas(style.width_inches(3, spec.style), 1.9 * len(rows))
        grid = figure.subplots(len(rows), len(MEASURES), squeeze=False, sharex=True)
        for cell, line in zip(rows, grid, strict=True):
            here = cell_rows(points, cell)
            for (column, label), axes in zip(MEASURES.items(), line, strict=True):
                _panel(axes, here, column, spec)
                axes.set_ylabel(label)
            line[0].set_title(cell_title(cell, spec))
        for axes in grid[-1]:
            axes.set_xlabel("mean F1 of the bin")
        names = binarisers_of(spec)
        style.finish(
            figure,
            [style.handle(name, spec.labels[name], spec.style) for name in names],
            f"{_note(points)} {explained(spec)}.",
            spec.style,
        )
        style.save(figure, points, output)


def impacts(spec: FigureSpec, results: Path) -> pd.DataFrame:
    """One row a bin of each coder: its keys, the columns of `bins.parquet`, and the manifest's scorer, sequences and documents.

    `share`: the bin's share of the firings of all binned latents; `unscored`: that of the latents in no bin, of all firings.
    """
    tables = []
    for coder in coders_of(spec.coders):
        folder = results / coder.at(paths.ABLATION)
        made, bins = read_manifest(folder), read_parquet(folder / "bins.parquet")
        counts = read_parquet(results / coder.at(paths.LATENTS, variant="trained") / "counts.parquet")
        facts = {name: made[name] for name in ("scorer", "sequences", "documents")}
        every = max(int(counts["firings"].sum()), 1)
        shares = {"share": bins["firings"] / made["firings"], "unscored": 1 - made["firings"] / every}
        tables.append(bins.assign(**vars(coder), **facts, **shares))
    return pd.concat(tables, ignore_index=True)


def _panel(axes: Axes, here: pd.DataFrame, column: str, spec: FigureSpec) -> None:
    axes.axhline(0, color="#B0B0B0", linewidth=0.7)
    if not len(here):
        nothing_scored(axes)
    for name in binarisers_of(spec):
        mine = here[here["binariser"] == name].sort_values("f1")
        errors = style.reach(mine[column], mine[f"{column}_low"], mine[f"{column}_high"])
        look = {**style.mark(name, spec.style).line, "markersize": 2.5, "linewidth": 0.7}
        axes.errorbar(mine["f1"], mine[column], errors, elinewidth=0.6, **look)
    axes.set_xlim(-0.03, 1.03)


def _note(points: pd.DataFrame) -> str:
    """What a point is, of how many latents and documents, and what is in no bin."""
    if not len(points):
        return "No latent of these coders could be scored, so there is nothing to ablate."
    bins = points.groupby([*_ROW, "binariser"])["bin"].nunique()
    left = 100 * points["unscored"]
    latents = points.groupby([*_ROW, "binariser"])["latents"].sum()
    share = 100 / float(bins.max())
    return (
        f"k\u00a0=\u00a0{points['k'].iloc[0]}; one seed; {points['scorer'].iloc[0]} scores. A point is a bin of latents "
        f"({span(bins)} bins a coder, of equal firing counts, about {share:.2g}% of the scored latents' firings, or a single "
        "latent with more), all set to 0 in the spliced model, against the splice with all of them; "
        f"n\u00a0=\u00a0{span(points['documents'])} documents, {span(points['sequences'])} sequences, bootstrap 95% "
        f"intervals over documents, paired; {span(latents)} latents a coder. Latents without a score are in no bin: they have "
        f"{span(left.round())}% of all firings."
    )
