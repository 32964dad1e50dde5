"""Which latents are scored, and the windows that explain and test them (paper, Sec. 4). No torch."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from bsc.autointerp.firings import LatentCache
from bsc.autointerp.pareto import inclusion_probabilities, pareto_sample
from bsc.autointerp.windows import DECILES, EXPLANATION, TEST, FiringWindows, Grid, activations, begun
from bsc.stages import WindowsSpec

SCORED, TOO_RARE, TOO_DENSE, NOT_SAMPLED = "scored", "too rare", "too dense", "not sampled"
STATUSES = (SCORED, TOO_RARE, TOO_DENSE, NOT_SAMPLED)

_EXPLAIN, _TEST, _PICK = 0, 1, 2
"""Streams of random numbers: a latent's explanation windows do not depend on what else is drawn."""


@dataclass(frozen=True)
class Sample:
    """Windows of one latent: those where it fires, with its activations and deciles, and those where it never does."""

    latent: int
    firing: Int[np.ndarray, " firing"]
    deciles: Int[np.ndarray, " firing"]
    activations: Float[np.ndarray, "firing window"]
    silent: Int[np.ndarray, " silent"]


def census(cache: LatentCache, grid: Grid, spec: WindowsSpec) -> pd.DataFrame:
    """Every latent's status, and what decides it.

    Columns: latent, status, firings (tokens of the cache), firing_windows (of both halves and of neither),
    explanation_windows, test_windows (firing windows of that half), silent_windows (windows of the test half in which it
    never fires) and sampling_weight. The first that holds is the status: `too rare`, fewer than `minimum_windows` firing
    windows; `too dense`, fewer than `test_silent` silent ones; `too rare`, too few firing windows in a half for its sample;
    `not sampled`, not among the `spec.latents` that are drawn of more (see `inclusion_probabilities`); `scored`.

    sampling_weight: how many eligible latents a scored one stands for, 1/π, and 0 of the others. Sums over latents that weigh
    by it estimate those over all eligible ones (Horvitz and Thompson 1952), ratios of such sums their ratios (Hájek 1971).
    A draw goes by a random number that depends on the seed and the latent's index alone: coders whose latents fire alike
    have the same ones scored.
    """
    sides = grid.halves % 3
    windows = (begun(cache, latent, grid.window)[0] for latent in range(len(cache.firings)))
    counts = np.stack([np.bincount(sides[firing], minlength=3) for firing in windows])
    table = pd.DataFrame(
        {
            "latent": np.arange(len(counts), dtype=np.int64),
            "firings": cache.firings,
            "firing_windows": counts.sum(1),
            "explanation_windows": counts[:, EXPLANATION],
            "test_windows": counts[:, TEST],
            "silent_windows": len(grid.of(TEST)) - counts[:, TEST],
        }
    )
    table.insert(1, "status", _status(table, spec))
    return _drawn(table, spec)


def _status(table: pd.DataFrame, spec: WindowsSpec) -> list[str]:
    """Of every latent, where all eligible ones are scored."""
    few = (table["explanation_windows"] < spec.explanation_windows) | (table["test_windows"] < spec.test_firing)
    conditions = [table["firing_windows"] < spec.minimum_windows, table["silent_windows"] < spec.test_silent, few]
    return list(np.select(conditions, [TOO_RARE, TOO_DENSE, TOO_RARE], SCORED))


def _drawn(table: pd.DataFrame, spec: WindowsSpec) -> pd.DataFrame:
    """The table with `sampling_weight`, and `not sampled` for eligible latents that are not drawn."""
    eligible = (table["status"] == SCORED).to_numpy()
    weights = eligible.astype(np.float64)
    if spec.latents is not None and eligible.sum() > spec.latents:
        numbers = np.random.default_rng([spec.seed, _PICK]).random(len(table))
        probabilities = inclusion_probabilities(table["firings"].to_numpy()[eligible], spec.latents)
        weights[eligible] = pareto_sample(probabilities, numbers[eligible], spec.latents) / probabilities
    left = eligible & (weights == 0)
    return table.assign(status=table["status"].mask(left, NOT_SAMPLED), sampling_weight=weights)


def sample_for_explanation(cache: LatentCache, grid: Grid, spec: WindowsSpec, latent: int) -> Sample:
    """Firing windows of the explanation half, an equal number of each decile, and as many silent ones (or all there are)."""
    sizes = spec.explanation_windows, spec.explanation_windows
    return _sample(cache, grid, spec, latent, EXPLANATION, sizes, _EXPLAIN)


def sample_for_test(cache: LatentCache, grid: Grid, spec: WindowsSpec, latent: int) -> Sample:
    """Firing windows of the test half, an equal number of each decile, and windows of it in which the latent never fires."""
    return _sample(cache, grid, spec, latent, TEST, (spec.test_firing, spec.test_silent), _TEST)


def _sample(
    cache: LatentCache, grid: Grid, spec: WindowsSpec, latent: int, half: int, sizes: tuple[int, int], stream: int
) -> Sample:
    generator = np.random.default_rng([spec.seed, stream, latent])
    here = FiringWindows.of(cache, latent, spec.window).within(grid, half)
    deciles = here.deciles(generator)
    each = sizes[0] // DECILES
    totals = np.bincount(deciles, minlength=DECILES)
    drawn = [generator.choice(total, each, replace=False) for total in totals.tolist()]
    begins = np.repeat(totals.cumsum() - totals, each)
    chosen = np.argsort(deciles, kind="stable")[begins + np.concatenate(drawn)]
    quiet = grid.halves == half
    quiet[here.windows] = False
    silent = np.flatnonzero(quiet)
    silent = silent[generator.choice(len(silent), min(sizes[1], len(silent)), replace=False)]
    windows = here.windows[chosen]
    return Sample(latent, windows, deciles[chosen], activations(cache, latent, windows, spec.window), silent)
