"""Windows as a reader sees them: the strongest first, ties at random, marks where the latent fires."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from autointerp_world import World, windows_spec

from bsc.autointerp.explain import decoder
from bsc.autointerp.look import HALVES, Latents
from bsc.errors import UserError
from bsc.io import write_manifest, write_parquet


def looked_at(world: World) -> Latents:
    """Latent 0 fires on token 7, more strongly the later in its context; latent 1 on token 3, always with 1; latent 2 never."""
    cache = world.cache(
        [lambda tokens: (tokens == 7) * np.arange(tokens.shape[1]), lambda tokens: tokens == 3, lambda tokens: tokens < 0]
    )
    return Latents(pd.DataFrame(), cache, world.grid(windows_spec()), decoder(world.root / "model"))


def test_the_strongest_windows_come_first_and_what_fires_is_marked(world: World) -> None:
    latents = looked_at(world)
    windows = latents.windows(0, most=20)
    assert len(windows) == 20
    assert windows["activation"].is_monotonic_decreasing
    assert windows["activation"].iloc[0] == latents.cache.of(0)[1].max()
    assert all("<<w7" in text and "<<w3" not in text for text in windows["text"])
    assert windows["half"].tolist() == [HALVES[half] for half in latents.grid.halves[windows["window"]].tolist()]
    assert latents.texts(0, windows["window"]) == windows["text"].tolist()


def test_windows_of_a_binary_latent_are_drawn_at_random_and_those_of_a_silent_one_are_none(world: World) -> None:
    latents = looked_at(world)
    first, again, other = (latents.windows(1, seed=seed)["window"].tolist() for seed in (0, 0, 1))
    assert first == again != other
    assert first != sorted(first)
    assert latents.windows(2).empty


@pytest.mark.parametrize("latent", [-1, 3])
def test_a_latent_that_is_not_there_is_told(world: World, latent: int) -> None:
    with pytest.raises(IndexError, match=rf"there is no latent {latent}: the coder has 3"):
        looked_at(world).windows(latent)


def test_a_coder_is_named_by_its_whole_path(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="`x/y` names no coder"):
        Latents.open(tmp_path, "x/y")


@pytest.mark.parametrize(
    ("status", "weights"),
    [
        (["scored", "too rare", "scored", "too dense"], [1, 0, 1, 0]),
        (["scored", "not sampled", "not sampled", "too rare"], [3, 0, 0, 0]),
        (["too rare"] * 4, [0, 0, 0, 0]),
    ],
)
def test_results_from_before_there_were_sampling_weights_are_of_uniform_draws(
    world: World, status: list[str], weights: list[float]
) -> None:
    world.cache([lambda tokens, token=token: tokens == token for token in range(4)])
    coder = "m/layers.0.mlp/sae-topk-k4/seed1"
    place = world.root / "results" / "autointerp" / coder / "trained"
    for name, folder in {"tokens": "tokens/m", "model": "models/m", "latents": place / "latents"}.items():
        shutil.copytree(world.root / name, world.root / "results" / folder)
    explanations = pd.DataFrame({"latent": range(4), "status": status, "firings": [4, 3, 2, 1], "explanation": "fires"})
    scores = pd.DataFrame({"latent": [0], "scorer": ["fuzzing"], "control": ["none"], "f1": [0.5]})
    for name, table in {"explanations": explanations, "scores": scores}.items():
        write_parquet(place / name / f"{name}.parquet", table)
        write_manifest(place / name, [f"{name}.parquet"], {"windows": windows_spec().model_dump()})
    table = Latents.open(world.root / "results", coder).table
    assert table["sampling_weight"].tolist() == weights
    assert table["fuzzing"].tolist() == pytest.approx([0.5, *[np.nan] * 3], nan_ok=True)


@pytest.mark.parametrize("window", [-1, 800])
def test_a_window_that_is_not_there_is_told(world: World, window: int) -> None:
    with pytest.raises(IndexError, match=rf"there is no window {window}: the text has 800"):
        looked_at(world).texts(0, [0, window])
    with pytest.raises(IndexError, match="there is no latent 3"):
        looked_at(world).texts(3, [0])


def test_a_variant_or_explainer_that_is_not_there_is_told_with_those_that_are(tmp_path: Path) -> None:
    coder = tmp_path / "autointerp" / "m" / "layers.9.mlp" / "sae-topk-k16" / "seed1"
    for folder in ("trained/latents", "trained/scores", "trained/llama/scores", "random/latents"):
        (coder / folder).mkdir(parents=True)
    name = "m/layers.9.mlp/sae-topk-k16/seed1"
    with pytest.raises(UserError, match="there is no variant `randon`, but `random`, `trained`"):
        Latents.open(tmp_path, name, variant="randon")
    with pytest.raises(UserError, match="there is no explainer `lama`, but `llama`, `ngram`"):
        Latents.open(tmp_path, name, explainer="lama")
    with pytest.raises(UserError) as caught:
        Latents.open(tmp_path, name, variant="random")
    assert caught.value.what == "there is no explainer `ngram`"
