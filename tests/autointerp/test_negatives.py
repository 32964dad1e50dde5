"""Hard negatives: silent windows of the test half, of the kind that was asked for, the same at every run."""

from dataclasses import replace

import numpy as np
import pytest
from autointerp_world import CONTEXT, WINDOW, random_documents, windows_spec, write_cache
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bsc.autointerp import cooccurrence
from bsc.autointerp.cooccurrence import Cooccurrence
from bsc.autointerp.embedding.windows import WindowEmbeddings
from bsc.autointerp.negatives import drawer
from bsc.autointerp.samples import census, sample_for_explanation, sample_for_test
from bsc.autointerp.windows import EXPLANATION, TEST, Grid
from bsc.corpus.store import TokenStore
from bsc.errors import UserError
from bsc.stages import ScoreSpec

SMALL = {"explanation_windows": 10, "test_firing": 10, "test_silent": 20, "minimum_windows": 20}


def _spec(negatives: str, **windows) -> ScoreSpec:
    return ScoreSpec(
        windows=windows_spec(**{**SMALL, **windows}),
        scorers=["detection"],
        marks="fair",
        windows_a_prompt=5,
        shuffled=False,
        explainer={"kind": "ngram"},
        resamples=100,
        negatives=negatives,
    )


def _grid(documents: np.ndarray, seed: int = 0) -> Grid:
    return Grid.cut(TokenStore(np.zeros_like(documents), documents), WINDOW, seed)


def _cache(folder, fires: np.ndarray):
    """fires: bool [latents, windows]."""
    latents = [{int(window) * WINDOW + 3: 1.0 for window in np.flatnonzero(row)} for row in fires]
    return write_cache(folder, latents, fires.shape[1] * WINDOW)


def _embeddings(grid: Grid, generator: np.random.Generator) -> WindowEmbeddings:
    windows = grid.of(TEST)
    vectors = generator.normal(size=(len(windows), 8)).astype(np.float32)
    return WindowEmbeddings(windows, vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["random", "cooccurring", "nearest"]), st.floats(0.01, 0.6))
def test_no_negative_fires_or_was_seen_by_the_explainer(tmp_path_factory, seed, kind, rate) -> None:
    generator = np.random.default_rng(seed)
    documents = random_documents(generator, 100, 150)
    grid = _grid(documents, seed % 7)
    rates = np.array([0.3, rate, rate / 2, 0.02, 0.0])
    fires = generator.random((5, len(grid.halves))) < rates[:, None]
    fires[1] &= ~fires[0] | (generator.random(len(grid.halves)) < 0.5)
    cache = _cache(tmp_path_factory.mktemp("cache"), fires)
    spec, embeddings = _spec(kind, seed=seed % 7), _embeddings(grid, generator)
    assume(census(cache, grid, spec.windows)["status"][0] == "scored")
    tested = drawer(spec, cache, grid, embeddings)(0)
    sample, plain = tested.sample, sample_for_test(cache, grid, spec.windows, 0)
    np.testing.assert_array_equal(sample.firing, plain.firing)
    np.testing.assert_array_equal(sample.activations, plain.activations)
    assert len(set(sample.silent.tolist())) == len(sample.silent) == spec.windows.test_silent
    assert not fires[0][sample.silent].any()
    assert (grid.halves[sample.silent] == TEST).all()
    seen = sample_for_explanation(cache, grid, spec.windows, 0)
    assert not set(sample.silent.tolist()) & {*seen.firing.tolist(), *seen.silent.tolist()}
    assert not set(documents.reshape(-1, WINDOW)[sample.silent].ravel()) & set(
        documents.reshape(-1, WINDOW)[seen.firing].ravel()
    )
    again = drawer(spec, cache, grid, embeddings)(0)
    np.testing.assert_array_equal(again.sample.silent, sample.silent)
    assert again.filled == tested.filled
    with_neighbour = fires[1:, sample.silent].any(0).sum()
    if kind == "cooccurring":
        assert with_neighbour >= spec.windows.test_silent - tested.filled
    elif kind == "random":
        np.testing.assert_array_equal(sample.silent, plain.silent)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_neighbours_are_those_of_the_dense_jaccard_index(tmp_path_factory, seed) -> None:
    generator = np.random.default_rng(seed)
    grid = _grid(random_documents(generator, 40, 150), 0)
    fires = generator.random((12, len(grid.halves))) < generator.choice([0, 0.02, 0.1, 0.5], size=(12, 1))
    together = Cooccurrence.of(_cache(tmp_path_factory.mktemp("cache"), fires), grid)
    half = fires[:, grid.halves == EXPLANATION].astype(np.int64)
    shared = half @ half.T
    np.testing.assert_array_equal(together.totals, half.sum(1))
    for latent in range(12):
        np.testing.assert_array_equal(together.shared(latent), shared[latent])
        union = half.sum(1) + half[latent].sum() - shared[latent]
        others = [other for other in range(12) if other != latent and shared[latent, other]]
        index = {other: shared[latent, other] / union[other] for other in others}
        assert together.neighbours(latent).tolist() == sorted(others, key=lambda other: (-index[other], other))


