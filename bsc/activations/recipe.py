"""The index of activations that are not stored: how to make them, and from what. No torch in here.

It stands where `bsc index` would list shards, so whatever reads activations to train on takes either. Its "shards" are the
contexts that `bsc activations` would have put into a file, and hold the same bits.
"""

import os
from pathlib import Path
from typing import Any

from bsc.errors import CorruptFile
from bsc.io import MANIFEST, read_json, sha256, write_json
from bsc.stages import RecipeSpec

KEY = "recipe"
"""What tells a recipe from a list of shards."""


def write_recipe(spec: RecipeSpec, model: Path, tokens: Path, output: Path) -> None:
    """Write the JSON: the spec, and where model and tokens lie (relative to it) with the SHA-256 of their manifests."""
    sources = {name: _source(folder, output) for name, folder in (("model", model), ("tokens", tokens))}
    write_json(output, {KEY: spec.model_dump(), **sources})


def read_recipe(index: Path) -> tuple[RecipeSpec, dict[str, Path]] | None:
    """The spec of a recipe and the folders `model` and `tokens`; None when the index lists shards.

    Raises CorruptFile when model or tokens are not those that the recipe was written for.
    """
    facts: dict[str, Any] = read_json(index)
    if KEY not in facts:
        return None
    folders = {name: index.parent / facts[name]["path"] for name in ("model", "tokens")}
    for name, folder in folders.items():
        if sha256(folder / MANIFEST) != facts[name]["manifest"]:
            what = f"the {name} in {folder} changed after this was written"
            raise CorruptFile(what, where=str(index), fix="delete it and run again")
    return RecipeSpec.model_validate(facts[KEY]), folders


def _source(folder: Path, output: Path) -> dict[str, str]:
    return {"path": os.path.relpath(folder, output.parent), "manifest": sha256(folder / MANIFEST)}
