import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from autointerp_world import World, windows_spec
from hypothesis import given, settings
from hypothesis import strategies as st

from bsc.autointerp.explain import explain
from bsc.autointerp.samples import sample_for_explanation, sample_for_test
from bsc.autointerp.score import derangement, donors_of, score
from bsc.errors import CorruptFile, UserError
from bsc.stages import ExplainSpec, ScoreSpec

NGRAM = {"kind": "ngram", "length": 3, "patterns": 24, "precision": 0.5}


def _token(token: int):
    return lambda tokens: tokens == token


def _after(left: int, token: int):
    def rule(tokens: np.ndarray) -> np.ndarray:
        return (tokens == token) & (np.roll(tokens, 1, axis=1) == left)

    return rule


def _graded(token: int, seed: int):
    return lambda tokens: (tokens == token) * np.random.default_rng(seed).uniform(0.5, 3, size=tokens.shape)


def _noise(rate: float, seed: int):
    return lambda tokens: np.random.default_rng(seed).random(tokens.shape) < rate


def _run(world: World, **changes) -> dict:
    windows = windows_spec(**changes.pop("windows", {}))
    explain(
        ExplainSpec(windows=windows, explainer=NGRAM),
        world.root / "latents",
        world.root / "tokens",
        world.root / "model",
        world.root / "explanations",
    )
    spec = {
        "windows": windows,
        "scorers": ["detection", "fuzzing"],
        "marks": "fair",
        "windows_a_prompt": 5,
        "shuffled": True,
        "explainer": NGRAM,
        "resamples": 200,
        **changes,
    }
    score(
        ScoreSpec(**spec),
        world.root / "latents",
        world.root / "explanations",
        world.root / "tokens",
        world.root / "scores",
    )
    return json.loads((world.root / "scores" / "summary.json").read_text())


def test_planted_patterns_are_found_and_shuffled_ones_are_no_use(world) -> None:
    # Pairs are rare among 40 random tokens: make these common, and their last tokens too common to be patterns.
    generator = np.random.default_rng(1)
    for token in (31, 34):
        world.tokens[generator.random(world.tokens.shape) < 0.15] = token
    for left, token in ((30, 31), (32, 31), (33, 34)):
        places = generator.random(world.tokens.shape) < 0.02
        world.tokens[np.roll(places, -1, axis=1)] = left
        world.tokens[places] = token
    world.write()
    rules = [_token(3), _token(4), _graded(5, 0), _after(30, 31), _after(32, 31), _after(33, 34)]
    world.cache(rules)
    summary = _run(world)
    table = pd.read_parquet(world.root / "explanations" / "explanations.parquet")
    assert table["status"].tolist() == ["scored"] * 6
    assert table["explanation"].tolist()[:3] == ['fires on "w3"', 'fires on "w4"', 'fires on "w5"']
    assert table["explanation"][3].startswith('fires on "w31" after "w30"')
    assert json.loads(table["rules"][0]) == [[3]]
    for scorer in ("detection", "fuzzing"):
        own, other = (summary["scorers"][scorer][control]["unweighted"]["value"] for control in ("none", "shuffled"))
        assert own > 0.95
        assert other < 0.5
    scores = pd.read_parquet(world.root / "scores" / "scores.parquet")
    assert len(scores) == 6 * 2 * 2
    assert (scores["firings"] == scores["latent"].map(table.set_index("latent")["firings"])).all()


def test_a_latent_that_fires_at_random_is_not_explained(world) -> None:
    world.cache([_noise(0.02, seed) for seed in range(8)])
    summary = _run(world)
    assert summary["scorers"]["fuzzing"]["none"]["unweighted"]["value"] < 0.5


def test_answers_are_the_scores(world) -> None:
    world.cache([_token(token) for token in range(4)] + [_noise(0.03, 0)])
    _run(world)
    scores = pd.read_parquet(world.root / "scores" / "scores.parquet")
    answers = pd.read_parquet(world.root / "scores" / "answers.parquet")
    assert len(answers) == len(scores) * 40
    assert answers["answer"].dtype == "Int8"
    for key, group in answers.groupby(["latent", "scorer", "control"]):
        row = scores.set_index(["latent", "scorer", "control"]).loc[key]
        assert row["true_positive"] == ((group["answer"] == 1) & group["firing"]).sum()
        assert row["false_positive"] == ((group["answer"] == 1) & ~group["firing"]).sum()
    spec = windows_spec()
    from bsc.autointerp.firings import LatentCache

    cache, grid = LatentCache.open(world.root / "latents"), world.grid(spec)
    for latent, group in answers.groupby("latent"):
        test = sample_for_test(cache, grid, spec, latent)
        assert set(group.loc[group["firing"], "window"]) == set(test.firing)
        assert set(group.loc[~group["firing"], "window"]) == set(test.silent)
        assert not set(group["window"]) & set(sample_for_explanation(cache, grid, spec, latent).firing)


def test_two_runs_give_equal_bytes(world) -> None:
    world.cache([_token(token) for token in range(6)])
    found = []
    for _ in range(2):
        _run(world, windows={"latents": 4})
        files = sorted([*(world.root / "explanations").iterdir(), *(world.root / "scores").iterdir()])
        found.append([path.read_bytes() for path in files])
    assert found[0] == found[1]
    assert len(found[0]) == 6


