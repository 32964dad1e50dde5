"""The questions of a scorer and, apart from them, the right answers. No torch."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from bsc.autointerp.explainers.base import Questions
from bsc.autointerp.samples import Sample
from bsc.autointerp.windows import Grid


@dataclass(frozen=True)
class Exam:
    """What one latent's explanation is asked, and what is right: windows (ids in the grid), and whether the latent fires."""

    questions: Questions
    windows: Int[np.ndarray, " questions"]
    firing: Bool[np.ndarray, " questions"]


def shuffled(
    sample: Sample,
    grid: Grid,
    marks: Bool[np.ndarray, "questions window"] | None,
    a_prompt: int,
    generator: np.random.Generator,
) -> Exam:
    """A sample's windows in random order. marks: of the firing windows, then of the silent ones."""
    windows = np.concatenate([sample.firing, sample.silent])
    order = generator.permutation(len(windows))
    shown = Questions(grid.tokens[windows[order]], None if marks is None else marks[order], a_prompt)
    return Exam(shown, windows[order], order < len(sample.firing))
