import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from bsc.autointerp.metrics import (
    auroc,
    coder_scores,
    dense_band,
    effective_sample_size,
    frequency_weighted,
    latent_counts,
    outcome,
)
from bsc.autointerp.pareto import inclusion_probabilities, pareto_sample
from bsc.evaluation.bootstrap import bootstrap_mean

_ANSWERS = st.lists(st.tuples(st.booleans(), st.sampled_from([1, 0, -1])), min_size=1, max_size=60)


@settings(deadline=None, max_examples=80)
@given(_ANSWERS)
def test_metrics_are_sklearns_with_unparsed_answers_counted_as_wrong(pairs) -> None:
    firing, answers = (np.array(column) for column in zip(*pairs, strict=True))
    firing = firing.astype(bool)
    found = outcome(firing, answers)
    yes = np.array([answer == 1 if answer >= 0 else not fires for fires, answer in pairs])
    expected = {
        "precision": sklearn_metrics.precision_score(firing, yes, zero_division=0),
        "recall": sklearn_metrics.recall_score(firing, yes, zero_division=0),
        "f1": sklearn_metrics.f1_score(firing, yes, zero_division=0),
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-12)
    table = sklearn_metrics.confusion_matrix(firing, yes, labels=[False, True])
    names = [["true_negative", "false_positive"], ["false_negative", "true_positive"]]
    assert [[found[name] for name in row] for row in names] == table.tolist()
    assert found["unparsed"] == sum(answer == -1 for _, answer in pairs)
    read = answers >= 0
    dropped = sklearn_metrics.f1_score(firing[read], answers[read] == 1, zero_division=0) if read.any() else 0
    assert found["f1_parsed"] == pytest.approx(dropped, abs=1e-12)
    if firing.any() and not firing.all():
        assert found["balanced_accuracy"] == pytest.approx(sklearn_metrics.balanced_accuracy_score(firing, yes), abs=1e-12)
    assert np.isnan(found["auroc"])


_PROBABLE = st.lists(st.tuples(st.booleans(), st.none() | st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0])), min_size=2, max_size=60)


@settings(deadline=None, max_examples=80)
@given(_PROBABLE)
def test_auroc_is_sklearns_with_questions_without_a_probability_counted_as_wrong(pairs) -> None:
    firing = np.array([fires for fires, _ in pairs])
    probabilities = np.array([np.nan if value is None else value for _, value in pairs])
    found = auroc(firing, probabilities)
    if np.isnan(probabilities).all() or firing.all() or not firing.any():
        assert np.isnan(found)
        return
    wrong = np.where(firing, -1.0, 2.0)
    expected = sklearn_metrics.roc_auc_score(firing, np.where(np.isnan(probabilities), wrong, probabilities))
    assert found == pytest.approx(expected, abs=1e-12)


def test_metrics_by_hand() -> None:
    firing = np.array([True] * 5 + [False] * 5)
    found = outcome(firing, np.array([1, 1, 1, 0, -1, 0, 0, 1, -1, -1]))
    assert [found[name] for name in ("true_positive", "false_negative", "false_positive", "true_negative")] == [3, 2, 3, 2]
    assert found["precision"] == 3 / 6
    assert found["recall"] == 3 / 5
    assert found["f1"] == pytest.approx(6 / 11)
    assert found["f1_parsed"] == pytest.approx(6 / 8)
    assert found["balanced_accuracy"] == pytest.approx((3 / 5 + 2 / 5) / 2)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 10_000), st.floats(1, 30)), min_size=1, max_size=40))
def test_frequency_weighted_is_the_formula(rows) -> None:
    f1, firings, weights = (pd.Series(column) for column in zip(*rows, strict=True))
    if firings.sum() == 0:
        with pytest.raises(ValueError, match="no scored latent fired"):
            frequency_weighted(f1, firings, weights)
        return
    expected = sum(weight * count * score for score, count, weight in rows) / sum(weight * count for _, count, weight in rows)
    assert frequency_weighted(f1, firings, weights) == pytest.approx(expected)
    once = pd.Series(1.0, f1.index)
    assert frequency_weighted(f1, firings, once) == float((f1 * firings).sum() / firings.sum())


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.floats(0, 1), st.integers(1, 10_000), st.integers(1, 5)), min_size=2, max_size=30))
def test_a_latent_that_stands_for_several_counts_as_so_many(rows) -> None:
    scores = pd.DataFrame(rows, columns=["f1", "firings", "sampling_weight"])
    several = scores.loc[scores.index.repeat(scores["sampling_weight"])].assign(sampling_weight=1.0)
    one, other = (coder_scores(table, pd.Series({"scored": 9}), resamples=100, seed=0) for table in (scores, several))
    for score in ("unweighted", "weighted"):
        assert one[score]["value"] == pytest.approx(other[score]["value"])
        assert one[score]["low"] <= one[score]["value"] + 1e-12
    assert one["weighted"]["dense_as_zero"] == pytest.approx(other["weighted"]["dense_as_zero"])


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.floats(0, 1), st.integers(1, 10_000)), min_size=2, max_size=60))
def test_where_all_latents_weigh_one_scores_are_bit_for_bit_those_without_weights(rows) -> None:
    scores = pd.DataFrame(rows, columns=["f1", "firings"]).assign(sampling_weight=1.0)
    found = coder_scores(scores, pd.Series({"scored": 9}), resamples=100, seed=0)
    assert found["unweighted"] == bootstrap_mean(scores["f1"], resamples=100, seed=0).as_json()
    weighted = bootstrap_mean(scores["f1"], weights=scores["firings"], resamples=100, seed=0).as_json()
    assert {name: found["weighted"][name] for name in weighted} == weighted


