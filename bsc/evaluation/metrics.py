"""From per-sequence tables and firing counts to metrics with 95% intervals. No torch in here.

Intervals: over documents by the bootstrap, for `ce_increase`, `relative_ce_increase`, `accuracy_decrease`, `fvu` (the mean of y
held at its value over the whole set) and `l0`. All sequences of a document are resampled together, for they are alike, and so
are the spliced and the unspliced run of each. Over latents by Wilson's formula for `dead_fraction` and `ultra_high_fraction`,
and by the bootstrap for `ultra_high_share`.
"""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from bsc.evaluation.bootstrap import Interval, bootstrap_ratio, wilson

ULTRA_HIGH = 0.1
"""The firing rate above which a latent is ultra-high-frequency (paper, Fig. 16)."""


def counts(sequences: pd.DataFrame) -> dict[str, int]:
    """How many sequences there are, and how many documents they are parts of."""
    return {"sequences": len(sequences), "documents": sequences["document"].nunique()}


def by_document(
    sequences: pd.DataFrame, numerators: ArrayLike, denominators: ArrayLike
) -> tuple["pd.Series[float]", "pd.Series[float]"]:
    """What each sequence adds above and below the line of a ratio, summed over the sequences of each document."""
    columns = np.stack([np.asarray(one, dtype=np.float64) for one in (numerators, denominators)], axis=1)
    sums = pd.DataFrame(columns).groupby(sequences["document"].to_numpy()).sum()
    return sums[0], sums[1]


def summary(sequences: pd.DataFrame) -> dict[str, Any]:
    """Counts, and the means over predicted tokens of cross-entropy (nats) and top-1 accuracy."""
    tokens = sequences["tokens"]
    means = {name: float((sequences[name] * tokens).sum() / tokens.sum()) for name in ("ce", "accuracy")}
    return {**counts(sequences), "tokens": int(tokens.sum()), **means}


def language_metrics(spliced: pd.DataFrame, baseline: pd.DataFrame, *, resamples: int, seed: int) -> dict[str, Any]:
    """What splicing costs the model, against the unspliced model on the same sequences (paper, Figs. 1 and 6)."""
    tokens = baseline["tokens"].to_numpy()
    losses = {name: table["ce"].to_numpy() * tokens for name, table in (("spliced", spliced), ("baseline", baseline))}
    fewer = (baseline["accuracy"].to_numpy() - spliced["accuracy"].to_numpy()) * tokens
    more = losses["spliced"] - losses["baseline"]
    ratios = {
        "ce_increase": (more, tokens),
        "relative_ce_increase": (more, losses["baseline"]),
        "accuracy_decrease": (fewer, tokens),
    }
    found = {
        name: bootstrap_ratio(*by_document(spliced, *ratio), resamples=resamples, seed=seed) for name, ratio in ratios.items()
    }
    unspliced = summary(baseline)
    return {**summary(spliced), **_as_json(found), "baseline": {name: unspliced[name] for name in ("ce", "accuracy")}}


def fidelity_metrics(sequences: pd.DataFrame, *, resamples: int, seed: int) -> dict[str, Any]:
    """`fvu`: mean squared error over mean per-dimension variance of y, over the whole set without position 0."""
    sums = by_document(sequences, sequences["squared_error"], sequences["squared_deviation"])
    return _as_json({"fvu": bootstrap_ratio(*sums, resamples=resamples, seed=seed)})


def frequency_metrics(sequences: pd.DataFrame, latents: pd.DataFrame, *, resamples: int, seed: int) -> dict[str, Any]:
    """`l0` (firings a token), and the shares of latents that never fire and that fire on over 10% of the tokens.

    `ultra_high_share` is the latter's share of all firings; null when nothing fires.
    """
    firings = latents["firings"].to_numpy()
    surge = latents["rate"].to_numpy() > ULTRA_HIGH
    sums = by_document(sequences, sequences["firings"], sequences["rows"])
    found = {
        "l0": bootstrap_ratio(*sums, resamples=resamples, seed=seed),
        "dead_fraction": wilson(int((firings == 0).sum()), len(firings)),
        "ultra_high_fraction": wilson(int(surge.sum()), len(firings)),
        "ultra_high_share": bootstrap_ratio(firings * surge, firings, resamples=resamples, seed=seed),
    }
    return _as_json(found)


def _as_json(intervals: dict[str, Interval]) -> dict[str, Any]:
    return {name: interval.as_json() for name, interval in intervals.items()}
