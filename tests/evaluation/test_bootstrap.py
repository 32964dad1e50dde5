import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from bsc.evaluation import bootstrap as module
from bsc.evaluation.bootstrap import Interval, bootstrap, bootstrap_mean, bootstrap_ratio, bootstrap_ratios, ratios, wilson


def expanded(units):
    """The level of the plain percentile interval that is ours of so many units, for scipy."""
    return 1 - 2 * stats.norm.cdf(np.sqrt(units / (units - 1)) * stats.t.ppf(0.025, units - 1))


def test_mean_agrees_with_scipy():
    data = np.random.default_rng(0).exponential(size=80)
    ours = bootstrap_mean(data, resamples=20_000, seed=1)
    options = {"n_resamples": 20_000, "confidence_level": expanded(80), "method": "percentile", "random_state": 2}
    theirs = stats.bootstrap((data,), np.mean, **options).confidence_interval
    assert ours.value == pytest.approx(data.mean(), rel=1e-12)
    assert ours.low == pytest.approx(theirs.low, rel=0.01)
    assert ours.high == pytest.approx(theirs.high, rel=0.01)


def test_ratio_of_paired_sums_agrees_with_scipy():
    generator = np.random.default_rng(0)
    below = generator.uniform(1, 2, size=60)
    above = below * generator.uniform(0.2, 0.4, size=60)
    ours = bootstrap_ratio(above, below, resamples=20_000, seed=1)

    def ratio(above, below, axis=-1):
        return above.sum(axis=axis) / below.sum(axis=axis)

    options = {"n_resamples": 20_000, "confidence_level": expanded(60), "method": "percentile", "random_state": 2}
    theirs = stats.bootstrap((above, below), ratio, paired=True, **options).confidence_interval
    assert ours.value == pytest.approx(above.sum() / below.sum(), rel=1e-12)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), rel=0.01)


def test_weighted_mean_is_the_ratio_of_weighted_sums():
    values, weights = np.array([0.0, 1.0, 0.5]), np.array([1.0, 3.0, 4.0])
    weighted = bootstrap_mean(values, weights=weights, resamples=500, seed=3)
    assert weighted.value == pytest.approx(5 / 8)
    assert weighted == bootstrap_ratio(values * weights, weights, resamples=500, seed=3)
    assert weighted != bootstrap_mean(values, resamples=500, seed=3)


@given(st.integers(2, 40), st.integers(1, 4), st.integers(0, 9), st.sampled_from([1, 70, 1 << 17]))
def test_ratios_share_resamples_and_are_each_what_it_is_alone(units, count, seed, at_once):
    generator = np.random.default_rng(seed)
    sums = [(generator.normal(size=units), generator.integers(0, 2, size=units)) for _ in range(count)]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "_COUNTS_AT_ONCE", at_once)
        found = ratios(sums, resamples=20, seed=seed)
        intervals = bootstrap_ratios(sums, resamples=20, seed=seed)
        for pair, mine, interval in zip(sums, found, intervals, strict=True):
            np.testing.assert_array_equal(mine, ratios([pair], resamples=20, seed=seed)[0])
            np.testing.assert_equal(interval, bootstrap_ratio(*pair, resamples=20, seed=seed))
    drawn = [range(units), *np.random.default_rng(seed).integers(0, units, size=(20, units)).tolist()]
    for (above, below), mine in zip(sums, found, strict=True):
        totals = [(sum(above[unit] for unit in one), sum(below[unit] for unit in one)) for one in drawn]
        assert mine.tolist() == pytest.approx([a / b if b else np.nan for a, b in totals], rel=1e-9, abs=1e-9, nan_ok=True)


def test_ratios_over_different_units_are_refused():
    with pytest.raises(ValueError, match="values to unpack"):
        ratios([([1.0], [1.0]), ([1.0, 2.0], [1.0, 1.0])], resamples=10, seed=0)


@pytest.mark.parametrize(("units", "normal", "skewed"), [(8, 0.91, 0.88), (15, 0.935, 0.9), (30, 0.935, 0.91)])
def test_intervals_of_few_units_cover_the_truth_about_as_often_as_they_say(units, normal, skewed):
    """A ratio whose error is normal, or exponential: plain percentiles cover it 0.88, 0.92, 0.94 and 0.84, 0.89, 0.91 times."""
    for drawn, least in (("normal", normal), ("exponential", skewed)):
        generator = np.random.default_rng(units)
        covered = []
        for trial in range(1_000):
            below = generator.uniform(1, 3, units)
            error = getattr(generator, drawn)(size=units) - (drawn == "exponential")
            found = bootstrap_ratio(0.5 * below + error, below, resamples=400, seed=trial)
            covered.append(found.low <= 0.5 <= found.high)
        assert least < np.mean(covered) < 0.97


@given(
    data=st.lists(st.floats(-100, 100), min_size=2, max_size=30),
    seed=st.integers(0, 9),
)
def test_interval_lies_within_the_data_and_is_the_seeds(data, seed):
    interval = bootstrap_mean(data, resamples=100, seed=seed)
    assert min(data) - 1e-9 <= interval.low <= interval.high <= max(data) + 1e-9
    assert interval == bootstrap_mean(data, resamples=100, seed=seed)


def test_seeds_differ():
    data = np.arange(30.0)
    assert bootstrap_mean(data, resamples=100, seed=0) != bootstrap_mean(data, resamples=100, seed=1)


def test_work_in_pieces_takes_every_resample(monkeypatch):
    sizes = []

    def statistic(counts):
        sizes.append(counts.shape)
        assert (counts.sum(axis=1) == 10).all()
        return counts[:, 0]

    monkeypatch.setattr(module, "_COUNTS_AT_ONCE", 70)
    bootstrap(statistic, 10, resamples=25, seed=0)
    assert sizes == [(7, 10), (7, 10), (7, 10), (4, 10), (1, 10)]


def test_undefined_resamples_are_left_out():
    interval = bootstrap_ratio([0.0, 1.0], [0.0, 2.0], resamples=200, seed=0)
    assert interval == Interval(0.5, 0.5, 0.5)
    nothing = bootstrap_ratio([0.0, 0.0], [0.0, 0.0], resamples=200, seed=0)
    assert np.isnan(nothing).all()
    assert nothing.as_json() == {"value": None, "low": None, "high": None}


def test_one_unit_has_a_value_and_no_interval():
    found = bootstrap_ratio([3.0], [2.0], resamples=100, seed=0)
    assert found == pytest.approx((1.5, np.nan, np.nan), nan_ok=True)
    assert found.as_json() == {"value": 1.5, "low": None, "high": None}


def test_nothing_to_resample():
    with pytest.raises(ValueError, match="no unit"):
        bootstrap_mean([], resamples=100, seed=0)


@pytest.mark.parametrize(("count", "total"), [(0, 50), (3, 50), (25, 50), (50, 50)])
def test_wilson_agrees_with_scipy(count, total):
    theirs = stats.binomtest(count, total).proportion_ci(0.95, method="wilson")
    assert wilson(count, total) == pytest.approx((count / total, theirs.low, theirs.high), abs=1e-12)


def test_wilson_of_nothing_is_undefined():
    assert np.isnan(wilson(0, 0)).all()


def test_no_torch():
    code = "import sys, bsc.evaluation.bootstrap; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