def test_scores_of_a_sample_weigh_by_its_chances(world) -> None:
    world.cache([_token(token) for token in range(3)] + [_noise(rate, 0) for rate in (0.01, 0.02, 0.04)])
    found = _run(world, windows={"latents": 4})["scorers"]["fuzzing"]["none"]
    explained = pd.read_parquet(world.root / "explanations" / "explanations.parquet").set_index("latent")
    scores = pd.read_parquet(world.root / "scores" / "scores.parquet")
    assert scores["sampling_weight"].equals(scores["latent"].map(explained["sampling_weight"]))
    assert explained["sampling_weight"].gt(0).equals(explained["status"] == "scored")
    own = scores[(scores["scorer"] == "fuzzing") & (scores["control"] == "none")]
    assert own["sampling_weight"].nunique() > 1
    for name, weights in (("unweighted", 1), ("weighted", own["firings"])):
        expected = np.average(own["f1"], weights=own["sampling_weight"] * weights)
        assert found[name]["value"] == pytest.approx(expected)
        assert expected != pytest.approx(np.average(own["f1"], weights=0 * own["f1"] + weights))


def test_seeds_change_what_is_sampled(world) -> None:
    world.cache([_token(token) for token in range(6)])
    windows = []
    for seed in range(2):
        _run(world, windows={"seed": seed})
        windows.append(set(pd.read_parquet(world.root / "scores" / "answers.parquet")["window"]))
    assert windows[0] != windows[1]


def test_too_dense_and_too_rare_latents_are_counted_and_not_scored(world) -> None:
    world.cache([_token(1), _token(2), _noise(0.9, 0), _noise(0.0005, 1), _noise(0.0, 2)])
    summary = _run(world)
    assert summary["latents"] == {"scored": 2, "too_rare": 2, "too_dense": 1, "not_sampled": 0}
    assert summary["firing_shares"]["too_dense"] > 0.9
    weighted = summary["scorers"]["detection"]["none"]["weighted"]
    assert weighted["value"] == 1
    assert weighted["dense_as_one"] == 1
    assert weighted["dense_as_zero"] == pytest.approx(
        1 - summary["firing_shares"]["too_dense"] / (1 - summary["firing_shares"]["too_rare"])
    )
    table = pd.read_parquet(world.root / "explanations" / "explanations.parquet")
    assert table["explanation"].isna().tolist() == [False, False, True, True, True]


@pytest.mark.parametrize("scored", [0, 1])
def test_a_coder_without_enough_scored_latents_has_null_scores(world, scored) -> None:
    world.cache([_token(1)] * scored + [_noise(0.0, 0)])
    summary = _run(world)
    assert summary["latents"]["scored"] == scored
    for scorer in ("detection", "fuzzing"):
        own, other = (summary["scorers"][scorer][control] for control in ("none", "shuffled"))
        assert (own["unweighted"]["value"] is None) == (scored == 0)
        assert set(other["weighted"].values()) == {None}
    assert len(pd.read_parquet(world.root / "scores" / "scores.parquet")) == 2 * scored
    answers = pd.read_parquet(world.root / "scores" / "answers.parquet")
    assert answers["answer"].dtype == "Int8"


def test_no_shuffled_control_unless_asked_for(world) -> None:
    world.cache([_token(token) for token in range(3)])
    assert set(_run(world, shuffled=False)["scorers"]["detection"]) == {"none"}


def test_explanations_from_other_windows_are_refused(world) -> None:
    world.cache([_token(token) for token in range(3)])
    _run(world)
    spec = ScoreSpec(
        windows=windows_spec(seed=9),
        scorers=["detection"],
        marks="fair",
        windows_a_prompt=5,
        shuffled=False,
        explainer=NGRAM,
        resamples=100,
    )
    folders = [world.root / name for name in ("latents", "explanations", "tokens", "scores")]
    with pytest.raises(UserError, match="other windows"):
        score(spec, *folders)


def test_an_altered_tokenizer_is_refused(world) -> None:
    world.cache([_token(1)])
    path = world.root / "model" / "tokenizer.json"
    path.write_text(path.read_text().replace("w3", "x3"))
    with pytest.raises(CorruptFile, match="SHA-256"):
        _run(world)


def test_donors_are_drawn_by_sampling_weight() -> None:
    """A mean over donors is then one over all latents that the sample stands for."""
    weights = np.repeat([1.0, 9.0], 20)
    drawn = np.stack([donors_of(weights, [seed]) for seed in range(500)])
    assert (drawn != np.arange(40)).all()
    assert (drawn < 20).mean() == pytest.approx(0.1, abs=0.01)
    assert donors_of(np.full(7, 2.5), [3]).tolist() == derangement(7, [3]).tolist()


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 50), st.integers(0, 1000))
def test_a_derangement_moves_everything(count, seed) -> None:
    donors = derangement(count, [seed])
    assert sorted(donors) == list(range(count))
    assert (donors != np.arange(count)).all()


def test_no_torch_is_imported() -> None:
    code = """
import sys
import bsc.autointerp.explain, bsc.autointerp.score, bsc.autointerp.explainers.ngram
from bsc.autointerp.scorers import detection, fuzzing
import tokenizers
print([name for name in ("torch", "transformers", "matplotlib") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
