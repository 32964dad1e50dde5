import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from bsc.evaluation.bootstrap import Interval, bootstrap_ratio, ratios
from bsc.evaluation.differences import (
    DIFFERS,
    FAILS,
    HOLDS,
    UNDECIDED,
    interval,
    over_cells,
    over_seeds,
    units_to_resolve,
    verdict,
    widened,
)


def ratio(above, below, *, seed, resamples=2_000):
    (found,) = ratios([(above, below)], resamples=resamples, seed=seed)
    return found


def test_interval_of_replicates_is_that_of_the_bootstrap():
    generator = np.random.default_rng(0)
    below = generator.uniform(1, 2, size=70)
    above = below * generator.uniform(0, 1, size=70)
    ours = interval(ratio(above, below, seed=3), 70)
    assert ours == pytest.approx(bootstrap_ratio(above, below, resamples=2_000, seed=3), rel=1e-12)


def test_equal_seeds_pair_and_different_seeds_do_not():
    generator = np.random.default_rng(1)
    noise = generator.normal(0, 10, size=50)
    ones = np.ones(50)
    worse, better = noise + 1 + generator.normal(0, 0.1, 50), noise
    paired = interval(ratio(worse, ones, seed=0) - ratio(better, ones, seed=0), 50)
    apart = interval(ratio(worse, ones, seed=0) - ratio(better, ones, seed=1), 50)
    assert paired.value == pytest.approx(apart.value)
    theirs = stats.bootstrap(
        (worse, better),
        lambda a, b, axis=-1: a.mean(axis=axis) - b.mean(axis=axis),
        paired=True,
        n_resamples=20_000,
        method="percentile",
        random_state=2,
    ).confidence_interval
    assert (paired.low, paired.high) == pytest.approx((theirs.low, theirs.high), abs=0.005)
    expected = 2 * 1.96 * np.sqrt(worse.var() / 50 + better.var() / 50)
    assert apart.high - apart.low == pytest.approx(expected, rel=0.1)


def test_unpaired_difference_agrees_with_scipy():
    generator = np.random.default_rng(5)
    one, other = generator.exponential(1, 60), generator.exponential(1.4, 80)
    replicas = ratio(one, np.ones(60), seed=0, resamples=20_000) - ratio(other, np.ones(80), seed=1, resamples=20_000)
    ours = interval(replicas, 60)
    theirs = stats.bootstrap(
        (one, other),
        lambda a, b, axis=-1: a.mean(axis=axis) - b.mean(axis=axis),
        n_resamples=20_000,
        method="percentile",
        random_state=2,
    ).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.02)


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_variance_over_seeds_is_that_of_a_mean(seeds):
    values = np.random.default_rng(6).normal(size=seeds)
    drawn = over_seeds(np.repeat(values[:, None], 40_001, axis=1), seed=0)
    assert drawn[0] == pytest.approx(values.mean())
    assert drawn[1:].mean() == pytest.approx(values.mean(), abs=0.01)
    assert drawn[1:].var() == pytest.approx(values.var(ddof=1) / seeds, rel=0.03)


def test_one_seed_is_itself():
    statistic = np.random.default_rng(7).normal(size=(1, 50))
    assert np.array_equal(over_seeds(statistic, seed=0), statistic[0])


def coverage(seeds, of_seeds, shared, apart):
    """How often the interval holds the true difference, 0.5. Standard deviations: of a seed's effect, of what a sequence does
    to the difference in every seed, and of what it does in one."""
    generator = np.random.default_rng(8)
    covered, ones = [], np.ones(40)
    for trial in range(400):
        hardness, together = generator.normal(0, 3, 40), generator.normal(0, shared, 40)
        differences = []
        for _ in range(seeds):
            effect = generator.normal(0, of_seeds)
            binary, continuous = hardness + 0.5 + effect + together + generator.normal(0, apart, 40), hardness
            pair = ratios([(side, ones) for side in (binary, continuous)], resamples=400, seed=trial)
            differences.append(pair[0] - pair[1])
        found = interval(over_seeds(np.stack(differences), seed=trial), 40)
        covered.append(found.low <= 0.5 <= found.high)
    return np.mean(covered)


def test_paired_differences_cover_the_truth_as_often_as_they_say():
    assert 0.91 < coverage(1, 0, 1, 0) < 0.97
    assert 0.91 < coverage(3, 0.05, 1, 0) < 0.98
    assert 0.88 < coverage(8, 0.3, 0.1, 0) < 0.97


def test_crossed_noise_makes_the_interval_wider_and_not_narrower():
    assert coverage(3, 0.05, 0, 1) > 0.95


def test_what_rounding_makes_of_nothing_has_no_sign():
    assert interval(np.array([-6.9e-18, -1e-17, 0.5, 1e-17]), 10**6) == (0.0, 0.0, pytest.approx(0.475))


