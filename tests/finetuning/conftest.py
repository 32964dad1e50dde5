"""Coders of a tiny model, and specs of their finetuning."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from threads import one_thread

from bsc.coders.coder import SparseCoder
from bsc.coders.load import save_coder
from bsc.stages import CoderSpec

CONTEXT = 16
HOOKPOINTS = ("layers.0.mlp", "layers.1.mlp", "layers.2.mlp")


_one_thread = pytest.fixture(scope="package", autouse=True)(one_thread)


@pytest.fixture(scope="session")
def make_spec() -> Callable[..., CoderSpec]:
    """The spec of a coder of the tiny model; keywords change it. With `finetune`, 12 steps of 4 sequences."""

    def make(finetune: dict[str, Any] | None = None, **changes: Any) -> CoderSpec:
        values: dict[str, Any] = {
            "width": 32,
            "latents": 64,
            "k": 4,
            "architecture": "transcoder",
            "binariser": "topk",
            "options": {},
            "seed": 1,
            "tokens": 12 * 4 * CONTEXT,
            "batch_tokens": 4 * CONTEXT,
            "optimiser": "adam",
            "learning_rate": 1e-2,
            "warmup_steps": 2,
            "auxk": False,
            "multi_topk": False,
            "dead_after_tokens": 500,
            "dtype": "float32",
        }
        if finetune is not None:
            plain = {"hookpoint": "layers.1.mlp", "others": [], "batch_sequences": 4, "dtype": "float32"}
            values["finetune"] = plain | finetune
        return CoderSpec(**values | changes)

    return make


def drawn(spec: CoderSpec, scale: float = 1.0) -> SparseCoder:
    """A coder with random weights, its decoder included, that reconstructs nothing in particular."""
    coder = SparseCoder.build(spec)
    generator = torch.Generator().manual_seed(spec.seed + 7)
    with torch.no_grad():
        coder.W_dec.copy_(scale * torch.randn(coder.W_dec.shape, generator=generator))
        coder.normalise_decoder()
    return coder


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """Writes a drawn coder as `bsc train` writes one."""

    def write(name: str, spec: CoderSpec) -> Path:
        save_coder(drawn(spec), spec, tmp_path / name, pd.DataFrame({"step": [0]}))
        return tmp_path / name

    return write
