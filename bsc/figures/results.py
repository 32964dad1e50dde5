"""What figures and tables read: metrics and scores of the coders that a spec names, and their means over seeds."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bsc import paths
from bsc.coders.binarisers.registry import in_order
from bsc.io import read_json
from bsc.paths import JOINT, NGRAM, CoderId
from bsc.stages import FigureSpec, coders_of

KIND = ["model", "hookpoint", "architecture", "binariser", "k"]
KEYS = [*KIND, "seed"]

METRICS = (
    "ce_increase",
    "relative_ce_increase",
    "accuracy_decrease",
    "fvu",
    "l0",
    "dead_fraction",
    "ultra_high_fraction",
    "ultra_high_share",
)
SCORES = ("unweighted", "weighted")
BOUNDS = ("dense_as_zero", "dense_as_one")
"""The weighted score with the latents too dense to be scored at F1 = 0, and at F1 = 1."""
PALE_BARS = "Pale bars: latents too dense to be scored taken at F1 = 0 to F1 = 1."
"""What a note says where `BOUNDS` are drawn."""

EFFECTIVE = "effective_sample_size"
"""Of the weighted score: see `bsc.autointerp.metrics`."""

UNPARSED, UNEXPLAINED = "unparsed_share", "latents_unexplained"
"""The share of the answers that could not be read, and how many scored latents have no explanation (`bsc.autointerp.score`)."""
_NEGLIGIBLE = 0.01

MEASURES = {"f1": "F1", "auroc": "AUROC"}
"""What scores are called, by the column of `scores.parquet` that they are means of."""

ABLATED, LINEAR = ("zero-ablated", "mean-ablated"), "linear"
"""What coders are compared with: the hooked module put to zero and to its mean, and to a linear map of its input."""

STATUSES = ("scored", "too_rare", "too_dense", "not_sampled")

SEEDS, BOOTSTRAP, NOTHING = "s.e.m. over seeds", "bootstrap 95%", ""
"""What `low` and `high` of a mean over seeds are."""


def binarisers_of(spec: FigureSpec) -> list[str]:
    """The binarisers and variants that a figure shows, in the registry's order."""
    return in_order(spec.labels)


