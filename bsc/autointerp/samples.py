"""Which latents are scored, and the windows that explain and test them (paper, Sec. 4). No torch."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from bsc.autointerp.firings import LatentCache
from bsc.autointerp.windows import DECILES, EXPLANATION, TEST, FiringWindows, Grid, activations
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
    explanation_windows, test_windows (firing windows of that half) and silent_windows (windows of the test half in which it
    never fires). The first that holds is the status: `too rare`, fewer than `minimum_windows` firing windows; `too dense`,
    fewer than `test_silent` silent ones; `too rare`, too few firing windows in a half for its sample; `not sampled`, beyond
    `spec.latents` latents drawn at random; `scored`.
    """
    counts = np.stack([_windows_by_half(cache, grid, latent) for latent in range(len(cache.firings))])
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
    return table


def _windows_by_half(cache: LatentCache, grid: Grid, latent: int) -> Int[np.ndarray, "3"]:
    """In how many windows a latent fires: of the explanation half, of the test half, of neither."""
    halves = grid.halves[FiringWindows.of(cache, latent, grid.window).windows]
    return np.bincount(halves % 3, minlength=3)


def _status(table: pd.DataFrame, spec: WindowsSpec) -> list[str]:
    few = (table["explanation_windows"] < spec.explanation_windows) | (table["test_windows"] < spec.test_firing)
    conditions = [table["firing_windows"] < spec.minimum_windows, table["silent_windows"] < spec.test_silent, few]
    status = np.select(conditions, [TOO_RARE, TOO_DENSE, TOO_RARE], SCORED).astype(object)
    eligible = np.flatnonzero(status == SCORED)
    if spec.latents is not None and len(eligible) > spec.latents:
        status[np.random.default_rng([spec.seed, _PICK]).permutation(eligible)[spec.latents :]] = NOT_SAMPLED
    return list(status)


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
    chosen = np.concatenate(
        [generator.choice(np.flatnonzero(deciles == decile), each, replace=False) for decile in range(DECILES)]
    )
    quiet = grid.halves == half
    quiet[here.windows] = False
    silent = generator.choice(np.flatnonzero(quiet), min(sizes[1], int(quiet.sum())), replace=False)
    windows = here.windows[chosen]
    return Sample(latent, windows, deciles[chosen], activations(cache, latent, windows, spec.window), silent)
