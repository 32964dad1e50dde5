"""Scorers, by the names in the config's `autointerp.scorers`: each is a module here with `exam(sample, grid, spec, generator)`.

`embedding` has none: it asks nothing, and compares instead.

A module is found by its name when it is asked for, so a stage's fingerprint holds those that it uses and no other.
"""

from collections.abc import Callable
from importlib import import_module

import numpy as np

from bsc.autointerp.samples import Sample
from bsc.autointerp.scorers.base import Exam
from bsc.autointerp.windows import Grid
from bsc.stages import ScoreSpec

Scorer = Callable[[Sample, Grid, ScoreSpec, np.random.Generator], Exam]


def scorer_named(name: str) -> Scorer:
    """The function that makes one latent's questions from its test sample."""
    made: Scorer = import_module(f"{__name__}.{name}").exam
    return made
