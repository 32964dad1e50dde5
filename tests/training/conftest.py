"""A small store of activations that a sparse coder can learn."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from specs import coder_spec
from threads import one_thread

from bsc.activations.index import write_index
from bsc.io import write_tensors
from bsc.stages import CoderSpec

CONTEXT, WIDTH, ATOMS = 16, 16, 48
MakeStore = Callable[..., Path]


_one_thread = pytest.fixture(scope="package", autouse=True)(one_thread)


def sparse_activations(rows: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Sums of 3 of 48 directions, and a linear map of them with the same code; rows of position 0 are massive."""
    fixed, generator = torch.Generator().manual_seed(99), torch.Generator().manual_seed(seed)
    read, written = (torch.randn(ATOMS, WIDTH, generator=fixed) for _ in range(2))
    active = torch.rand(rows, ATOMS, generator=generator).topk(3).indices
    code = torch.zeros(rows, ATOMS).scatter_(1, active, 1.0)
    x, y = code @ read, code @ written + 1.0
    y[::CONTEXT] *= 1000
    return x.bfloat16(), y.bfloat16()


@pytest.fixture(scope="session")
def make_store(tmp_path_factory: pytest.TempPathFactory) -> MakeStore:
    """Writes shards of so many contexts each, and their index."""

    def make(*contexts: int, seed: int = 0) -> Path:
        folder = tmp_path_factory.mktemp("activations")
        shards = [folder / f"shard{number}" / "layers.0.mlp.safetensors" for number in range(len(contexts))]
        for number, (path, count) in enumerate(zip(shards, contexts, strict=True)):
            x, y = sparse_activations(count * CONTEXT, seed + number)
            write_tensors(path, {"input": x, "output": y})
        index = folder / "layers.0.mlp.json"
        write_index(shards, CONTEXT, index)
        return index

    return make


@pytest.fixture(scope="session")
def store_index(make_store: MakeStore) -> Path:
    """1,200 usable rows in three shards."""
    return make_store(20, 40, 20)


@pytest.fixture(scope="session")
def make_spec() -> Callable[..., CoderSpec]:
    """A spec of a tiny coder; keywords change it."""
    return coder_spec
