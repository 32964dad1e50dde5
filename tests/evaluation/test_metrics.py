import numpy as np
import pandas as pd
import pytest

from bsc.evaluation.metrics import fidelity_metrics, frequency_metrics, language_metrics, summary

DRAWN = {"resamples": 200, "seed": 0}
BASELINE = pd.DataFrame({"sequence": [0, 1], "tokens": [10, 10], "ce": [2.0, 4.0], "accuracy": [0.5, 0.3]})
SPLICED = pd.DataFrame({"sequence": [0, 1], "tokens": [10, 10], "ce": [2.5, 4.7], "accuracy": [0.4, 0.3]})


def test_summary_is_over_tokens():
    assert summary(BASELINE) == {"sequences": 2, "tokens": 20, "ce": 3.0, "accuracy": 0.4}


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
    baseline = pd.DataFrame({"tokens": 10, "ce": hard, "accuracy": 0.5})
    interval = language_metrics(baseline.assign(ce=hard + 0.1), baseline, **DRAWN)["ce_increase"]
    assert interval == pytest.approx({"value": 0.1, "low": 0.1, "high": 0.1})


def test_fvu_is_a_ratio_of_sums_not_a_mean_of_ratios():
    sequences = pd.DataFrame({"squared_error": [1.0, 30.0], "squared_deviation": [10.0, 40.0]})
    interval = fidelity_metrics(sequences, **DRAWN)["fvu"]
    assert interval == pytest.approx({"value": 31 / 50, "low": 0.1, "high": 0.75})


def test_frequencies():
    sequences = pd.DataFrame({"rows": [100, 100], "firings": [150, 250]})
    firings = np.array([0, 0, 20, 21, 359])
    latents = pd.DataFrame({"latent": range(5), "firings": firings, "rate": firings / 200})
    metrics = frequency_metrics(sequences, latents, **DRAWN)
    values = {name: interval["value"] for name, interval in metrics.items()}
    assert values == {"l0": 2.0, "dead_fraction": 0.4, "ultra_high_fraction": 0.4, "ultra_high_share": 380 / 400}
    assert all(interval["low"] <= interval["value"] <= interval["high"] for interval in metrics.values())
    assert metrics["l0"]["low"] == 1.5


def test_nothing_fires():
    sequences = pd.DataFrame({"rows": [100], "firings": [0]})
    latents = pd.DataFrame({"latent": range(3), "firings": 0, "rate": 0.0})
    metrics = frequency_metrics(sequences, latents, **DRAWN)
    assert metrics["ultra_high_share"] == {"value": None, "low": None, "high": None}
    assert metrics["l0"]["value"] == 0
    assert metrics["dead_fraction"]["value"] == 1
