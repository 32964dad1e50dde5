import numpy as np
import pytest
from autointerp_world import CONTEXT, WINDOW, random_documents, windows_spec, write_cache
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bsc.autointerp.pareto import inclusion_probabilities
from bsc.autointerp.samples import census, sample_for_explanation, sample_for_test
from bsc.autointerp.windows import EXPLANATION, TEST, Grid
from bsc.corpus.store import TokenStore


def _grid(documents: np.ndarray, seed: int = 0) -> Grid:
    return Grid.cut(TokenStore(np.zeros_like(documents), documents), WINDOW, seed)


def _fires_in(windows: np.ndarray, generator: np.random.Generator) -> dict[int, float]:
    rows = windows * WINDOW + generator.integers(0, WINDOW, size=len(windows))
    return {int(row): float(value) for row, value in zip(rows, generator.integers(1, 4, size=len(rows)), strict=True)}


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(0, 20))
def test_no_window_and_no_document_is_in_both_samples(tmp_path_factory, seed, split_seed) -> None:
    generator = np.random.default_rng(seed)
    documents = random_documents(generator, 100, 150)
    grid = _grid(documents, split_seed)
    firing = np.flatnonzero(generator.random(len(grid.halves)) < 0.5)
    cache = write_cache(tmp_path_factory.mktemp("cache"), [_fires_in(firing, generator)], documents.size)
    spec = windows_spec(explanation_windows=10, test_firing=10, test_silent=10, seed=split_seed)
    assume(census(cache, grid, spec)["status"].item() == "scored")
    samples = [sample_for_explanation(cache, grid, spec, 0), sample_for_test(cache, grid, spec, 0)]
    seen = [np.concatenate([sample.firing, sample.silent]) for sample in samples]
    by_window = documents.reshape(-1, WINDOW)
    assert not set(seen[0]) & set(seen[1])
    assert not set(by_window[seen[0]].ravel()) & set(by_window[seen[1]].ravel())
    for sample in samples:
        assert len(set(sample.firing)) == len(sample.firing) == 10
        assert set(sample.firing) <= set(firing)
        assert not set(sample.silent) & set(firing)
        np.testing.assert_array_equal(sample.deciles, np.arange(10))
        assert (sample.activations.max(1) > 0).all()


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(0, 20), st.sampled_from([10, 30]), st.integers(1, 400))
def test_a_sample_is_drawn_decile_by_decile_and_then_of_the_silent(tmp_path_factory, seed, split_seed, size, silent) -> None:
    generator = np.random.default_rng(seed)
    documents = random_documents(generator, 100, 150)
    grid = _grid(documents, split_seed)
    fires = _fires_in(np.flatnonzero(generator.random(len(grid.halves)) < 0.6), generator)
    cache = write_cache(tmp_path_factory.mktemp("cache"), [fires], documents.size)
    here = [window for window in grid.of(TEST) if any(row // WINDOW == window for row in fires)]
    assume(len(here) >= size)
    found = sample_for_test(cache, grid, windows_spec(test_firing=size, test_silent=silent, seed=split_seed), 0)

    generator = np.random.default_rng([split_seed, 1, 0])
    dense = np.zeros((len(grid.halves), WINDOW))
    for row, value in fires.items():
        dense[row // WINDOW, row % WINDOW] = value
    ties = generator.permutation(len(here))
    ranked = sorted(range(len(here)), key=lambda place: (dense[here[place]].max(), ties[place]))
    deciles = {here[place]: rank * 10 // len(here) for rank, place in enumerate(ranked)}
    members = [[window for window in here if deciles[window] == decile] for decile in range(10)]
    expected = [window for group in members for window in generator.choice(group, size // 10, replace=False)]
    quiet = [window for window in grid.of(TEST) if window not in deciles]
    assert found.firing.tolist() == expected
    assert found.deciles.tolist() == [deciles[window] for window in expected]
    np.testing.assert_array_equal(found.activations, dense[expected].astype(np.float32))
    assert found.silent.tolist() == generator.choice(quiet, min(silent, len(quiet)), replace=False).tolist()


def test_a_sample_has_an_equal_number_of_windows_a_decile(tmp_path) -> None:
    documents = np.repeat(np.arange(200)[:, None], CONTEXT, axis=1)
    grid = _grid(documents)
    maxima = np.random.default_rng(0).permutation(800)[:600] + 1.0
    cache = write_cache(tmp_path, [{window * WINDOW + 3: maxima[window] for window in range(600)}], documents.size)
    spec = windows_spec(explanation_windows=40, test_firing=50, test_silent=50)
    for half, sample, each in (
        (EXPLANATION, sample_for_explanation(cache, grid, spec, 0), 4),
        (TEST, sample_for_test(cache, grid, spec, 0), 5),
    ):
        assert np.bincount(sample.deciles).tolist() == [each] * 10
        here = np.sort(maxima[[window for window in range(600) if grid.halves[window] == half]])
        edges = [here[len(here) * decile // 10] for decile in range(1, 10)]
        expected = np.searchsorted(edges, maxima[sample.firing], side="right")
        assert (abs(expected - sample.deciles) <= 1).all()
        assert (expected == sample.deciles).mean() > 0.9


def _world_of_statuses(tmp_path):
    """200 windows a half; latents that fire in given numbers of windows of each half."""
    documents = np.repeat(np.arange(100)[:, None], CONTEXT, axis=1)
    grid = _grid(documents)
    halves = [grid.of(EXPLANATION), grid.of(TEST)]
    assert [len(half) for half in halves] == [200, 200]
    counts = {"scored": (100, 100), "rare": (10, 10), "few in a half": (190, 15), "dense": (200, 190), "dead": (0, 0)}
    latents = [
        {int(window * WINDOW + 2): 1.0 for half, count in zip(halves, pair, strict=True) for window in half[:count]}
        for pair in counts.values()
    ]
    return write_cache(tmp_path, latents, documents.size), grid


def test_statuses(tmp_path) -> None:
    cache, grid = _world_of_statuses(tmp_path)
    table = census(cache, grid, windows_spec())
    assert table["status"].tolist() == ["scored", "too rare", "too rare", "too dense", "too rare"]
    assert table["firings"].tolist() == [200, 20, 205, 390, 0]
    assert table["firing_windows"].tolist() == [200, 20, 205, 390, 0]
    assert table["explanation_windows"].tolist() == [100, 10, 190, 200, 0]
    assert table["test_windows"].tolist() == [100, 10, 15, 190, 0]
    assert table["silent_windows"].tolist() == [100, 190, 185, 10, 200]
    assert table["sampling_weight"].tolist() == [1, 0, 0, 0, 0]


@pytest.mark.parametrize(("minimum", "status"), [(200, "scored"), (201, "too rare")])
def test_the_minimum_counts_windows_of_both_halves(tmp_path, minimum, status) -> None:
    cache, grid = _world_of_statuses(tmp_path)
    assert census(cache, grid, windows_spec(minimum_windows=minimum))["status"][0] == status


@pytest.mark.parametrize(("silent", "status"), [(100, "scored"), (101, "too dense")])
def test_dense_means_too_few_silent_windows(tmp_path, silent, status) -> None:
    cache, grid = _world_of_statuses(tmp_path)
    assert census(cache, grid, windows_spec(test_silent=silent))["status"][0] == status


def test_latents_beyond_the_number_asked_for_are_not_sampled(tmp_path) -> None:
    documents = np.repeat(np.arange(100)[:, None], CONTEXT, axis=1)
    everywhere = {window * WINDOW + 2: 1.0 for window in range(0, 400, 2)}
    cache = write_cache(tmp_path, [everywhere] * 12 + [{}], documents.size)
    drawn = set()
    for seed in range(8):
        table = census(cache, _grid(documents, seed), windows_spec(latents=5, seed=seed))
        status = table["status"]
        assert table["sampling_weight"].tolist() == pytest.approx([12 / 5 * (one == "scored") for one in status])
        assert status.value_counts().to_dict() == {"scored": 5, "not sampled": 7, "too rare": 1}
        again = census(cache, _grid(documents, seed), windows_spec(latents=5, seed=seed))["status"]
        assert (again == status).all()
        drawn.add(tuple(status))
    assert len(drawn) > 1


def _unequal(tmp_path, further: int = 0, value: float = 1.0, silent: int | None = None):
    """20 eligible latents that fire on nine tokens (two of them) or on one in 200 windows; further ones never fire."""
    documents = np.repeat(np.arange(100)[:, None], CONTEXT, axis=1)
    fires = [
        {window * WINDOW + 2 + token: value for window in range(0, 400, 2) for token in range(1 + 8 * (latent < 2))}
        for latent in range(20)
    ]
    fires = [{} if latent == silent else one for latent, one in enumerate(fires)]
    return write_cache(tmp_path, fires + [{}] * further, documents.size), documents


def test_a_sampled_latent_weighs_by_the_inverse_of_its_chance(tmp_path) -> None:
    cache, documents = _unequal(tmp_path)
    tables = [census(cache, _grid(documents), windows_spec(latents=6, seed=seed)) for seed in range(40)]
    chances = inclusion_probabilities(cache.firings, 6)
    assert chances[0] > 3 * chances[2]
    for table in tables:
        scored = (table["status"] == "scored").to_numpy()
        assert scored.sum() == 6
        np.testing.assert_array_equal(table["sampling_weight"], np.where(scored, 1 / chances, 0))
    often = np.mean([table["status"] == "scored" for table in tables], axis=0)
    assert often[:2].mean() > 2 * often[2:].mean()


@pytest.mark.parametrize("latents", [None, 20, 21])
def test_all_latents_weigh_one_where_all_are_taken(tmp_path, latents) -> None:
    cache, documents = _unequal(tmp_path, further=1)
    table = census(cache, _grid(documents), windows_spec(latents=latents))
    assert table["status"].tolist() == ["scored"] * 20 + ["too rare"]
    assert table["sampling_weight"].tolist() == [1] * 20 + [0]


def test_a_draw_goes_by_seed_and_index_alone(tmp_path) -> None:
    spec = windows_spec(latents=6)
    found = []
    for number, changes in enumerate(({}, {"value": 2.5}, {"further": 7})):
        cache, documents = _unequal(tmp_path / str(number), **changes)
        found.append(census(cache, _grid(documents), spec).iloc[:20])
    assert found[0].equals(found[1])  # another's latents that fire alike, as binarised ones do
    assert found[0].equals(found[2])
    assert not found[0]["status"].equals(census(cache, _grid(documents), windows_spec(latents=6, seed=1))["status"].iloc[:20])


def test_without_one_latent_the_others_are_drawn_as_before(tmp_path) -> None:
    caches = [_unequal(tmp_path / str(silent), silent=silent) for silent in (None, 3)]
    shared = 0
    for seed in range(40):
        tables = [census(cache, _grid(documents), windows_spec(latents=6, seed=seed)) for cache, documents in caches]
        shared += ((tables[0]["status"] == "scored") & (tables[1]["status"] == "scored")).sum()
    assert shared / 40 > 5.5
