import math

import numpy as np
import pytest
from autointerp_world import WINDOW, windows_spec
from hypothesis import given, settings
from hypothesis import strategies as st

from bsc.autointerp.samples import Sample
from bsc.autointerp.scorers import scorer_named
from bsc.autointerp.windows import Grid
from bsc.stages import ScoreSpec


def _spec(**changes) -> ScoreSpec:
    values = {
        "windows": windows_spec(mark_above=changes.pop("mark_above", 0.3)),
        "scorers": ["detection", "fuzzing"],
        "marks": "fair",
        "windows_a_prompt": 5,
        "shuffled": True,
        "explainer": {"kind": "ngram", "length": 3, "patterns": 24, "precision": 0.5},
        "resamples": 100,
    }
    return ScoreSpec(**{**values, **changes})


def _sample(seed: int, firing: int = 20, silent: int = 20) -> tuple[Sample, Grid]:
    generator = np.random.default_rng(seed)
    tokens = generator.integers(0, 50, size=(100, WINDOW)).astype(np.int32)
    dense = generator.random((firing, WINDOW)).astype(np.float32) * (generator.random((firing, WINDOW)) < 0.4)
    dense[:, 4] = 1.0
    windows = generator.permutation(100)
    sample = Sample(7, windows[:firing], np.zeros(firing, int), dense, windows[firing : firing + silent])
    return sample, Grid(tokens, np.ones(100, np.int8), 4 * WINDOW)


def _exam(name: str, sample: Sample, grid: Grid, spec: ScoreSpec, seed: int = 0):
    return scorer_named(name)(sample, grid, spec, np.random.default_rng(seed))


@pytest.mark.parametrize("name", ["detection", "fuzzing"])
def test_every_window_is_asked_once_in_random_order(name) -> None:
    sample, grid = _sample(0)
    exam = _exam(name, sample, grid, _spec())
    assert sorted(exam.windows) == sorted([*sample.firing, *sample.silent])
    np.testing.assert_array_equal(exam.firing, np.isin(exam.windows, sample.firing))
    np.testing.assert_array_equal(exam.questions.tokens, grid.tokens[exam.windows])
    assert exam.questions.a_prompt == 5
    assert 0 < exam.firing[:20].sum() < 20
    assert (exam.windows != _exam(name, sample, grid, _spec(), seed=1).windows).any()
    np.testing.assert_array_equal(exam.windows, _exam(name, sample, grid, _spec()).windows)


def test_detection_marks_nothing() -> None:
    assert _exam("detection", *_sample(0), _spec()).questions.marks is None


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["fair", "paper"]), st.sampled_from([0.1, 0.3, 0.7, 1.0]))
def test_fuzzing_marks(seed, marks, above) -> None:
    sample, grid = _sample(seed)
    exam = _exam("fuzzing", sample, grid, _spec(marks=marks, mark_above=above))
    strong = {
        window: row >= np.float32(above) * row.max() for window, row in zip(sample.firing, sample.activations, strict=True)
    }
    counted = np.array([*strong.values()]) if marks == "fair" else sample.activations > 0
    expected = math.ceil(counted.sum() / len(sample.firing))
    for window, fires, marked in zip(exam.windows, exam.firing, exam.questions.marks, strict=True):
        if fires:
            np.testing.assert_array_equal(marked, strong[window])
        else:
            assert marked.sum() == expected


def test_marks_of_silent_windows_are_uniform() -> None:
    sample, grid = _sample(3)
    exams = [_exam("fuzzing", sample, grid, _spec(), seed) for seed in range(60)]
    marks = np.concatenate([exam.questions.marks[~exam.firing] for exam in exams])
    rate = marks.mean()
    error = math.sqrt(rate * (1 - rate) / len(marks))
    assert abs(marks.mean(0) - rate).max() < 4.5 * error
