"""Detection: does the explanation fit this window? (paper, Sec. 4)."""

import numpy as np

from bsc.autointerp.samples import Sample
from bsc.autointerp.scorers.base import Exam, shuffled
from bsc.autointerp.windows import Grid
from bsc.stages import ScoreSpec


def exam(sample: Sample, grid: Grid, spec: ScoreSpec, generator: np.random.Generator) -> Exam:
    """A latent's test windows, unmarked, in random order."""
    return shuffled(sample, grid, None, spec.windows_a_prompt, generator)
