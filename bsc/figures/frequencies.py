"""How often latents fire: histograms of firing rates, and the surge above 10% (paper, Fig. 16)."""

from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from bsc import paths
from bsc.coders.binarisers.registry import in_order
from bsc.evaluation.metrics import ULTRA_HIGH
from bsc.figures import style
from bsc.figures.panels import ARCHITECTURE_NAMES, site_title, sites
from bsc.figures.results import KIND, span
from bsc.io import read_parquet
from bsc.paths import ARCHITECTURES
from bsc.stages import FigureSpec, coders_of

_BINS_A_DECADE = 6
_FEWEST = 10
"""About so many firings are the fewest that are shown: of fewer, bins hold one number, two or none, which looks like waves."""
_ROW_INCHES = 0.82
_FLOOR = 0.3
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def draw(spec: FigureSpec, results: Path, output: Path) -> None:
    """Draw the histograms: a row for each architecture and binariser, a column a hookpoint, a shade of its colour for each k.

    Rates are of the interpretation split's tokens. Counts are means over seeds.
    """
    rates = _rates(spec, results)
    tokens = _tokens(rates)
    bins = edges(tokens)
    counts = histogram(rates, bins)
    with style.styled(spec.style):
        figure = _draw_grid(counts, bins, spec)
        handles = [Line2D([], [], color=shade("#404040", k, counts), label=f"k = {k}") for k in _ks(counts)]
        style.finish(figure, handles, _note(rates, tokens, bins), spec.style)
        style.save(figure, counts, output)


def _rates(spec: FigureSpec, results: Path) -> pd.DataFrame:
    """One row for each latent of each coder: its keys, `firings` and `rate`."""
    tables = []
    for coder in coders_of(spec.coders):
        counts = read_parquet(results / coder.at(paths.LATENTS, variant="trained") / "counts.parquet")
        tables.append(counts[["latent", "firings", "rate"]].assign(**vars(coder)))
    return pd.concat(tables, ignore_index=True)


def _tokens(rates: pd.DataFrame) -> int:
    firing = rates[rates["firings"] > 0]
    return round(float((firing["firings"] / firing["rate"]).max())) if len(firing) else 1


def edges(tokens: int) -> Float[np.ndarray, " bins"]:
    """Bin edges from about ten firings in `tokens` to a rate of 1, equally wide in log rate; the surge begins at one."""
    first = min(round(np.log10(_FEWEST / tokens) * _BINS_A_DECADE), -_BINS_A_DECADE)
    return np.asarray(10.0 ** (np.arange(first, 1) / _BINS_A_DECADE))


def histogram(rates: pd.DataFrame, bins: Float[np.ndarray, " bins"]) -> pd.DataFrame:
    """Per kind of coder and bin: `latents`, the mean over seeds of how many have a rate in (`from`, `to`].

    Repeated in each row of a kind: `seeds`, `dead` (latents that never fire), `rare` (that fire, but not above the first edge)
    and `over_10_percent` (rate above 0.1), means over seeds, and `over_10_percent_share`, the latter's share of all firings.
    """
    rows = []
    for key, group in rates.groupby(KIND, sort=True):
        seeds = group["seed"].nunique()
        surge = group["rate"] > ULTRA_HIGH
        facts = {
            "seeds": seeds,
            "dead": (group["firings"] == 0).sum() / seeds,
            "rare": ((group["firings"] > 0) & (group["rate"] <= bins[0])).sum() / seeds,
            "over_10_percent": surge.sum() / seeds,
            "over_10_percent_share": group["firings"][surge].sum() / max(group["firings"].sum(), 1),
        }
        inside = pd.cut(group["rate"], bins.tolist()).value_counts(sort=False).to_numpy() / seeds
        for low, high, latents in zip(bins[:-1], bins[1:], inside, strict=True):
            rows.append({**dict(zip(KIND, key, strict=True)), "from": low, "to": high, "latents": latents, **facts})
    return pd.DataFrame(rows)


