"""Fitting probes: which features tell a class, a logistic regression on them, and how well it ranks held-out documents."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from bsc.evaluation.bootstrap import Counts

Features = Float[np.ndarray, "documents features"]


class Probe(NamedTuple):
    """A fitted probe. features: the columns that it reads; scores: of the test documents, over 0 for the class."""

    features: Int[np.ndarray, " read"]
    scores: Float[np.ndarray, " test"]


def standardised_difference(features: Features, positive: Bool[np.ndarray, " documents"]) -> Float[np.ndarray, " features"]:
    """(mean in the class - mean outside) / √((variance in the class + variance outside) / 2), with n - 1 in the variances.

    0 for a feature that is the same everywhere, infinite for one that is constant on both sides and differs between them.
    """
    # Less the first document's, a feature that is the same everywhere is 0, whose mean and variance are not rounded.
    shifted = features.astype(np.float64) - features[:1]
    inside, outside = shifted[positive], shifted[~positive]
    difference = inside.mean(axis=0) - outside.mean(axis=0)
    spread = np.sqrt((inside.var(axis=0, ddof=1) + outside.var(axis=0, ddof=1)) / 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(difference == 0, 0.0, difference / spread))


def best_features(features: Features, positive: Bool[np.ndarray, " documents"], count: int) -> Int[np.ndarray, " read"]:
    """The `count` features that differ most, by the absolute standardised difference; ties go to the lowest index."""
    return np.argsort(-np.abs(standardised_difference(features, positive)), kind="stable")[:count]


def fit(
    features: Features, positive: Bool[np.ndarray, " documents"], train: Bool[np.ndarray, " documents"], count: int | None
) -> Probe:
    """A logistic regression on the best `count` features, or on all, chosen, scaled and fitted on the training documents alone.

    Both classes weigh alike; L2 with scikit-learn's strength, C = 1, on features of unit variance.
    """
    from sklearn.linear_model import LogisticRegression

    chosen = np.arange(features.shape[1]) if count is None else best_features(features[train], positive[train], count)
    read = features[:, chosen].astype(np.float64)
    mean, spread = read[train].mean(axis=0), read[train].std(axis=0)
    scaled = (read - mean) / np.where(spread == 0, 1.0, spread)
    model = LogisticRegression(class_weight="balanced", max_iter=2_000)
    model.fit(scaled[train], positive[train])
    return Probe(chosen, np.asarray(model.decision_function(scaled[~train])))


def auroc(scores: Float[np.ndarray, " test"], positive: Bool[np.ndarray, " test"], counts: Counts) -> Float[np.ndarray, " r"]:
    """For each resample the chance that a document of the class scores higher than another, ties by half; NaN without both."""
    above, below = scores[positive], scores[~positive]
    wins = (above[:, None] > below[None, :]) + 0.5 * (above[:, None] == below[None, :])
    inside, outside = counts[:, positive], counts[:, ~positive]
    pairs = inside.sum(axis=1) * outside.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(pairs == 0, np.nan, ((inside @ wins) * outside).sum(axis=1) / pairs))


def balanced_accuracy(
    scores: Float[np.ndarray, " test"], positive: Bool[np.ndarray, " test"], counts: Counts
) -> Float[np.ndarray, " r"]:
    """For each resample the mean of the shares of both classes that are on the right side of 0; NaN without both."""
    right = (scores > 0) == positive
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = [(counts[:, side] @ right[side]) / counts[:, side].sum(axis=1) for side in (positive, ~positive)]
    return np.asarray((shares[0] + shares[1]) / 2)


def mean_over_labels(values: Sequence[Float[np.ndarray, " r"]]) -> Float[np.ndarray, " r"]:
    """For each resample the mean of a measure over the labels, or over those that it has documents of; NaN without any."""
    by_label = np.stack(values)
    defined = ~np.isnan(by_label)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(defined, by_label, 0.0).sum(axis=0) / defined.sum(axis=0))


def split(labels: Sequence[str], share: float, seed: int) -> Bool[np.ndarray, " documents"]:
    """Which documents are for training: of each label, at random, all but a share `share`, and at least two on either side."""
    generator = np.random.default_rng(seed)
    names = np.asarray(labels)
    train = np.ones(len(names), dtype=bool)
    for label in sorted(set(labels)):
        places = generator.permutation(np.flatnonzero(names == label))
        train[places[: min(max(2, round(share * len(places))), len(places) - 2)]] = False
    return train
