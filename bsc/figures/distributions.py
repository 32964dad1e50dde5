"""Scores latent by latent: F1 against firing rate (paper, Fig. 17), and the distribution of F1 with its errors."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from bsc import paths
from bsc.evaluation.bootstrap import bootstrap_mean
from bsc.evaluation.metrics import ULTRA_HIGH
from bsc.figures import style
from bsc.figures.frequencies import power
from bsc.figures.panels import ARCHITECTURE_NAMES, Panel, cell_rows, cell_title, cells, grid, nothing_scored
from bsc.figures.results import KIND, binarisers_of, interpreted, own, preferred, scores, span
from bsc.io import read_parquet
from bsc.paths import CoderId
from bsc.stages import EMBEDDING, FigureSpec, coders_of

_BINS_A_DECADE = 3
_FEWEST = 5
"""Latents in a bin of firing rates under which its mean is not drawn."""
_INK = 60
"""Dots of a binariser that are drawn as if they were so many: the more there are, the paler each."""
_ROW = [*KIND, "seed", "latent", "control", "sampling_weight"]
COUNTED = ["true_positive", "true_negative", "false_positive", "false_negative"]
F1_BINS = np.linspace(0, 1, 21)


def draw(spec: FigureSpec, results: Path, output: Path) -> None:
    """Draw Fig. 17 or `score-distribution`, whichever `spec.name` says, of the preferred scorer."""
    table = scores(spec, results)
    scorer = preferred(table)
    latents, note = scored_latents(spec, results, scorer), _sample(table[table["scorer"] == scorer], spec)
    with style.styled(spec.style):
        if spec.name == "fig17":
            _draw_rates(latents, scorer, note, spec, output)
        else:
            _draw_distribution(latents, scorer, compared_latents(spec, results), note, spec, output)


def scored_latents(spec: FigureSpec, results: Path, scorer: str) -> pd.DataFrame:
    """One row a latent of each coder that `scorer` scored, under its own explanation and a shuffled one (`control`).

    Columns: the coder's keys, latent, control, sampling_weight, f1, rate (firings a token of the interpretation split),
    true_positive_rate and false_positive_rate over its questions.
    """
    tables = []
    for coder in coders_of(spec.coders):
        every = _scores_of(coder, spec, results)
        table = every[every["scorer"] == scorer].astype(dict.fromkeys(COUNTED, "int64"))
        counts = read_parquet(results / coder.at(paths.LATENTS, variant="trained") / "counts.parquet").set_index("latent")
        wrong, right = (table[f"false_{side}"] for side in ("positive", "negative")), ("negative", "positive")
        of_silent, of_firing = (part / (part + table[f"true_{name}"]) for part, name in zip(wrong, right, strict=True))
        facts = {"rate": table["latent"].map(counts["rate"]), "false_positive_rate": of_silent}
        tables.append(table.assign(**vars(coder), **facts, true_positive_rate=1 - of_firing))
    columns = [*_ROW, "f1", "rate", "true_positive_rate", "false_positive_rate"]
    return pd.concat(tables, ignore_index=True)[columns]


def _scores_of(coder: CoderId, spec: FigureSpec, results: Path) -> pd.DataFrame:
    scored = paths.interpreted(paths.SCORES, spec.explainers[0])
    return read_parquet(results / coder.at(scored, variant="trained") / "scores.parquet")


def compared_latents(spec: FigureSpec, results: Path) -> pd.DataFrame:
    """One row a latent of each coder and control whose explanation was compared with windows by embeddings.

    Columns: the coder's keys, latent, control, sampling_weight and auroc. No row where there is no scorer `embedding`.
    """
    tables = []
    for coder in coders_of(spec.coders):
        every = _scores_of(coder, spec, results)
        tables.append(every[every["scorer"] == EMBEDDING].assign(**vars(coder)))
    return pd.concat(tables, ignore_index=True)[[*_ROW, "auroc"]]


def _sample(table: pd.DataFrame, spec: FigureSpec) -> str:
    """What latents are shown. table: of `scores`, of the scorer that is shown."""
    seeds = own(table).groupby(KIND)["seed"].nunique()
    several = f"{span(seeds)} seeds together" if seeds.max() > 1 else "one seed"
    return f"k\u00a0=\u00a0{table['k'].iloc[0]}; {several}. {interpreted(spec, table)}"


def _with_a_rate(latents: pd.DataFrame) -> pd.DataFrame:
    """True scores of the latents that fired: a logarithmic axis has no place for a rate of 0."""
    return latents[(latents["control"] == "none") & (latents["rate"] > 0)]


def by_rate(latents: pd.DataFrame, spec: FigureSpec) -> pd.DataFrame:
    """Mean F1 in bins of the firing rate, three a decade: one row a kind of coder and bin: rate, latents, f1, low, high.

    rate: the geometric mean of the bin's latents. Both means are by sampling weight. latents: how many are scored. low, high:
    bootstrap 95% interval over latents; NaN of one latent.
    """
    fired = _with_a_rate(latents)
    fired = fired.assign(bin=np.floor(np.log10(fired["rate"]) * _BINS_A_DECADE).astype(int))
    rows = []
    for key, group in fired.groupby([*KIND, "bin"], sort=True):
        named: dict[str, Any] = dict(zip([*KIND, "bin"], key, strict=True))
        weights = group["sampling_weight"]
        found = bootstrap_mean(group["f1"], weights=weights, resamples=spec.resamples, seed=spec.seed)
        means = {"rate": float(np.exp(np.average(np.log(group["rate"]), weights=weights))), "latents": len(group)}
        rows.append({**named, **means, "f1": found.value, "low": found.low, "high": found.high})
    return pd.DataFrame(rows, columns=[*KIND, "bin", "rate", "latents", "f1", "low", "high"])


def _draw_rates(latents: pd.DataFrame, scorer: str, note: str, spec: FigureSpec, output: Path) -> None:
    points = by_rate(latents, spec)
    fired = _with_a_rate(latents)
    figure, panels = grid(pd.DataFrame(spec.coders), spec.style)
    for panel, axes in panels:
        _rate_panel(axes, panel, panel.rows(fired), panel.rows(points), spec)
        axes.set_ylabel(f"{ARCHITECTURE_NAMES[panel.architecture]}\n{scorer} F1" if panel.first else "")
    note += (
        f" Dots: latents. Lines: means of three bins a decade with at least {_FEWEST} latents, bootstrap 95% interval over "
        "latents. Shaded: firing on over 10% of tokens."
    )
    seen = points[points["latents"] >= _FEWEST]
    if without := [spec.labels[name] for name in binarisers_of(spec) if name not in set(seen["binariser"])]:
        note += f" No bin of {' and '.join(without)} has so many."
    style.finish(figure, [style.handle(name, spec.labels[name], spec.style) for name in binarisers_of(spec)], note, spec.style)
    style.save(figure, points, output)


def _dots(axes: Axes, x: "pd.Series[float]", y: "pd.Series[float]", colour: str) -> None:
    alpha = float(np.clip(_INK / max(len(x), 1), 0.15, 0.6))
    axes.scatter(x, y, s=2, color=colour, alpha=alpha, linewidths=0, rasterized=True)


def _rate_panel(axes: Axes, panel: Panel, fired: pd.DataFrame, points: pd.DataFrame, spec: FigureSpec) -> None:
    axes.axvspan(ULTRA_HIGH, 1, color="#F6E7D8", zorder=0, linewidth=0)
    for name in binarisers_of(spec):
        mark = style.mark(name, spec.style)
        dots, line = fired[fired["binariser"] == name], points[(points["binariser"] == name) & (points["latents"] >= _FEWEST)]
        _dots(axes, dots["rate"], dots["f1"], mark.colour)
        errors = style.reach(line["f1"], line["low"], line["high"])
        axes.errorbar(line["rate"], line["f1"], errors, elinewidth=0.8, **mark.line)
    if not len(fired):
        nothing_scored(axes)
    low = np.floor(np.log10(fired["rate"].min())) if len(fired) else -3.0
    axes.set(xscale="log", xlim=(10.0**low, 1), ylim=(-0.03, 1.03))
    axes.xaxis.set_major_locator(FixedLocator([10.0**decade for decade in range(int(low), 1)]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: power(value)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("firing rate" if panel.bottom else "")


def _draw_distribution(
    latents: pd.DataFrame, scorer: str, compared: pd.DataFrame, note: str, spec: FigureSpec, output: Path
) -> None:
    """A row an architecture and layer: F1, its errors and, where explanations were compared by embeddings, their AUROC."""
    rows = cells(spec)
    widths = (1.25, 1, 1.25) if len(compared) else (1.25, 1)
    figure = style.canvas(style.width_inches(len(widths), spec.style), 1.9 * len(rows))
    axes = figure.subplots(len(rows), len(widths), squeeze=False, width_ratios=widths)
    for cell, (left, right, *last) in zip(rows, axes, strict=True):
        group = cell_rows(latents, cell)
        _histogram(left, histograms(group), spec)
        _errors(right, group, spec)
        for area in last:
            _histogram(area, histograms(cell_rows(compared, cell), "auroc"), spec)
            area.set(xlabel="embedding AUROC", ylabel="share of latents")
        left.set_title(cell_title(cell, spec))
        left.set(xlabel=f"{scorer} F1", ylabel="share of latents")
        right.set(xlabel="false positive rate", ylabel="true positive rate")
    place = "Middle" if len(compared) else "Right"
    note += (
        f" Dotted: explanations shuffled among latents, cut off where they leave the panel. {place}: answers are yes or no, so "
        "a latent is one point of its ROC plane; dots are latents, marks are means. No interval."
    )
    points = histograms(latents)
    if len(compared):
        note += " Last: how often the explanation is nearer, by embeddings, to a firing window than to a silent one."
        points = pd.concat([points.assign(measure="f1"), histograms(compared, "auroc").assign(measure="auroc")])
    style.finish(figure, [style.handle(name, spec.labels[name], spec.style) for name in binarisers_of(spec)], note, spec.style)
    style.save(figure, points, output)


def histograms(latents: pd.DataFrame, column: str = "f1") -> pd.DataFrame:
    """For each kind of coder and control the share of its latents in each twentieth of a score, by sampling weight.

    Beside it the mean rates, where the score has some, and `latents`, how many are scored.
    """
    rows = []
    for key, group in latents.groupby([*KIND, "control"], sort=True):
        weights = group["sampling_weight"]
        counts, _ = np.histogram(group[column], F1_BINS, weights=weights)
        rates = {name: float(np.average(group[name], weights=weights)) for name in _rates(group)}
        named = {**dict(zip([*KIND, "control"], key, strict=True)), "latents": len(group), **rates}
        rows += [
            {**named, "from": start, "to": end, "share": count / weights.sum()}
            for start, end, count in zip(F1_BINS[:-1], F1_BINS[1:], counts, strict=True)
        ]
    return pd.DataFrame(rows, columns=[*KIND, "control", "latents", *_rates(latents), "from", "to", "share"])


def _rates(latents: pd.DataFrame) -> list[str]:
    return [name for name in ("true_positive_rate", "false_positive_rate") if name in latents]


def _histogram(axes: Axes, shares: pd.DataFrame, spec: FigureSpec) -> None:
    for name in binarisers_of(spec):
        for control, dashes, width in (("none", "-", 1.2), ("shuffled", ":", 0.9)):
            mine = shares[(shares["binariser"] == name) & (shares["control"] == control)]
            if len(mine):
                colour = style.mark(name, spec.style).colour
                axes.stairs(mine["share"], F1_BINS, color=colour, linestyle=dashes, linewidth=width, baseline=None)
    highest = shares.loc[shares["control"] == "none", "share"].max()
    if np.isnan(highest):
        nothing_scored(axes)
    axes.set(xlim=(0, 1), ylim=(0, 1 if np.isnan(highest) else 1.1 * float(highest)))


def _errors(axes: Axes, group: pd.DataFrame, spec: FigureSpec) -> None:
    axes.plot([0, 1], [0, 1], color="#C8C8C8", linewidth=0.7, zorder=1)
    true = group[group["control"] == "none"]
    for name in binarisers_of(spec):
        mark, mine = style.mark(name, spec.style), true[true["binariser"] == name]
        x, y = mine["false_positive_rate"], mine["true_positive_rate"]
        _dots(axes, x, y, mark.colour)
        if len(mine):
            means = ([np.average(rates, weights=mine["sampling_weight"])] for rates in (x, y))
            axes.plot(*means, **{**mark.line, "linestyle": "none"}, zorder=3)
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