def test_pairs_are_gathered_in_parts(tmp_path, monkeypatch) -> None:
    generator = np.random.default_rng(0)
    grid = _grid(random_documents(generator, 40, 150), 0)
    together = Cooccurrence.of(_cache(tmp_path, generator.random((30, len(grid.halves))) < 0.4), grid)
    whole = [together.shared(latent) for latent in range(30)]
    monkeypatch.setattr(cooccurrence, "_AT_ONCE", 7)
    for latent in range(30):
        np.testing.assert_array_equal(together.shared(latent), whole[latent])


def _separate_documents() -> Grid:
    return _grid(np.repeat(np.arange(200)[:, None], CONTEXT, axis=1))


def test_windows_of_the_nearest_neighbour_come_first(tmp_path) -> None:
    """Latent 1 fires where 0 does and in 12 more test windows, 2 in half of 0's and in 100 more, 3 never together with 0."""
    grid = _separate_documents()
    test, explained = grid.of(TEST), grid.of(EXPLANATION)
    fires = np.zeros((4, len(grid.halves)), bool)
    fires[0, [*test[:100], *explained[:100]]] = True
    fires[1] = fires[0]
    fires[1, test[100:112]] = True
    fires[2, [*test[50:200], *explained[50:200]]] = True
    fires[3, [*test[200:], *explained[200:]]] = True
    tested = drawer(_spec("cooccurring"), _cache(tmp_path, fires), grid, None)(0)
    assert set(test[100:112]) < set(tested.sample.silent)
    assert set(tested.sample.silent[12:]) <= set(test[112:200])
    assert tested.filled == 0


@pytest.mark.parametrize("wanted", [20, 40])
def test_too_few_windows_of_neighbours_are_filled_up_and_counted(tmp_path, wanted) -> None:
    grid = _separate_documents()
    test, explained = grid.of(TEST), grid.of(EXPLANATION)
    fires = np.zeros((2, len(grid.halves)), bool)
    fires[0, [*test[:100], *explained[:100]]] = True
    fires[1, [*test[95:130], *explained[:100]]] = True  # 30 silent windows of the one neighbour
    spec = _spec("cooccurring", test_silent=wanted)
    tested = drawer(spec, _cache(tmp_path, fires), grid, None)(0)
    assert tested.filled == max(0, wanted - 30)
    assert len(tested.sample.silent) == wanted
    assert fires[1, tested.sample.silent].sum() == min(wanted, 30)
    other = drawer(_spec("cooccurring", test_silent=wanted, seed=5), _cache(tmp_path / "again", fires), grid, None)(0)
    assert set(other.sample.silent) != set(tested.sample.silent)


def test_too_few_silent_windows_are_too_dense_whatever_the_negatives(tmp_path) -> None:
    grid = _separate_documents()
    fires = np.ones((1, len(grid.halves)), bool)
    fires[0, grid.of(TEST)[:19]] = False
    assert census(_cache(tmp_path, fires), grid, _spec("nearest").windows)["status"].tolist() == ["too dense"]


def test_nearest_are_the_most_similar_to_the_mean_of_the_firing_ones(tmp_path) -> None:
    grid = _separate_documents()
    generator = np.random.default_rng(2)
    fires = generator.random((1, len(grid.halves))) < 0.3
    cache, embeddings = _cache(tmp_path, fires), _embeddings(grid, generator)
    spec = _spec("nearest")
    sample = drawer(spec, cache, grid, embeddings)(0).sample
    vectors = dict(zip(embeddings.windows.tolist(), embeddings.vectors.astype(np.float64), strict=True))
    centre = np.mean([vectors[window] for window in sample.firing.tolist()], axis=0)
    quiet = [window for window in vectors if not fires[0, window]]
    expected = sorted(quiet, key=lambda window: -(vectors[window] @ centre))[: len(sample.silent)]
    assert sample.silent.tolist() == expected
    mean = np.mean([vectors[window] @ centre for window in sample_for_test(cache, grid, spec.windows, 0).silent.tolist()])
    assert np.mean([vectors[window] @ centre for window in expected]) > mean + 0.1


def test_ties_go_to_the_earliest_window(tmp_path) -> None:
    grid = _separate_documents()
    fires = np.zeros((1, len(grid.halves)), bool)
    fires[0, ::3] = True
    embeddings = _embeddings(grid, np.random.default_rng(0))
    alike = replace(embeddings, vectors=np.tile(embeddings.vectors[:1], (len(embeddings.windows), 1)))
    spec = _spec("nearest")
    silent = drawer(spec, _cache(tmp_path, fires), grid, alike)(0).sample.silent
    quiet = [window for window in grid.of(TEST).tolist() if not fires[0, window]]
    assert silent.tolist() == quiet[: len(silent)]


def test_nearest_without_embeddings_is_refused(tmp_path) -> None:
    grid = _separate_documents()
    with pytest.raises(UserError, match="--embeddings"):
        drawer(_spec("nearest"), _cache(tmp_path, np.ones((1, len(grid.halves)), bool)), grid, None)


def test_the_default_is_no_part_of_a_spec() -> None:
    assert "negatives" not in _spec("random").model_dump()
    assert _spec("nearest").model_dump()["negatives"] == "nearest"
