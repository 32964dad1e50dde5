import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from bsc.probing.fit import auroc, balanced_accuracy, best_features, fit, mean_over_labels, split, standardised_difference


@pytest.fixture
def data():
    generator = np.random.default_rng(0)
    positive = generator.random(120) < 0.4
    features = generator.normal(size=(120, 12)) * generator.uniform(0.1, 30, 12)
    features[:, 7] += 40 * positive
    features[:, 2] -= 3 * positive
    return features, positive


def test_standardised_difference_is_the_formula(data):
    features, positive = data
    found = standardised_difference(features, positive)
    for column in range(features.shape[1]):
        inside, outside = features[positive, column], features[~positive, column]
        spread = np.sqrt((np.var(inside, ddof=1) + np.var(outside, ddof=1)) / 2)
        assert found[column] == pytest.approx((inside.mean() - outside.mean()) / spread, rel=1e-12)


def test_constant_features_come_last_and_perfect_ones_first():
    positive = np.array([True, True, False, False])
    features = np.array([[1.0, 5.0, 0.0], [1.0, 5.0, 1.0], [1.0, 4.0, 0.0], [1.0, 4.0, 1.0]])
    assert standardised_difference(features, positive).tolist() == [0.0, np.inf, 0.0]
    assert best_features(features, positive, 3).tolist() == [1, 0, 2]


def test_rounding_makes_no_difference_of_a_constant_feature():
    """Which, over a variance that is rounding too, was larger than that of any feature that tells the classes apart."""
    positive = np.arange(225) < 80
    features = np.random.default_rng(1).normal(size=(225, 5)).astype(np.float32)
    features[:, 2] = 0.0301
    assert standardised_difference(features, positive)[2] == 0
    assert best_features(features, positive, 5)[-1] == 2


def test_choice_and_fit_see_training_documents_alone(data):
    features, positive = data
    train = np.arange(120) < 80
    probe = fit(features, positive, train, 2)
    other = features.copy()
    other[~train] = np.random.default_rng(1).permutation(other[~train])
    other[~train, 4] += 1e6 * positive[~train]
    assert fit(other, positive, train, 2).features.tolist() == probe.features.tolist() == [7, 2]
    theirs = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=2_000))
    theirs.fit(features[train][:, probe.features], positive[train])
    assert probe.scores == pytest.approx(theirs.decision_function(features[~train][:, probe.features]), abs=1e-6)


def test_all_features_are_read_when_no_number_is_given(data):
    features, positive = data
    assert fit(features, positive, np.arange(120) < 80, None).features.tolist() == list(range(12))


@settings(deadline=None)
@given(seed=st.integers(0, 200))
def test_measures_of_resamples_agree_with_scikit_learns(seed):
    generator = np.random.default_rng(seed)
    positive = np.array([True, False, *(generator.random(18) < 0.5)])
    scores = generator.integers(-3, 4, 20).astype(float)
    counts = np.vstack([np.ones(20), generator.multinomial(20, np.full(20, 1 / 20), 3)]).astype(float)
    for row, one, other in zip(
        counts, auroc(scores, positive, counts), balanced_accuracy(scores, positive, counts), strict=True
    ):
        if row[positive].sum() == 0 or row[~positive].sum() == 0:
            assert np.isnan(one)
            assert np.isnan(other)
            continue
        assert one == pytest.approx(roc_auc_score(positive, scores, sample_weight=row))
        assert other == pytest.approx(balanced_accuracy_score(positive, scores > 0, sample_weight=row))


def test_a_resample_that_lacks_a_label_is_a_mean_over_the_others():
    values = [np.array([0.5, np.nan, np.nan]), np.array([0.7, 0.9, np.nan])]
    np.testing.assert_allclose(mean_over_labels(values), [0.6, 0.9, np.nan])


@settings(deadline=None)
@given(sizes=st.lists(st.integers(4, 30), min_size=2, max_size=5), seed=st.integers(0, 5), share=st.floats(0.1, 0.9))
def test_every_label_is_on_both_sides_of_the_split(sizes, seed, share):
    labels = [str(number) for number, size in enumerate(sizes) for _ in range(size)]
    train = split(labels, share, seed)
    for number, size in enumerate(sizes):
        mine = train[[label == str(number) for label in labels]]
        assert 2 <= mine.sum() <= size - 2
        assert abs((~mine).sum() - share * size) <= max(2, 0.5)
    assert train.tolist() == split(labels, share, seed).tolist()