@pytest.mark.parametrize("size", [60, 120, 240])
def test_intervals_of_sampled_latents_are_as_wide_as_scores_vary_over_coders_and_draws(size) -> None:
    """Of 240 latents each; an eighth of a sample of 120 is drawn for certain, and all of 240."""
    generator, found = np.random.default_rng(0), []
    for trial in range(400):
        firings = np.floor(np.exp(generator.normal(5, 1, 240))).astype(np.int64) + 1
        f1 = np.clip(0.8 - 0.06 * np.log(firings) + generator.normal(0, 0.1, 240), 0, 1)
        chances = inclusion_probabilities(firings, size) if size < 240 else np.ones(240)
        drawn = pareto_sample(chances, generator.random(240), size)
        table = pd.DataFrame({"f1": f1, "firings": firings, "sampling_weight": 1 / chances})[drawn]
        scores = coder_scores(table, pd.Series({"scored": 1}), resamples=200, seed=trial)
        found.append([(one["value"], one["high"] - one["low"]) for one in scores.values()])
    values, widths = np.moveaxis(found, -1, 0)
    assert widths.mean(axis=0) / (2 * 1.96) == pytest.approx(values.std(axis=0), rel=0.12)


def test_the_effective_sample_size_is_the_number_of_equal_weights() -> None:
    assert effective_sample_size(pd.Series([3.0] * 7)) == 7
    assert effective_sample_size(pd.Series([1e6, *[1.0] * 199])) == pytest.approx(1, abs=1e-3)
    scores = pd.DataFrame({"f1": [1.0, 0.5, 0.0], "firings": [10, 20, 30], "sampling_weight": [4.0, 2.0, 1.0]})
    found = coder_scores(scores, pd.Series({"scored": 60}), resamples=100, seed=0)["weighted"]
    assert found["effective_sample_size"] == pytest.approx(110**2 / (40**2 + 40**2 + 30**2))


def test_the_band_of_dense_latents() -> None:
    scores = pd.DataFrame({"f1": [1.0, 0.5, 0.0], "firings": [10, 20, 30], "sampling_weight": 1.0})
    found = coder_scores(scores, pd.Series({"scored": 60, "too dense": 40, "too rare": 1000}), resamples=200, seed=0)
    assert found["unweighted"]["value"] == pytest.approx(0.5)
    weighted = found["weighted"]
    assert weighted["value"] == pytest.approx(20 / 60)
    assert weighted["dense_as_zero"] == pytest.approx(20 / 100)
    assert weighted["dense_as_one"] == pytest.approx(60 / 100)
    for score in found.values():
        assert score["low"] <= score["value"] <= score["high"]


def test_latents_that_were_not_sampled_keep_their_weight_against_the_dense() -> None:
    band = dense_band(0.5, pd.Series({"scored": 10, "not sampled": 90, "too dense": 100}))
    assert band == pytest.approx({"dense_as_zero": 0.25, "dense_as_one": 0.75})


def test_without_a_scored_latent_scores_are_null() -> None:
    found = coder_scores(pd.DataFrame({"f1": [], "firings": []}), pd.Series({"too dense": 4}), resamples=100, seed=0)
    assert set(found["weighted"].values()) == set(found["unweighted"].values()) == {None}


def test_counts_and_shares() -> None:
    statuses = ["scored", "too rare", "too rare", "too dense", "not sampled"]
    counts = latent_counts(pd.DataFrame({"status": statuses, "firings": [10, 0, 5, 75, 10]}))
    assert counts["latents"] == {"scored": 1, "too_rare": 2, "too_dense": 1, "not_sampled": 1}
    assert counts["firing_shares"] == {"scored": 0.1, "too_rare": 0.05, "too_dense": 0.75, "not_sampled": 0.1}
    silent = latent_counts(pd.DataFrame({"status": ["too rare"], "firings": [0]}))
    assert silent["firing_shares"]["too_rare"] == 0
