"""Windows of tokens, in two halves that share no document, and where one latent fires in them (paper, Sec. 4). No torch.

A fixed grid cuts each context into windows. Documents are split in two halves first, one for explanations and one for tests
(*ours*: in the authors' code explanation and test windows overlap); a window belongs to a half if all its tokens do, and one
that crosses documents of both belongs to none.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from bsc.autointerp.firings import LatentCache
from bsc.corpus.store import TokenStore
from bsc.errors import UserError

EXPLANATION, TEST, NEITHER = 0, 1, -1
DECILES = 10


@dataclass(frozen=True)
class Grid:
    """The windows of a token store. halves: EXPLANATION, TEST or NEITHER, for each window."""

    tokens: Int[np.ndarray, "windows window"]
    halves: Int[np.ndarray, " windows"]
    context: int

    @classmethod
    def cut(cls, store: TokenStore, window: int, seed: int) -> "Grid":
        """Windows of `window` tokens, which must divide the context. seed: of the split of documents."""
        if store.context % window:
            raise UserError(
                f"windows of {window} tokens do not divide contexts of {store.context}",
                where="autointerp.window",
                fix="choose a divisor of `corpus.context`",
            )
        tokens = np.asarray(store.tokens).reshape(-1, window)
        sides = halves_of(np.asarray(store.documents), seed).reshape(-1, window)
        first = sides[:, 0]
        whole = (sides == first[:, None]).all(1)
        return cls(tokens, np.where(whole, first, NEITHER).astype(np.int8), store.context)

    @property
    def window(self) -> int:
        """Tokens in a window."""
        return int(self.tokens.shape[1])

    def of(self, half: int) -> Int[np.ndarray, " windows"]:
        """The windows of a half, ascending."""
        return np.flatnonzero(self.halves == half)

    def check(self, cache: LatentCache) -> None:
        """Raise UserError unless the cache was made from this grid's tokens."""
        if (cache.facts["rows"], cache.facts["context"]) != (self.tokens.size, self.context):
            raise UserError(
                f"the cache covers {cache.facts['rows']} tokens in contexts of {cache.facts['context']}, and there are "
                f"{self.tokens.size} in contexts of {self.context}",
                where=str(cache.folder),
                fix="make the latent cache again from activations of these tokens",
            )


def halves_of(documents: Int[np.ndarray, "*tokens"], seed: int) -> Int[np.ndarray, "*tokens"]:
    """EXPLANATION or TEST for each token, by its document alone.

    Documents are taken in the order of a seeded hash, and each goes to the half that has fewer tokens so far: a few long
    documents then leave neither half short.
    """
    ids, inverse, lengths = np.unique(documents, return_inverse=True, return_counts=True)
    sides = np.empty(len(ids), np.int8)
    totals = [0, 0]
    for place in np.argsort(_hash(ids, seed), kind="stable"):
        side = EXPLANATION if totals[EXPLANATION] <= totals[TEST] else TEST
        sides[place] = side
        totals[side] += int(lengths[place])
    return sides[inverse].reshape(documents.shape)


def _hash(ids: NDArray[np.integer], seed: int) -> NDArray[np.uint64]:
    """SplitMix64 of each id under a seed."""
    with np.errstate(over="ignore"):
        mixed = ids.astype(np.uint64) + np.uint64(seed + 1) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(mixed ^ (mixed >> np.uint64(31)))


def begun(cache: LatentCache, latent: int, window: int) -> tuple[Int[np.ndarray, " firing"], Int[np.ndarray, " firing"]]:
    """The windows of `window` tokens in which a latent fires, ascending, and which of its firings is the first in each."""
    windows = cache.of(latent)[0] // window
    first = np.ones(len(windows), bool)
    first[1:] = windows[1:] != windows[:-1]
    starts = np.flatnonzero(first)
    return windows[starts], starts


@dataclass(frozen=True)
class FiringWindows:
    """The windows in which a latent fires, ascending, each with its maximum activation."""

    windows: Int[np.ndarray, " firing"]
    maxima: Float[np.ndarray, " firing"]

    @classmethod
    def of(cls, cache: LatentCache, latent: int, window: int) -> "FiringWindows":
        """The firing windows of a latent in a grid of `window` tokens."""
        windows, starts = begun(cache, latent, window)
        values = cache.of(latent)[1]
        maxima = np.maximum.reduceat(values, starts) if len(starts) else np.zeros(0, np.float32)
        return cls(windows, maxima)

    def within(self, grid: Grid, half: int) -> "FiringWindows":
        """Those of one half."""
        kept = grid.halves[self.windows] == half
        return FiringWindows(self.windows[kept], self.maxima[kept])

    def deciles(self, generator: np.random.Generator) -> Int[np.ndarray, " firing"]:
        """0 (weakest) to 9 (strongest), by the rank of the maximum; ties in random order, so all-equal is uniform.

        A binary latent's windows are all ties. With n windows, a decile has n/10 of them, rounded down or up.
        """
        order = np.lexsort((generator.permutation(len(self.maxima)), self.maxima))
        ranks = np.empty(len(order), np.int64)
        ranks[order] = np.arange(len(order))
        return ranks * DECILES // max(len(ranks), 1)


def activations(
    cache: LatentCache, latent: int, windows: Int[np.ndarray, " sampled"], window: int
) -> Float[np.ndarray, "sampled window"]:
    """A latent's activation on each token of some windows, 0 where it does not fire."""
    rows, values = cache.of(latent)
    begins, ends = np.searchsorted(rows, windows * window), np.searchsorted(rows, (windows + 1) * window)
    counts = ends - begins
    lines = np.repeat(np.arange(len(windows)), counts)
    places = np.arange(len(lines)) + np.repeat(ends - counts.cumsum(), counts)
    dense = np.zeros((len(windows), window), np.float32)
    dense[lines, rows[places] % window] = values[places]
    return dense
