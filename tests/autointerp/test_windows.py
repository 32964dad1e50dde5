from types import SimpleNamespace

import numpy as np
import pytest
from autointerp_world import CONTEXT, WINDOW, random_documents, write_cache
from hypothesis import given, settings
from hypothesis import strategies as st

from bsc.autointerp.windows import EXPLANATION, NEITHER, TEST, FiringWindows, Grid, activations, begun, halves_of
from bsc.errors import UserError


def _store(documents: np.ndarray) -> SimpleNamespace:
    tokens = np.arange(documents.size, dtype=np.int32).reshape(documents.shape)
    return SimpleNamespace(tokens=tokens, documents=documents, context=documents.shape[1])


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(0, 100), st.sampled_from([3, 40, 300]))
def test_a_window_is_in_a_half_only_with_all_its_documents(seed, split_seed, longest) -> None:
    documents = random_documents(np.random.default_rng(seed), 30, longest)
    grid = Grid.cut(_store(documents), WINDOW, split_seed)
    sides = halves_of(documents, split_seed)
    side = dict(zip(documents.ravel().tolist(), sides.ravel().tolist(), strict=True))
    assert all((sides[documents == document] == half).all() for document, half in list(side.items())[:20])
    for window, half in zip(documents.reshape(-1, WINDOW), grid.halves, strict=True):
        found = {side[document] for document in window}
        assert half == (found.pop() if len(found) == 1 else NEITHER)
    shared = [set(documents.reshape(-1, WINDOW)[grid.of(half)].ravel()) for half in (EXPLANATION, TEST)]
    assert not shared[0] & shared[1]


def test_halves_are_balanced_and_depend_on_the_seed() -> None:
    documents = random_documents(np.random.default_rng(0), 200, 400)
    splits = [halves_of(documents, seed) for seed in range(4)]
    for split in splits:
        assert abs(split.mean() - 0.5) * split.size <= 400
    assert any((splits[0] != other).any() for other in splits[1:])
    np.testing.assert_array_equal(splits[0], halves_of(documents, 0))


def test_a_window_that_does_not_divide_the_context_is_refused() -> None:
    with pytest.raises(UserError, match="do not divide"):
        Grid.cut(_store(np.zeros((2, 64), np.int32)), 24, 0)


def test_a_cache_of_other_tokens_is_refused(tmp_path) -> None:
    grid = Grid.cut(_store(np.zeros((2, CONTEXT), np.int32)), WINDOW, 0)
    grid.check(write_cache(tmp_path / "same", [{1: 1.0}], 2 * CONTEXT))
    with pytest.raises(UserError, match="192 tokens"):
        grid.check(write_cache(tmp_path / "other", [{1: 1.0}], 3 * CONTEXT))


@settings(deadline=None, max_examples=40)
@given(st.dictionaries(st.integers(0, 640 - 1), st.sampled_from([0.25, 1.0, 1.5, 3.0]), max_size=80))
def test_firing_windows_and_activations(tmp_path_factory, firings) -> None:
    cache = write_cache(tmp_path_factory.mktemp("cache"), [{0: 1.0}, firings], 640)
    dense = np.zeros(640)
    for row, value in firings.items():
        dense[row] = value
    dense = dense.reshape(-1, WINDOW)
    found = FiringWindows.of(cache, 1, WINDOW)
    np.testing.assert_array_equal(found.windows, np.flatnonzero(dense.any(1)))
    np.testing.assert_array_equal(found.maxima, dense.max(1)[found.windows])
    windows, starts = begun(cache, 1, WINDOW)
    rows = sorted(firings)
    assert windows.tolist() == sorted({row // WINDOW for row in rows})
    assert starts.tolist() == [min(place for place, row in enumerate(rows) if row // WINDOW == one) for one in windows]
    some = np.random.default_rng(0).permutation(len(dense))[:9]
    np.testing.assert_array_equal(activations(cache, 1, some, WINDOW), dense[some])


@settings(deadline=None, max_examples=40)
@given(st.lists(st.sampled_from([0.5, 1.0, 2.0]) | st.floats(0.125, 9, width=32), min_size=1, max_size=100), st.integers(0, 99))
def test_deciles_are_by_rank(maxima, seed) -> None:
    values = np.array(maxima, np.float32)
    deciles = FiringWindows(np.arange(len(values)), values).deciles(np.random.default_rng(seed))
    sizes = np.bincount(deciles, minlength=10)
    assert len(sizes) == 10
    assert set(sizes) <= {len(values) // 10, -(-len(values) // 10)}
    for decile in range(9):
        assert values[deciles <= decile].max(initial=0) <= values[deciles > decile].min(initial=np.inf)


def test_ties_are_spread_over_the_deciles_at_random() -> None:
    ties = FiringWindows(np.arange(100), np.ones(100, np.float32))
    drawn = np.stack([ties.deciles(np.random.default_rng(seed)) for seed in range(400)])
    assert (np.sort(drawn, axis=1) == np.repeat(np.arange(10), 10)).all()
    # The mean of 400 uniform deciles has a standard error of 0.144: five of them either side, for 100 windows.
    assert abs(drawn.mean(0) - 4.5).max() < 5 * 0.144
