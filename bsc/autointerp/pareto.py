"""Samples of latents of a fixed size with unequal chances, for scores that count latents and scores that count firings."""

import numpy as np
from jaxtyping import Bool, Float, Int


def inclusion_probabilities(firings: Int[np.ndarray, " latents"], size: int) -> Float[np.ndarray, " latents"]:
    """The chance of each latent to be in a sample of `size`, half by count and half by firings (*ours*). They sum to `size`.

    firings: of N > `size` latents, f_i, not all 0. Chances are min(1, c (1/N + f_i / Σf) / 2): those that reach 1 are taken for
    certain and the rest scaled anew, until none does (Särndal, Swensson and Wretman 1992, Sec. 3.6.2). As c is at least
    `size`, the weight 1/π is at most 2N / `size`, twice that of a uniform sample, and f/π at most 2 Σf / `size` of what is
    not certain.
    """
    shares = (1 / len(firings) + firings / firings.sum()) / 2
    certain = np.zeros(len(firings), bool)
    while True:
        probabilities = np.where(certain, 1.0, (size - certain.sum()) * shares / shares[~certain].sum())
        further = ~certain & (probabilities >= 1)
        if not further.any():
            return probabilities
        certain |= further


def pareto_sample(
    probabilities: Float[np.ndarray, " latents"], numbers: Float[np.ndarray, " latents"], size: int
) -> Bool[np.ndarray, " latents"]:
    """Which latents are in a Pareto sample (Rosén 1997): the `size` smallest of (u/(1-u)) / (π/(1-π)).

    probabilities: π, in (0, 1] and with a sum of `size`; the chances of the sample, to a good approximation, and exactly where
    π is 1. numbers: u, uniform in [0, 1), a latent's own: where few π differ, samples by the same numbers differ little.
    """
    ranks = numbers * (1 - probabilities) / ((1 - numbers) * probabilities)
    taken = np.zeros(len(ranks), bool)
    taken[np.argsort(ranks, kind="stable")[:size]] = True
    return taken
