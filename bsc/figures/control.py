"""Frequency control: what it costs in cross-entropy to keep latents from firing all the time (*ours*).

One point a setting: CE increase against the share of all firings that comes from latents which fire on over 10% of tokens.
"""

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes

from bsc.coders.binarisers.registry import in_order
from bsc.figures import style
from bsc.figures.panels import ARCHITECTURE_NAMES, Panel, draw_own, grid
from bsc.figures.results import KIND, bars, evaluated_on, evaluations, over_seeds
from bsc.stages import FigureSpec

_SITE = ["model", "hookpoint", "architecture"]


def draw(spec: FigureSpec, results: Path, output: Path) -> None:
    """Draw a panel for each architecture and hookpoint, at its largest k; bars either way are those of the figures by k."""
    table = evaluations(spec, results)
    points = gather(table)
    with style.styled(spec.style):
        figure, panels = grid(points, spec.style)
        for panel, axes in panels:
            _draw_panel(axes, panel, points, spec)
        handles = [style.handle(name, spec.labels[name], spec.style) for name in in_order(points["binariser"])]
        style.finish(figure, handles, _note(points, table), spec.style)
        style.save(figure, points, output)


def gather(table: pd.DataFrame) -> pd.DataFrame:
    """One row a binariser (or variant) at each site's largest k: its CE increase (`value`, `low`, `high`) and `share`.

    `share`, with `share_low` and `share_high`: of all firings, those of latents over 10%. `fvu` and `l0`, means over seeds, for
    what a setting changes else.
    """
    table = table[table["k"] == table.groupby(_SITE)["k"].transform("max")]
    means = table.groupby(KIND, sort=True)[["fvu", "l0"]].mean().reset_index()
    shares = over_seeds(table, KIND, "ultra_high_share")[[*KIND, "value", "low", "high"]]
    shares = shares.rename(columns={"value": "share", "low": "share_low", "high": "share_high"})
    return over_seeds(table, KIND, "ce_increase").merge(shares, on=KIND).merge(means, on=KIND)


def _draw_panel(axes: Axes, panel: Panel, points: pd.DataFrame, spec: FigureSpec) -> None:
    here = panel.rows(points)
    for name in in_order(here["binariser"]):
        (point,) = here[here["binariser"] == name].to_dict("records")
        line = style.mark(name, spec.style).line | {"linestyle": "none", "elinewidth": 0.9, "capsize": 1.6, "capthick": 0.9}
        upright = style.reach(point["value"], point["low"], point["high"])
        across = style.reach(point["share"], point["share_low"], point["share_high"])
        draw_own(axes, [point["share"]], here[here["binariser"] == name], line["color"])
        axes.errorbar([point["share"]], [point["value"]], yerr=upright, xerr=across, **line)
    baseline = here[here["binariser"] == "topk"]
    if len(baseline):
        axes.axvline(baseline["share"].iloc[0], color=style.GREY, linewidth=0.7, linestyle=":", zorder=0.5)
    axes.set_xlim(left=-0.01)
    drawn = here[["value", "low", "high", "own_low", "own_high"]]
    low, high = min(0.0, float(drawn.min().min())), float(drawn.max().max())
    axes.set_ylim(bottom=low - 0.05 * (high - low))
    axes.set_xlabel("share of firings,\nlatents over 10%" if panel.bottom else "")
    axes.set_ylabel(f"{ARCHITECTURE_NAMES[panel.architecture]}\nCE increase (nats/token)" if panel.first else "")


def _note(points: pd.DataFrame, table: pd.DataFrame) -> str:
    ks = ", ".join(str(k) for k in sorted(points["k"].unique()))
    line = " Dotted: the share of TopK." if (points["binariser"] == "topk").any() else ""
    missing = int(points["share"].isna().sum())
    silent = f" Not drawn, as they never fire and have no share: {missing} of {len(points)}." if missing else ""
    return (
        f"k\u00a0=\u00a0{ks}; {evaluated_on(table)}. {bars(points, 'documents')} Shares are of the same tokens; one point a "
        f"setting.{line}{silent} Paired differences: comparisons.csv."
    )
