import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from bsc.activations.index import write_index
from bsc.autointerp.cache import cache_latents
from bsc.autointerp.firings import LatentCache
from bsc.coders.coder import SparseCoder
from bsc.coders.load import load_coder, save_coder
from bsc.errors import CorruptFile, UserError
from bsc.io import write_tensors
from bsc.stages import CoderSpec, LatentsSpec

CONTEXT, WIDTH, LATENTS, K = 32, 8, 24, 4


def _coder_spec(**changes) -> CoderSpec:
    values = {
        "width": WIDTH,
        "latents": LATENTS,
        "k": K,
        "architecture": "transcoder",
        "binariser": "topk",
        "options": {},
        "seed": 1,
        "tokens": 1000,
        "batch_tokens": 100,
        "optimiser": "adam",
        "learning_rate": 1e-3,
        "warmup_steps": 1,
        "auxk": False,
        "multi_topk": False,
        "dead_after_tokens": 1000,
        "dtype": "float32",
    }
    return CoderSpec(**{**values, **changes})


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """Two shards of activations, of 20 and 7 contexts, with a mean far from 0 and a massive position 0."""
    generator = torch.Generator().manual_seed(0)
    paths = []
    for number, contexts in enumerate((20, 7)):
        tensors = {}
        for side, mean in (("input", 3.0), ("output", -2.0)):
            values = torch.randn(contexts, CONTEXT, WIDTH, generator=generator) + mean
            values[:, 0] *= 100
            tensors[side] = values.reshape(-1, WIDTH).bfloat16()
        paths.append(tmp_path / f"shard{number}" / "layers.1.mlp.safetensors")
        write_tensors(paths[-1], tensors)
    write_index(paths, CONTEXT, tmp_path / "layers.1.mlp.json")
    return tmp_path / "layers.1.mlp.json"


def _saved(folder: Path, **changes) -> Path:
    spec = _coder_spec(**changes)
    coder = SparseCoder.build(spec)
    with torch.no_grad():
        coder.b_enc.uniform_(-1, 1, generator=torch.Generator().manual_seed(7))
    save_coder(coder, spec, folder, pd.DataFrame({"step": [0]}))
    return folder


def _cached(coder: Path, index: Path, output: Path, variant: str = "trained") -> LatentCache:
    cache_latents(LatentsSpec(variant=variant, seed=3, dtype="float32"), coder, index, output)
    return LatentCache.open(output)


def _inputs(index: Path, side: str) -> np.ndarray:
    from bsc.activations.store import ActivationStore

    return np.concatenate([getattr(shard, side).double().numpy() for shard in ActivationStore.open(index).shards])


def _dense(cache: LatentCache, rows: int) -> np.ndarray:
    dense = np.zeros((rows, len(cache.firings)))
    for latent in range(len(cache.firings)):
        where, values = cache.of(latent)
        dense[where, latent] = values
    return dense


@pytest.mark.parametrize(("architecture", "side"), [("transcoder", "input"), ("skip-transcoder", "input"), ("sae", "output")])
def test_firings_are_those_of_a_float64_encoder(tmp_path, index, architecture, side) -> None:
    folder = _saved(tmp_path / "coder", architecture=architecture)
    cache = _cached(folder, index, tmp_path / "latents")
    coder = load_coder(folder)
    x = _inputs(index, side)
    offset = coder.b_dec.detach().double().numpy() if architecture == "sae" else 0
    p = (x - offset) @ coder.W_enc.detach().double().numpy().T + coder.b_enc.detach().double().numpy()
    expected = np.where(p >= np.sort(p, axis=1)[:, [-K]], np.maximum(p, 0), 0)
    expected[np.arange(len(x)) % CONTEXT == 0] = 0
    np.testing.assert_allclose(_dense(cache, len(x)), expected, rtol=1e-4, atol=1e-5)
    counts = pd.read_parquet(tmp_path / "latents" / "counts.parquet")
    usable = 27 * (CONTEXT - 1)
    np.testing.assert_array_equal(counts["firings"], (expected > 0).sum(0))
    np.testing.assert_allclose(counts["rate"], (expected > 0).sum(0) / usable)
    metrics = json.loads((tmp_path / "latents" / "metrics.json").read_text())
    assert metrics == {
        "tokens": usable,
        "firings": (expected > 0).sum(),
        "l0": pytest.approx((expected > 0).sum() / usable),
        "dead_fraction": (~expected.any(0)).mean(),
    }


def test_a_binarised_coder_fires_where_the_trained_one_does_and_always_with_1(tmp_path, index) -> None:
    folder = _saved(tmp_path / "coder")
    trained, binarised = (_cached(folder, index, tmp_path / name, name) for name in ("trained", "binarised"))
    np.testing.assert_array_equal(trained.rows, binarised.rows)
    np.testing.assert_array_equal(trained.offsets, binarised.offsets)
    assert (binarised.values == 1).all()
    assert len(np.unique(trained.values)) > 100


@pytest.mark.parametrize("binariser", ["topk", "binary-topk", "gumbel"])
@pytest.mark.parametrize("architecture", ["sae", "transcoder"])
def test_a_random_coder_is_fresh_and_centred(tmp_path, index, binariser, architecture) -> None:
    folder = _saved(tmp_path / "coder", binariser=binariser, architecture=architecture)
    random = _cached(folder, index, tmp_path / "random", "random")
    trained = _cached(folder, index, tmp_path / "trained")
    assert not np.array_equal(random.rows, trained.rows)
    counts = random.firings / random.facts["usable_rows"]
    # Uncentred, the mean of the activations would keep the same few latents on at every token.
    assert counts.max() < 0.7
    assert (counts > 0.01).sum() > LATENTS * 0.6


def test_every_binary_value_is_1(tmp_path, index) -> None:
    cache = _cached(_saved(tmp_path / "coder", binariser="binary-topk"), index, tmp_path / "latents")
    assert len(cache.values) > 0
    assert (cache.values == 1).all()


def test_another_width_and_altered_weights_are_refused(tmp_path, index) -> None:
    with pytest.raises(UserError, match="width 6 and the activations 8"):
        _cached(_saved(tmp_path / "narrow", width=6), index, tmp_path / "latents")
    folder = _saved(tmp_path / "coder")
    path = folder / "coder.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    for variant in ("trained", "random"):
        with pytest.raises(CorruptFile, match="SHA-256"):
            _cached(folder, index, tmp_path / "latents", variant)
    assert not (tmp_path / "latents" / "manifest.json").exists()