def test_resamples_without_a_denominator_are_left_out():
    assert interval(ratio([0.0, 1.0], [0.0, 2.0], seed=0), 2) == Interval(0.5, 0.5, 0.5)
    assert np.isnan(interval(ratio([0.0, 0.0], [0.0, 0.0], seed=0), 2)).all()


@pytest.mark.parametrize(
    ("low", "high", "sign", "margin", "said"),
    [
        (0.1, 0.2, 1, 0, HOLDS),
        (-0.2, -0.1, 1, 0, FAILS),
        (-0.1, 0.2, 1, 0, UNDECIDED),
        (0.0, 0.2, 1, 0, UNDECIDED),
        (-0.2, -0.1, -1, 0, HOLDS),
        (0.1, 0.2, -1, 0, FAILS),
        (-0.01, 0.2, 1, 0.02, HOLDS),
        (-0.03, 0.2, 1, 0.02, UNDECIDED),
        (-0.3, -0.1, 1, 0.02, FAILS),
        (np.nan, np.nan, 1, 0, UNDECIDED),
        (1e-19, 0.2, 1, 0, UNDECIDED),  # a rounded 0
        (-0.2, -1e-19, 1, 0, UNDECIDED),
    ],
)
def test_verdicts_follow_the_interval(low, high, sign, margin, said):
    assert verdict(Interval((low + high) / 2, low, high), sign=sign, margin=margin) == said


@settings(deadline=None)
@given(
    value=st.floats(-1, 1),
    below=st.floats(0.02, 5),
    above=st.floats(0.02, 5),
    boundary=st.sampled_from([0.0, -0.02, 0.02]),
    units=st.integers(2, 500),
)
def test_units_to_resolve_shrink_the_interval_to_the_boundary(value, below, above, boundary, units):
    """Whichever side is the longer: the end between the difference and the boundary is the one that matters."""
    assume(abs(value - boundary) > 0.01)
    needed = units_to_resolve(Interval(value, value - below, value + above), units, boundary)
    assert needed >= units
    low, high = (value + np.sqrt(units / needed) * end for end in (-below, above))
    assert low >= boundary - 1e-6 or high <= boundary + 1e-6
    fewer = needed - 1
    if fewer > units:
        low, high = (value + np.sqrt(units / fewer) * end for end in (-below, above))
        assert low < boundary < high


def test_one_unit_has_a_difference_and_no_verdict():
    one, other = (ratio([above], [2.0], seed=0, resamples=50) for above in (3.0, 1.0))
    assert len(one) == 51
    found = interval(over_seeds(np.stack([one - other] * 2), seed=0), 1)
    assert found == pytest.approx((1, np.nan, np.nan), nan_ok=True)
    assert verdict(found, sign=1) == verdict(found, sign=-1) == UNDECIDED
    assert units_to_resolve(found, 1) is None


def test_nothing_resolves_a_difference_of_zero():
    assert units_to_resolve(Interval(0.0, -1.0, 1.0), 10) is None
    assert units_to_resolve(Interval(np.nan, np.nan, np.nan), 10) is None


@pytest.mark.parametrize(
    ("pooled", "cells", "said"),
    [
        (UNDECIDED, [HOLDS, FAILS], DIFFERS),
        (HOLDS, [HOLDS, HOLDS, FAILS], DIFFERS),
        (HOLDS, [UNDECIDED, UNDECIDED, FAILS], DIFFERS),  # some cell must be on the mean's side
        (FAILS, [UNDECIDED, HOLDS], DIFFERS),
        (HOLDS, [UNDECIDED, HOLDS], HOLDS),
        (FAILS, [UNDECIDED, FAILS], FAILS),
        (UNDECIDED, [UNDECIDED, HOLDS], UNDECIDED),
    ],
)
def test_cells_on_either_side_differ(pooled, cells, said):
    assert over_cells(pooled, cells) == said


def test_intervals_of_several_cells_have_bonferronis_level():
    one = Interval(1.0, 1.0 - 1.959964, 1.0 + 2 * 1.959964)
    assert widened([one]) == [one]
    assert widened([one] * 2) == [one] * 2
    found = widened([one] * 11)[0]
    assert found == pytest.approx((1.0, 1.0 - 2.807034, 1.0 + 2 * 2.807034), rel=1e-6)  # 99.5% of a normal


def test_cells_that_are_alike_seldom_seem_to_differ():
    """One plainly holds and the others are 0: 2.5% of all searches find one of these below, not 2.5% of the cells."""
    generator = np.random.default_rng(0)
    false = 0
    for _ in range(1_000):
        values = np.array([10.0, *generator.normal(0, 1, 19)])
        intervals = [Interval(value, value - 1.96, value + 1.96) for value in values]
        said = [verdict(one, sign=1) for one in widened(intervals)]
        false += over_cells(UNDECIDED, said) == DIFFERS
    assert 0.01 < false / 1_000 < 0.04