def _draw_grid(counts: pd.DataFrame, bins: Float[np.ndarray, " bins"], spec: FigureSpec) -> Figure:
    columns = sites(counts)
    kinds = set(zip(counts["architecture"], counts["binariser"], strict=True))
    names = in_order(spec.labels)
    rows = [(architecture, name) for architecture in ARCHITECTURES for name in names if (architecture, name) in kinds]
    figure = style.canvas(style.width_inches(len(columns), spec.style), _ROW_INCHES * len(rows) + 0.4)
    grid = figure.subplots(len(rows), len(columns), squeeze=False, sharex=True, sharey=True)
    for (architecture, name), line in zip(rows, grid, strict=True):
        line[0].set_title(f"{ARCHITECTURE_NAMES[architecture]}, {spec.labels[name]}", pad=2.5)
        line[0].set_ylabel("latents")
        for (model, hookpoint), axes in zip(columns, line, strict=True):
            _set_axes(axes, bins, 1 if len(columns) == 1 else 2)
            here = (counts["architecture"] == architecture) & (counts["binariser"] == name)
            here &= (counts["model"] == model) & (counts["hookpoint"] == hookpoint)
            _draw_panel(axes, counts[here], bins, counts, spec)
    for site, axes in zip(columns, grid[-1], strict=True):
        axes.set_xlabel(f"firing rate\n{site_title(site, columns, spec.style)}")
    return figure


def _set_axes(axes: Axes, bins: Float[np.ndarray, " bins"], step: int) -> None:
    axes.axvspan(ULTRA_HIGH, 1, color="#F6E7D8", zorder=0, linewidth=0)
    axes.set(xscale="log", yscale="log", xlim=(bins[0], 1))
    axes.xaxis.set_major_locator(FixedLocator([10.0**decade for decade in range(0, round(np.log10(bins[0])) - 1, -step)]))
    axes.yaxis.set_major_locator(FixedLocator([1, 10, 100, 1_000, 10_000, 100_000]))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: power(value)))
        axis.set_minor_locator(NullLocator())


def _draw_panel(
    axes: Axes, here: pd.DataFrame, bins: Float[np.ndarray, " bins"], counts: pd.DataFrame, spec: FigureSpec
) -> None:
    axes.set_ylim(_FLOOR, max(counts["latents"].max(), 10) * 2)
    if not len(here):
        axes.text(0.5, 0.5, "not in the grid", transform=axes.transAxes, ha="center", va="center", color=style.GREY)
    surges = []
    for k in _ks(here):
        group = here[here["k"] == k]
        colour = shade(style.mark(group["binariser"].iloc[0], spec.style).colour, k, counts)
        axes.stairs(np.maximum(group["latents"], _FLOOR), bins, color=colour, linewidth=1.1, baseline=None)
        surge = group["over_10_percent"].iloc[0]
        surges.append(f"{surge:,.0f}" if surge >= 10 or surge == round(surge) else f"{surge:.1f}")
    size = spec.style["font_size"] * 0.8
    axes.annotate("\n".join(surges), (1, 1), (2, 0), "axes fraction", "offset points", fontsize=size, va="top", color="#404040")


def _ks(counts: pd.DataFrame) -> list[int]:
    return sorted(int(k) for k in counts["k"].unique())


def shade(colour: str, k: int, counts: pd.DataFrame) -> str:
    """A colour for one of the k that are shown: itself for the largest, paler for smaller ones."""
    ks = _ks(counts)
    pale = 0.55 * (1 - ks.index(k) / (len(ks) - 1)) if len(ks) > 1 else 0.0
    red, green, blue = (channel + (1 - channel) * pale for channel in to_rgb(colour))
    return to_hex((red, green, blue))


def power(value: float) -> str:
    """A power of ten as a tick label: 1, 10, 100, else 10 with its exponent raised."""
    exponent = round(np.log10(value))
    return f"{10**exponent}" if 0 <= exponent <= 2 else f"10{str(exponent).translate(_SUPERSCRIPTS)}"


def _note(rates: pd.DataFrame, tokens: int, bins: Float[np.ndarray, " bins"]) -> str:
    latents = rates.groupby([*KIND, "seed"])["latent"].size()
    seeds = rates.groupby(KIND)["seed"].nunique()
    over = f"means over {span(seeds)} seeds" if seeds.max() > 1 else "one seed"
    by_coder = rates.groupby([*KIND, "seed"])["rate"]
    rare, dead = by_coder.agg(lambda rate: ((rate > 0) & (rate <= bins[0])).sum()), by_coder.agg(lambda rate: (rate == 0).sum())
    return (
        f"n\u00a0=\u00a0{int(latents.max()):,} latents a coder, {tokens:,} tokens; {over}, no interval. Shaded: firing on over "
        "10% of tokens; at the right, how many latents do, for each k from the smallest. Both axes are logarithmic, and the "
        f"latents that fire on about {_FEWEST} tokens or fewer ({span(rare)} a coder) or never ({span(dead)}) are off them."
    )
