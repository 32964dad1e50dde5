import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bsc.autointerp.metrics import frequency_weighted
from bsc.autointerp.pareto import inclusion_probabilities, pareto_sample

SKEWED = np.array([9_000, 4_000, 700, 500, 300, 200, 150, 120, 100, 80, 60, 50, 40, 30, 20, 20, 15, 10, 10, 5])


def sizes(firings):
    return st.tuples(st.just(np.array(firings)), st.integers(1, len(firings) - 1))


SOME = st.lists(st.integers(1, 10**6), min_size=2, max_size=60).flatmap(sizes)


@settings(deadline=None, max_examples=150)
@given(SOME)
def test_chances_are_half_by_count_and_half_by_firings_and_sum_to_the_size(given_) -> None:
    firings, size = given_
    found = inclusion_probabilities(firings, size)
    shares = [0.5 / len(firings) + 0.5 * float(count) / float(firings.sum()) for count in firings]
    low, high = 0.0, 2.0 * size * len(firings)
    for _ in range(200):  # the c of min(1, c · share), by bisection
        middle = (low + high) / 2
        low, high = (middle, high) if sum(min(1.0, middle * share) for share in shares) < size else (low, middle)
    np.testing.assert_allclose(found, [min(1.0, low * share) for share in shares], rtol=1e-9)
    assert found.sum() == pytest.approx(size, rel=1e-12)
    assert (found >= size / (2 * len(firings)) * (1 - 1e-12)).all()
    assert (found <= 1).all()


@settings(deadline=None, max_examples=150)
@given(SOME, st.integers(0, 2**32 - 1))
def test_a_sample_has_its_size_and_what_is_certain(given_, seed) -> None:
    firings, size = given_
    chances = inclusion_probabilities(firings, size)
    taken = pareto_sample(chances, np.random.default_rng(seed).random(len(firings)), size)
    assert taken.sum() == size
    assert taken[chances == 1].all()


@pytest.mark.parametrize("size", [3, 8, 15])
def test_latents_are_drawn_as_often_as_their_chances_say(size) -> None:
    chances, generator, draws = inclusion_probabilities(SKEWED, size), np.random.default_rng(0), 20_000
    often = sum(pareto_sample(chances, generator.random(len(SKEWED)), size) for _ in range(draws)) / draws
    error = np.sqrt(chances * (1 - chances) / draws)
    assert (abs(often - chances) <= 4 * error + 0.01).all()  # chances of a Pareto sample are π but for some thousandths
    assert abs(often - size / len(SKEWED)).max() > 0.1


def test_weighted_estimates_are_those_of_all_latents_and_vary_less_than_of_a_uniform_sample() -> None:
    generator, latents, size = np.random.default_rng(1), 1_000, 100
    firings = np.floor(np.exp(generator.normal(5, 1.8, latents))).astype(np.int64) + 1
    f1 = pd.Series(np.clip(0.8 - 0.06 * np.log(firings) + generator.normal(0, 0.1, latents), 0, 1))
    firings = pd.Series(firings)
    chances, once = inclusion_probabilities(firings.to_numpy(), size), pd.Series(1.0, f1.index)
    found = []
    for _ in range(1_500):
        drawn = pareto_sample(chances, generator.random(latents), size)
        uniform = generator.permutation(latents)[:size]
        weights = pd.Series(drawn / chances)
        found.append(
            (
                (weights * f1).sum() / weights.sum(),
                frequency_weighted(f1, firings, weights),
                frequency_weighted(f1[uniform], firings[uniform], once[uniform]),
            )
        )
    means, spreads = np.mean(found, axis=0), np.std(found, axis=0)
    truth = f1.mean(), frequency_weighted(f1, firings, once)
    errors = spreads / np.sqrt(len(found))
    assert abs(means[0] - truth[0]) < 4 * errors[0] + 0.002  # Hájek's estimates are biased by some 1 / size
    assert abs(means[1] - truth[1]) < 4 * errors[1] + 0.002
    assert spreads[1] < 0.5 * spreads[2]
