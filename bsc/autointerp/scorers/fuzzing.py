"""Fuzzing: does the explanation fit the marked tokens of this window? (paper, Sec. 4)."""

import math

import numpy as np
from jaxtyping import Bool

from bsc.autointerp.samples import Sample
from bsc.autointerp.scorers.base import Exam, shuffled
from bsc.autointerp.windows import Grid
from bsc.stages import ScoreSpec


def exam(sample: Sample, grid: Grid, spec: ScoreSpec, generator: np.random.Generator) -> Exam:
    """A latent's test windows in random order, with marks.

    In firing windows the tokens at `mark_above` of the window's maximum or more are marked. A silent window gets marks at
    random positions, all the same number: the firing windows' mean number, rounded up, of *marked* tokens (`marks: fair`,
    *ours*), or of all firing tokens, marked or not (`marks: paper`), which gives continuous latents away.
    """
    dense = sample.activations
    firing = (dense > 0) & (dense >= spec.windows.mark_above * dense.max(1, keepdims=True))
    counted = firing if spec.marks == "fair" else dense > 0
    silent = random_marks(len(sample.silent), grid.window, math.ceil(counted.sum(1).mean()), generator)
    return shuffled(sample, grid, np.concatenate([firing, silent]), spec.windows_a_prompt, generator)


def random_marks(windows: int, window: int, marks: int, generator: np.random.Generator) -> Bool[np.ndarray, "windows window"]:
    """`marks` of the `window` positions of each window, at random."""
    return np.asarray(generator.permuted(np.broadcast_to(np.arange(window) < marks, (windows, window)), axis=1))
