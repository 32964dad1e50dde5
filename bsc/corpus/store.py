"""Contexts of tokens on disk, as they are read: one safetensors file a split, through a memory map.

Row `context * length + position` of a split's activations belongs to that token here. bsc.corpus.writer writes the files.
"""

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32

from bsc.errors import CorruptFile, UserError
from bsc.io import check, read_manifest

_HASHED_UP_TO = 1 << 30


@dataclass(frozen=True)
class TokenStore:
    """One split. tokens: ids; documents: the number of the document that each token comes from, unique over all splits.

    Both are memory-mapped: torch tensors from `read_tokens`, numpy arrays from `read_tokens_numpy`.
    """

    tokens: Int32[Any, "contexts length"]
    documents: Int32[Any, "contexts length"]

    @property
    def context(self) -> int:
        """Tokens in a context."""
        return int(self.tokens.shape[1])


def read_tokens(folder: Path, split: str) -> TokenStore:
    """A split as torch tensors, which are not to be written to.

    The map is of a file that is only read, so it may be larger than memory: of one that could be written to, as safetensors
    makes it, Linux refuses more bytes than there are of memory and swap. Raises UserError when there is no such split,
    CorruptFile when its file is not the one that was written.
    """
    import torch

    arrays = read_tokens_numpy(folder, split)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return TokenStore(torch.from_numpy(arrays.tokens), torch.from_numpy(arrays.documents))


def read_tokens_numpy(folder: Path, split: str) -> TokenStore:
    """A split as numpy arrays, for stages that need no torch. Raises as `read_tokens` does."""
    path = _checked(folder, split)
    with path.open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
        fields = json.loads(file.read(header))
    return TokenStore(*(_mapped(path, fields[name], 8 + header) for name in ("tokens", "documents")))


def _mapped(path: Path, field: Mapping[str, Any], start: int) -> Int32[np.ndarray, "contexts length"]:
    return np.memmap(path, np.dtype("<i4"), "r", start + field["data_offsets"][0], tuple(field["shape"]))


def _checked(folder: Path, split: str) -> Path:
    """The file of a split: its size is always checked, its SHA-256 up to 1 GiB.

    Every shard of activations opens its split; hashing all of 160 GB (the paper's 20 B tokens) for each would take longer
    than the forward passes.
    """
    files = read_manifest(folder, verify=False)["files"]
    path = folder / f"{split}.safetensors"
    if path.name not in files:
        raise UserError(f"there is no split `{split}`", where=str(folder), fix=f"take one of {', '.join(sorted(files))}")
    recorded = files[path.name]
    if recorded["bytes"] <= _HASHED_UP_TO:
        check(path, recorded)
    elif not path.is_file() or path.stat().st_size != recorded["bytes"]:
        raise CorruptFile("the file is missing or truncated", where=str(path), fix="run again: it is made anew")
    return path
