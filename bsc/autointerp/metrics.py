"""From answers to a latent's metrics, and from latents' F1 to a coder's scores (paper, Sec. 4 and Fig. 3). No torch."""

from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from bsc.autointerp.explainers.base import UNPARSED
from bsc.autointerp.samples import NOT_SAMPLED, SCORED, STATUSES, TOO_DENSE
from bsc.evaluation.bootstrap import Interval, bootstrap_ratios

OUTCOME = {
    **dict.fromkeys(("true_positive", "true_negative", "false_positive", "false_negative", "unparsed"), "int64"),
    **dict.fromkeys(("precision", "recall", "f1", "f1_parsed", "balanced_accuracy", "auroc"), "float64"),
}
"""The columns of a latent's outcome, with their types."""
COUNTS = [name for name, kind in OUTCOME.items() if kind == "int64"]
_UNDEFINED = Interval(np.nan, np.nan, np.nan).as_json()


def outcome(
    firing: Bool[np.ndarray, " questions"],
    answers: Int[np.ndarray, " questions"],
    probabilities: Float[np.ndarray, " questions"] | None = None,
) -> dict[str, float]:
    """One latent's metrics from the truth and the answers to its questions. probabilities: of yes, NaN where there is none.

    An answer that could not be read counts as wrong: a false negative or a false positive (*ours*; the authors drop it, as
    `f1_parsed` does). Precision, recall and F1 are 0 when there is no true positive. `auroc`: see there.
    """
    parsed = answers != UNPARSED
    yes = np.where(parsed, answers == 1, ~firing)
    unparsed = len(firing) - int(np.count_nonzero(parsed))
    true_positive = int(np.count_nonzero(yes & firing))
    false_positive = int(np.count_nonzero(yes)) - true_positive
    false_negative = int(np.count_nonzero(firing)) - true_positive
    true_negative = len(firing) - true_positive - false_positive - false_negative
    recall, specificity = _share(true_positive, false_negative), _share(true_negative, false_positive)
    wrong = false_positive + false_negative
    return {
        "true_positive": true_positive,
        "true_negative": true_negative,
        "false_positive": false_positive,
        "false_negative": false_negative,
        "unparsed": unparsed,
        "precision": _share(true_positive, false_positive),
        "recall": recall,
        "f1": _share(2 * true_positive, wrong),
        "f1_parsed": _share(2 * true_positive, wrong - unparsed),
        "balanced_accuracy": (recall + specificity) / 2,
        "auroc": float("nan") if probabilities is None else auroc(firing, probabilities),
    }


def auroc(firing: Bool[np.ndarray, " questions"], probabilities: Float[np.ndarray, " questions"]) -> float:
    """How often a firing window has a higher probability than a silent one, ties counting half.

    A question without one (NaN) counts as wrong, like its answer. NaN where no question has one, or all are of one kind.
    """
    known = ~np.isnan(probabilities)
    if not known.any() or firing.all() or not firing.any():
        return float("nan")
    values = np.where(known, probabilities, np.where(firing, -np.inf, np.inf))
    yes, no = values[firing][:, None], values[~firing][None, :]
    return float((yes > no).mean() + (yes == no).mean() / 2)


def _share(part: int, rest: int) -> float:
    return part / (part + rest) if part else 0.0


def frequency_weighted(f1: "pd.Series[float]", firings: "pd.Series[int]", sampling_weight: "pd.Series[float]") -> float:
    """Mean F1 of a coder's latents, each weighted by how often it fires (paper, Fig. 3): Σ w f F1 / Σ w f.

    f1: per latent, in [0, 1]. firings: f, tokens on which the latent fired in the cache. sampling_weight: w, of `census`; with
    it the score is Hájek's estimate of that of all eligible latents. All have one index.
    Raises ValueError when no scored latent ever fired: the score is then undefined, not zero.
    """
    weights = sampling_weight * firings
    total = weights.sum()
    if total == 0:
        raise ValueError("no scored latent fired in the cache; was the cache built for this coder?")
    return float((f1 * weights).sum() / total)


def effective_sample_size(weights: "pd.Series[float]") -> float:
    """Of how many latents with equal weights a mean would be as uncertain: (Σ w)² / Σ w² (Kish 1965)."""
    return float(weights.sum() ** 2 / (weights**2).sum())


def dense_band(weighted: float, firings_by_status: "pd.Series[int]") -> dict[str, float]:
    """The frequency-weighted score if all too-dense latents had an F1 (or an AUROC) of 0, and of 1 (*ours*).

    weighted: the score of the scored latents, which stands for those that were eligible and not sampled too.
    """
    eligible = int(firings_by_status.get(SCORED, 0)) + int(firings_by_status.get(NOT_SAMPLED, 0))
    dense = int(firings_by_status.get(TOO_DENSE, 0))
    share = dense / (eligible + dense)
    return {"dense_as_zero": weighted * (1 - share), "dense_as_one": weighted * (1 - share) + share}


def coder_scores(
    scores: pd.DataFrame, firings_by_status: "pd.Series[int]", *, resamples: int, seed: int, measure: str = "f1"
) -> dict[str, Any]:
    """The unweighted and the frequency-weighted score of one scorer under one control, with 95% intervals over latents.

    scores: firings, sampling_weight and the column that `measure` names, a row a latent. With no row, everything is null. The
    weighted score has its `effective_sample_size` beside it. Scores are Hájek estimates of those of all eligible latents.
    Intervals resample the scored latents with their weights and with replacement. Whether all eligible latents are scored or
    some, they take these for a sample of more: with residuals e, a resampled sum has the variance Σ (e/π)² over what is drawn,
    in expectation Σ e² + Σ e² (1-π)/π over all that is eligible, the first as if all were scored, the second for the draw.
    """
    if scores.empty:
        beside = dict.fromkeys(("dense_as_zero", "dense_as_one", "effective_sample_size"))
        return {"unweighted": _UNDEFINED, "weighted": {**_UNDEFINED, **beside}}
    values, firings, weights = scores[measure], scores["firings"], scores["sampling_weight"]
    sums = [(values * weight, weight) for weight in (weights, weights * firings)]
    unweighted, weighted = bootstrap_ratios(sums, resamples=resamples, seed=seed)
    return {
        "unweighted": unweighted.as_json(),
        "weighted": {
            **weighted.as_json(),
            **dense_band(frequency_weighted(values, firings, weights), firings_by_status),
            "effective_sample_size": effective_sample_size(weights * firings),
        },
    }


def unparsed_share(scores: pd.DataFrame) -> float | None:
    """The share of the answers that could not be read, of a scorer's rows of `outcome`; None where nothing was asked."""
    asked = int(scores[[name for name in COUNTS if name != "unparsed"]].sum().sum())
    return int(scores["unparsed"].sum()) / asked if asked else None


def latent_counts(latents: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """`latents`, how many have each status, and `firing_shares`, their shares of all firings (0 where nothing fires).

    latents: columns status and firings, all latents of a coder.
    """
    groups = {name.replace(" ", "_"): latents.loc[latents["status"] == name, "firings"] for name in STATUSES}
    total = max(int(latents["firings"].sum()), 1)
    return {
        "latents": {name: len(group) for name, group in groups.items()},
        "firing_shares": {name: float(group.sum() / total) for name, group in groups.items()},
    }
