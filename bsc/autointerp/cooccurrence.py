"""Which latents fire in the same windows. No torch.

Sparse throughout: what is held is each (latent, window) pair in which the latent fires, two bytes for M up to 65,536, and a
latent's neighbours are counted when they are asked for; nothing is latents x latents.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int
from numpy.typing import NDArray

from bsc.autointerp.firings import LatentCache
from bsc.autointerp.windows import EXPLANATION, FiringWindows, Grid

_AT_ONCE = 1 << 22
"""Pairs that are gathered at a time."""


@dataclass(frozen=True)
class Cooccurrence:
    """The latents that fire in each window of the explanation half: those of its i-th are in `starts[i]:starts[i+1]`.

    places: of each window of the grid in that half. totals: in how many windows of that half each latent fires.
    """

    cache: LatentCache
    grid: Grid
    places: Int[np.ndarray, " windows"]
    starts: Int[np.ndarray, " half+1"]
    latents: Int[np.ndarray, " pairs"]
    totals: Int[np.ndarray, " latents"]

    @classmethod
    def of(cls, cache: LatentCache, grid: Grid) -> "Cooccurrence":
        """From a cache. Counts every window first, then fills: two passes over the cache, and no sorting."""
        places = np.cumsum(grid.halves == EXPLANATION) - 1
        count = len(cache.firings)
        sizes = np.zeros(int((grid.halves == EXPLANATION).sum()), np.int64)
        totals = np.zeros(count, np.int64)
        for latent in range(count):
            here = _places_of(cache, grid, places, latent)
            sizes[here] += 1
            totals[latent] = len(here)
        starts = np.concatenate([[0], np.cumsum(sizes)])
        latents = np.empty(starts[-1], np.min_scalar_type(max(count - 1, 0)))
        ends = starts[:-1].copy()
        for latent in range(count):
            here = _places_of(cache, grid, places, latent)
            latents[ends[here]] = latent
            ends[here] += 1
        return cls(cache, grid, places, starts, latents, totals)

    def shared(self, latent: int) -> Int[np.ndarray, " latents"]:
        """In how many windows of the explanation half each latent fires together with one of them."""
        here = _places_of(self.cache, self.grid, self.places, latent)
        sizes = self.starts[here + 1] - self.starts[here]
        parts = np.array_split(np.arange(len(here)), int(sizes.sum()) // _AT_ONCE + 1)
        counts = np.zeros(len(self.totals), np.int64)
        for part in parts:
            counts += np.bincount(self.latents[_ranges(self.starts[here[part]], sizes[part])], minlength=len(counts))
        return counts

    def neighbours(self, latent: int) -> Int[np.ndarray, " neighbours"]:
        """The latents that share a window with one, by the Jaccard index of their windows, largest first.

        |A ∩ B| / |A ∪ B|, so a latent that fires everywhere is no neighbour of all; ties go to the lowest index.
        """
        shared = self.shared(latent)
        shared[latent] = 0
        others = np.flatnonzero(shared)
        jaccard = shared[others] / (self.totals[others] + self.totals[latent] - shared[others])
        return np.asarray(others[np.argsort(-jaccard, kind="stable")])


def _places_of(cache: LatentCache, grid: Grid, places: NDArray[np.int64], latent: int) -> Int[np.ndarray, " firing"]:
    """Where the windows of the explanation half in which a latent fires stand in that half."""
    return np.asarray(places[FiringWindows.of(cache, latent, grid.window).within(grid, EXPLANATION).windows])


def _ranges(starts: Int[np.ndarray, " ranges"], sizes: Int[np.ndarray, " ranges"]) -> Int[np.ndarray, " total"]:
    """`start, start + 1, ...` of each range, joined."""
    ends = np.cumsum(sizes)
    return np.repeat(starts - ends + sizes, sizes) + np.arange(ends[-1] if len(ends) else 0)
