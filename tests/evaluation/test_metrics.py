import numpy as np
import pandas as pd
import pytest

from bsc.evaluation.bootstrap import Interval, ends
from bsc.evaluation.metrics import by_document, fidelity_metrics, frequency_metrics, language_metrics, summary

DRAWN = {"resamples": 200, "seed": 0}
BASELINE = pd.DataFrame({"sequence": [0, 1], "document": [4, 7], "tokens": [10, 10], "ce": [2.0, 4.0], "accuracy": [0.5, 0.3]})
SPLICED = pd.DataFrame({"sequence": [0, 1], "document": [4, 7], "tokens": [10, 10], "ce": [2.5, 4.7], "accuracy": [0.4, 0.3]})


def test_summary_is_over_tokens():
    assert summary(BASELINE) == {"sequences": 2, "documents": 2, "tokens": 20, "ce": 3.0, "accuracy": 0.4}


def test_what_splicing_costs():
    metrics = language_metrics(SPLICED, BASELINE, **DRAWN)
    assert metrics["ce"] == pytest.approx(3.6)
    assert metrics["baseline"] == {"ce": 3.0, "accuracy": 0.4}
    assert metrics["ce_increase"]["value"] == pytest.approx(0.6)
    assert metrics["relative_ce_increase"]["value"] == pytest.approx(0.2)
    assert metrics["accuracy_decrease"]["value"] == pytest.approx(0.05)


def test_runs_are_resampled_in_pairs():
    generator = np.random.default_rng(0)
    hard = generator.normal(3, 2, size=50)
    baseline = pd.DataFrame({"document": range(50), "tokens": 10, "ce": hard, "accuracy": 0.5})
    interval = language_metrics(baseline.assign(ce=hard + 0.1), baseline, **DRAWN)["ce_increase"]
    assert interval == pytest.approx({"value": 0.1, "low": 0.1, "high": 0.1})


def clustered(above, below, documents, resamples, seed):
    """Document by document, in float64: which are drawn, what all their sequences add up to, and the percentiles of that."""
    names = sorted(set(documents))
    drawn = np.random.default_rng(seed).integers(0, len(names), size=(resamples, len(names)))
    ratios = []
    for draw in drawn:
        taken = [sequence for number in draw for sequence, name in enumerate(documents) if name == names[number]]
        ratios.append(sum(above[taken]) / sum(below[taken]))
    return Interval(above.sum() / below.sum(), *ends(np.array(ratios), len(names))).as_json()


def test_intervals_are_those_of_resampled_documents():
    generator = np.random.default_rng(1)
    documents = [3, 3, 3, 9, 5, 5, 8, 8, 2, 3, 6, 7]
    rows, tokens = generator.integers(50, 100, size=(2, 12))
    baseline = pd.DataFrame({"document": documents, "tokens": tokens, "ce": generator.normal(3, 1, 12), "accuracy": 0.5})
    spliced = baseline.assign(ce=baseline["ce"] + generator.uniform(0, 0.2, 12), accuracy=generator.uniform(0.3, 0.5, 12))
    sums = {"squared_error": generator.uniform(1, 2, 12), "squared_deviation": generator.uniform(4, 9, 12)}
    sequences = pd.DataFrame({"document": documents, "rows": rows, "firings": 3 * rows + np.arange(12), **sums})
    more = ((spliced["ce"] - baseline["ce"]) * tokens).to_numpy()
    fewer = ((baseline["accuracy"] - spliced["accuracy"]) * tokens).to_numpy()
    latents = pd.DataFrame({"firings": [1, 2], "rate": [0.1, 0.2]})
    found = language_metrics(spliced, baseline, **DRAWN) | fidelity_metrics(sequences, **DRAWN)
    found |= frequency_metrics(sequences, latents, **DRAWN)
    expected = {
        "ce_increase": (more, tokens),
        "relative_ce_increase": (more, (baseline["ce"] * tokens).to_numpy()),
        "accuracy_decrease": (fewer, tokens),
        "fvu": (sums["squared_error"], sums["squared_deviation"]),
        "l0": (sequences["firings"].to_numpy(), rows),
    }
    for name, (above, below) in expected.items():
        assert found[name] == pytest.approx(clustered(above, below, documents, **DRAWN), rel=1e-12), name
    assert (found["sequences"], found["documents"]) == (12, 7)


def test_sequences_of_a_document_are_resampled_together():
    """Two that cancel each other within every document leave nothing that could vary."""
    rise = np.tile([1.0, -1.0], 20)
    baseline = pd.DataFrame({"document": np.arange(40) // 2, "tokens": 10, "ce": 3.0, "accuracy": 0.5})
    spliced = baseline.assign(ce=3.0 + rise)
    together = language_metrics(spliced, baseline, **DRAWN)["ce_increase"]
    assert together == {"value": 0, "low": 0, "high": 0}
    apart = language_metrics(spliced, baseline.assign(document=range(40)), **DRAWN)["ce_increase"]
    assert apart == together  # the spliced table says which documents
    apart = language_metrics(spliced.assign(document=range(40)), baseline, **DRAWN)["ce_increase"]
    assert apart["low"] < -0.1 < 0.1 < apart["high"]


def test_sums_are_by_document_in_the_order_of_their_numbers():
    above, below = by_document(pd.DataFrame({"document": [5, 2, 5]}), [1, 2, 3], [10, 20, 40])
    assert above.to_dict() == {2: 2, 5: 4}
    assert below.to_dict() == {2: 20, 5: 50}
    assert list(above.index) == list(below.index) == [2, 5]


def test_one_document_has_no_interval():
    one = {"document": [4, 4]}
    found = language_metrics(SPLICED.assign(**one), BASELINE.assign(**one), **DRAWN)
    assert found["documents"] == 1
    assert found["ce_increase"] == {"value": pytest.approx(0.6), "low": None, "high": None}


def test_fvu_is_a_ratio_of_sums_not_a_mean_of_ratios():
    sequences = pd.DataFrame({"document": [0, 1], "squared_error": [1.0, 30.0], "squared_deviation": [10.0, 40.0]})
    interval = fidelity_metrics(sequences, **DRAWN)["fvu"]
    assert interval == pytest.approx({"value": 31 / 50, "low": 0.1, "high": 0.75})


def test_frequencies():
    sequences = pd.DataFrame({"document": [0, 1], "rows": [100, 100], "firings": [150, 250]})
    firings = np.array([0, 0, 20, 21, 359])
    latents = pd.DataFrame({"latent": range(5), "firings": firings, "rate": firings / 200})
    metrics = frequency_metrics(sequences, latents, **DRAWN)
    values = {name: interval["value"] for name, interval in metrics.items()}
    assert values == {"l0": 2.0, "dead_fraction": 0.4, "ultra_high_fraction": 0.4, "ultra_high_share": 380 / 400}
    assert all(interval["low"] <= interval["value"] <= interval["high"] for interval in metrics.values())
    assert metrics["l0"]["low"] == 1.5


def test_nothing_fires():
    sequences = pd.DataFrame({"document": [0], "rows": [100], "firings": [0]})
    latents = pd.DataFrame({"latent": range(3), "firings": 0, "rate": 0.0})
    metrics = frequency_metrics(sequences, latents, **DRAWN)
    assert metrics["ultra_high_share"] == {"value": None, "low": None, "high": None}
    assert metrics["l0"]["value"] == 0
    assert metrics["dead_fraction"]["value"] == 1
