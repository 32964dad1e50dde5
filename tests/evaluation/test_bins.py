import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bsc.evaluation.bins import bin_facts, equal_firing_bins


def latents_of(f1, firings):
    return pd.DataFrame({"latent": np.arange(len(f1)) * 3 + 1, "f1": f1, "firings": firings})


some = st.lists(st.tuples(st.sampled_from([0.0, 0.2, 0.5, 0.8, 1.0]), st.integers(0, 400)), min_size=1, max_size=60)


@settings(deadline=None)
@given(drawn=some, bins=st.integers(2, 20))
def test_bins_hold_every_firing_latent_once_by_rising_f1(drawn, bins):
    f1, firings = map(list, zip(*drawn, strict=True))
    table = latents_of(f1, firings)
    members = equal_firing_bins(table, bins)
    firing = table[table["firings"] > 0]
    assert sorted(members["latent"]) == sorted(firing["latent"])
    pairs = list(zip(members["f1"], members["latent"], strict=True))
    assert pairs == sorted(pairs)
    numbers = members["bin"].tolist()
    assert sorted(set(numbers)) == list(range(len(set(numbers))))
    assert numbers == sorted(numbers)
    if not len(members):
        return
    share = members["firings"].sum() / bins
    for _, group in members.groupby("bin"):
        assert len(group) == 1 or (group["firings"].max() <= share and group["firings"].sum() <= 2 * share)
    alone = int((members["firings"] > share).sum())
    assert members["bin"].nunique() <= bins + 2 * alone


def test_equal_latents_give_equal_bins():
    members = equal_firing_bins(latents_of(np.linspace(0, 1, 100), [7] * 100), 20)
    assert members.groupby("bin")["firings"].sum().tolist() == [35] * 20


def test_a_latent_above_its_share_is_a_bin_of_its_own():
    members = equal_firing_bins(latents_of([0.1, 0.2, 0.3, 0.4, 0.5], [10, 10, 1000, 10, 10]), 4)
    (number,) = members.loc[members["firings"] == 1000, "bin"]
    assert (members["bin"] == number).sum() == 1
    assert members["bin"].tolist() == [0, 0, 1, 2, 2]


def test_facts_are_weighted_by_firings():
    members = pd.DataFrame({"latent": [0, 1, 2], "f1": [0.2, 0.6, 1.0], "firings": [1, 3, 5], "bin": [0, 0, 1]})
    facts = bin_facts(members)
    assert facts["f1"].tolist() == pytest.approx([(0.2 + 1.8) / 4, 1.0])
    assert facts["firings"].tolist() == [4, 5]
    assert facts["latents"].tolist() == [2, 1]


def test_nothing_that_fires_gives_no_bin():
    assert equal_firing_bins(latents_of([0.5], [0]), 5).empty
