"""The test sample of a latent, with the silent windows that a spec asks for: any, or hard ones. No torch.

All are windows of the test half in which the latent never fires. *Ours*: by which half's windows latents count as co-occurring,
the Jaccard index, and what happens when they have too few windows.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Int

from bsc.autointerp.cooccurrence import Cooccurrence
from bsc.autointerp.embedding.windows import WindowEmbeddings
from bsc.autointerp.firings import LatentCache
from bsc.autointerp.samples import Sample, sample_for_test
from bsc.autointerp.windows import TEST, FiringWindows, Grid
from bsc.errors import UserError
from bsc.stages import COOCCURRING, RANDOM, ScoreSpec

_STREAM = 5
"""Of random numbers, beside those of `bsc.autointerp.samples` and `.score`."""


@dataclass(frozen=True)
class Tested:
    """A latent's test sample. filled: how many of its silent windows are not hard ones, where hard ones were asked for."""

    sample: Sample
    filled: int = 0


Drawer = Callable[[int], Tested]
"""From a latent to its test sample."""
Chooser = Callable[[Sample, Bool[np.ndarray, " windows"]], tuple[Int[np.ndarray, " silent"], int]]
"""From a sample, and the windows of the grid that may be chosen, to its silent windows and how many of them fill up."""


def drawer(spec: ScoreSpec, cache: LatentCache, grid: Grid, embeddings: WindowEmbeddings | None) -> Drawer:
    """What draws the test samples of a spec: firing windows as `sample_for_test` does, silent ones by `spec.negatives`.

    `random`: any. `cooccurring`: windows of the latents that co-occur most with it, the nearest first (see `Cooccurrence`, on
    windows of the explanation half), until there are enough; where all of them together have too few, others at random fill up.
    `nearest`: those most similar, by embeddings, to the mean of the firing windows of the sample.
    Raises UserError when `nearest` is asked for without embeddings.
    """
    if spec.negatives == RANDOM:
        return lambda latent: Tested(sample_for_test(cache, grid, spec.windows, latent))
    choose = _chooser(spec, cache, grid, embeddings)

    def drawn(latent: int) -> Tested:
        sample = sample_for_test(cache, grid, spec.windows, latent)
        quiet = grid.halves == TEST
        quiet[FiringWindows.of(cache, latent, grid.window).windows] = False
        silent, filled = choose(sample, quiet)
        return Tested(replace(sample, silent=silent), filled)

    return drawn


def _chooser(spec: ScoreSpec, cache: LatentCache, grid: Grid, embeddings: WindowEmbeddings | None) -> Chooser:
    if spec.negatives == COOCCURRING:
        together = Cooccurrence.of(cache, grid)
        return lambda sample, quiet: cooccurring(sample, quiet, together, _generator(spec, sample))
    if embeddings is None:
        raise UserError("the nearest windows need `--embeddings`", where="negatives", fix="copy the rule's shell line whole")
    return lambda sample, quiet: (nearest(sample, quiet, embeddings), 0)


def _generator(spec: ScoreSpec, sample: Sample) -> np.random.Generator:
    return np.random.default_rng([spec.windows.seed, _STREAM, sample.latent])


def nearest(sample: Sample, quiet: Bool[np.ndarray, " windows"], embeddings: WindowEmbeddings) -> Int[np.ndarray, " silent"]:
    """The windows that are most similar to the mean of the sample's firing ones, most similar first; ties to the earliest.

    quiet: of all windows of the grid, those of the test half in which the latent never fires. Cosine similarity.
    """
    centre = embeddings.of(sample.firing).mean(0)
    candidates = np.flatnonzero(quiet[embeddings.windows])
    similarity = embeddings.vectors[candidates] @ centre
    return embeddings.windows[candidates[np.argsort(-similarity, kind="stable")[: len(sample.silent)]]]


def cooccurring(
    sample: Sample, quiet: Bool[np.ndarray, " windows"], together: Cooccurrence, generator: np.random.Generator
) -> tuple[Int[np.ndarray, " silent"], int]:
    """Quiet windows in which the latent's neighbours fire, nearest neighbour first, and how many others had to fill up.

    A neighbour that has more than are still wanted gives some at random.
    """
    left, taken, wanted = quiet.copy(), [], len(sample.silent)
    for other in together.neighbours(sample.latent):
        if not wanted:
            break
        windows = FiringWindows.of(together.cache, int(other), together.grid.window).windows
        windows = windows[left[windows]]
        chosen = generator.choice(windows, min(wanted, len(windows)), replace=False)
        left[chosen] = False
        taken.append(chosen)
        wanted -= len(chosen)
    filling = generator.choice(np.flatnonzero(left), wanted, replace=False)
    return np.concatenate([*taken, filling]).astype(np.int64), wanted