def interval(name: str, found: Mapping[str, Any] | None) -> dict[str, float]:
    """`name`, `name_low` and `name_high` of a metric as the results hold it; NaN where it, or all of it, is null."""
    parts = {name: "value", f"{name}_low": "low", f"{name}_high": "high"}
    return {column: _number((found or {}).get(key)) for column, key in parts.items()}


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def measured(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """One `metrics.json` as columns: counts, the baseline's cross-entropy and accuracy, and each metric with its interval.

    `variance_left_out`: the share of the outputs' variance that is left out with position 0. NaN in joint evaluations.
    """
    columns: dict[str, Any] = {name: metrics[name] for name in ("sequences", "documents", "tokens", "ce")}
    columns |= {f"baseline_{name}": _number(metrics["baseline"][name]) for name in ("ce", "accuracy")}
    columns["variance_left_out"] = _number(metrics["variance_left_out"])
    for metric in METRICS:
        columns |= interval(metric, metrics.get(metric))
    return columns


def evaluations(spec: FigureSpec, results: Path, *, joint: bool = False) -> pd.DataFrame:
    """One row a coder: its keys and its evaluation's metrics. joint: evaluations of a model's hookpoints at once too."""
    return pd.DataFrame(
        {**vars(coder), **measured(read_json(results / coder.at(paths.EVALUATION) / "metrics.json"))}
        for coder in coders_of(spec.coders)
        if joint or coder.hookpoint != JOINT
    )


def references(spec: FigureSpec, results: Path) -> pd.DataFrame:
    """One row for each hookpoint and reference (`kind`): what the hooked module is worth, by the metrics of `evaluations`.

    A linear map is there where the figure has coders that read the module's input, as it does; an SAE reads the output.
    """
    rows = []
    for model, hookpoint in sorted({(block["model"], block["hookpoint"]) for block in spec.coders}):
        found = read_json(results / paths.REFERENCES.format(model=model) / "metrics.json")[hookpoint]
        kinds = (*ABLATED, LINEAR) if any(cell[1:] == (model, hookpoint) for cell in reading_input(spec)) else ABLATED
        rows += [{"kind": kind, "model": model, "hookpoint": hookpoint, **measured(found[kind])} for kind in kinds]
    return pd.DataFrame(rows)


def reading_input(spec: FigureSpec) -> list[tuple[str, str, str]]:
    """Each (architecture, model, hookpoint) of a figure whose coders read the module's input: all but the SAEs'."""
    blocks = [block for block in spec.coders if block["architecture"] != "sae"]
    return sorted({(block["architecture"], block["model"], block["hookpoint"]) for block in blocks})


def variants(coder: CoderId, spec: FigureSpec) -> list[str]:
    """What was interpreted of a coder: itself and, for the first seed of its kind, the controls that there are."""
    siblings = [other for other in coders_of(spec.coders) if _kind(other) == _kind(coder)]
    if coder.seed != min(other.seed for other in siblings):
        return ["trained"]
    return spec.variants[coder.binariser]


def _kind(coder: CoderId) -> list[object]:
    return [getattr(coder, name) for name in KIND]


def scores(spec: FigureSpec, results: Path) -> pd.DataFrame:
    """One row for each coder, variant, explainer, scorer and control: its keys, `SCORES` with intervals, `BOUNDS`, and counts.

    `latents_STATUS` counts latents, `firing_share_STATUS` is their share of all firings, for each of `STATUSES`. Undefined
    scores (no latent is scored) are NaN; so are `UNPARSED` and `UNEXPLAINED` where the stage did not count them.
    """
    rows = []
    for coder in coders_of(spec.coders):
        for variant in variants(coder, spec) if coder.hookpoint != JOINT else []:
            for explainer in spec.explainers:
                folder = results / coder.at(paths.interpreted(paths.SCORES, explainer), variant=variant)
                keys = {**vars(coder), "variant": variant, "explainer": explainer}
                rows += [{**keys, **row} for row in _scored(read_json(folder / "summary.json"))]
    return pd.DataFrame(rows)


def _scored(summary: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    counts = {f"latents_{name}": summary["latents"][name] for name in STATUSES}
    counts |= {f"firing_share_{name}": summary["firing_shares"][name] for name in STATUSES}
    counts[UNEXPLAINED] = _number(summary.get("unexplained"))
    for scorer, controls in summary["scorers"].items():
        for control, found in controls.items():
            row: dict[str, Any] = {"scorer": scorer, "control": control, **counts}
            for score in SCORES:
                row |= interval(score, found[score])
            row[UNPARSED] = _number(found.get(UNPARSED))
            yield row | {name: _number(found["weighted"][name]) for name in (*BOUNDS, EFFECTIVE)}


def over_seeds(frame: pd.DataFrame, by: list[str], column: str) -> pd.DataFrame:
    """One row a group: `seeds` with a value, `value` (their mean), `low`, `high`, and `interval`, what these two are.

    Over two or more seeds: the mean less and plus its standard error, s / sqrt(n) with n - 1 in s. Of one seed: its own
    bootstrap interval, from `column_low` and `column_high`, if it has one. `own_low` and `own_high` are the means of these
    ends over the seeds: seeds are evaluated on the same text, whose share of the uncertainty their standard error does not
    show (*ours*). Without any: NaN.
    """
    rows = [
        {**dict(zip(by, key, strict=True)), **_mean(group.dropna(subset=[column]), column)}
        for key, group in frame.groupby(by, sort=True)
    ]
    return pd.DataFrame(rows, columns=[*by, "seeds", "value", "low", "high", "interval", "own_low", "own_high"])


PREFERRED = ("fuzzing", "detection")


def preferred(table: pd.DataFrame) -> str:
    """The scorer that a figure of one shows: the first of `PREFERRED` in a table of `scores`, which always has one of them."""
    return next(name for name in PREFERRED if (table["scorer"] == name).any())


def own(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of a table of `scores` that are of trained coders under their own explanations: no controls."""
    return table[(table["variant"] == "trained") & (table["control"] == "none")]


def interpreted(spec: FigureSpec, table: pd.DataFrame) -> str:
    """Of a figure's note: who explained, how many latents are scored, how they weigh, what share of firings is not.

    And how much could not be read, where that is over a hundredth of the answers or of the latents.
    table: of `scores`; controls do not count.
    """
    shown = own(table)
    left = 100 * (1 - shown["firing_share_scored"])
    sampled = ", each weighted by the inverse of its chance to be sampled" if shown["latents_not_sampled"].any() else ""
    return (
        f"{explained(spec)}; n\u00a0=\u00a0{span(shown['latents_scored'])} scored latents a coder{sampled}; "
        f"those left unscored (too rare, too dense or not sampled) have {span(left.round())}% of all firings.{_unread(shown)}"
    )


def _unread(shown: pd.DataFrame) -> str:
    """What could not be read of an explainer's replies, if it is not negligible."""
    share, without = shown[UNPARSED].fillna(0), shown[UNEXPLAINED].fillna(0)
    if not (share > _NEGLIGIBLE).any() and not (without > _NEGLIGIBLE * shown["latents_scored"]).any():
        return ""
    return (
        f" Counted as wrong: {span((100 * share).round())}% of the answers, which could not be read; "
        f"{span(without)} scored latents a coder have no explanation."
    )


def evaluated_on(table: pd.DataFrame) -> str:
    """In words, how much text the coders of a table of `evaluations` were evaluated on."""
    counts = ", ".join(f"{span(table[unit])} {unit}" for unit in ("documents", "sequences", "tokens"))
    return f"n\u00a0=\u00a0{counts}"


def explained(spec: FigureSpec) -> str:
    """Who made the explanations that a figure is about, in words."""
    names = ["token patterns (ngram, no LLM)" if name == NGRAM else name for name in spec.explainers]
    return f"Explained by {' and '.join(names)}"


def _mean(group: pd.DataFrame, column: str) -> dict[str, Any]:
    values = group[column].to_numpy(dtype=np.float64)
    low, high = (float(group[f"{column}_{end}"].mean()) for end in ("low", "high"))
    own = {"own_low": low, "own_high": high}
    if len(values) == 0:
        return {"seeds": 0, "value": np.nan, "low": np.nan, "high": np.nan, "interval": NOTHING, **own}
    if len(values) == 1:
        kind = NOTHING if np.isnan(low) else BOOTSTRAP
        return {"seeds": 1, "value": values[0], "low": low, "high": high, "interval": kind, **own}
    mean, error = values.mean(), values.std(ddof=1) / np.sqrt(len(values))
    return {"seeds": len(values), "value": mean, "low": mean - error, "high": mean + error, "interval": SEEDS, **own}


def bars(points: pd.DataFrame, unit: str, interval: str = BOOTSTRAP, named: Callable[[pd.DataFrame], str] | None = None) -> str:
    """Sentences of a figure's note: of how many seeds the points of `over_seeds` are, what their bars are, and what is behind.

    unit: what the interval of a single seed is over, in the plural. named: whose some points are, said where others are of more
    or fewer seeds.
    """
    several, single = (points[points["interval"] == one] for one in (SEEDS, interval))
    whose = named if named is not None and len(several) and len(single) else None
    who = ["" if whose is None else f" ({whose(some)})" for some in (several, single)]
    parts = [f"mean ± s.e.m. over {span(several['seeds'])} seeds{who[0]}"] if len(several) else []
    parts += [f"one seed with its {interval} interval over {unit}{who[1]}"] if len(single) else []
    said = ", or ".join(parts)
    behind = f" Thin: the mean of the seeds' {interval} intervals over {unit}." if several["own_low"].notna().any() else ""
    return f"{said[:1].upper()}{said[1:]}.{behind}" if said else ""


def span(numbers: pd.Series) -> str:
    """Counts in words: `200`, or `152 to 200` where they differ."""
    low, high = int(numbers.min()), int(numbers.max())
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
