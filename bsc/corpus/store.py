"""Contexts of tokens on disk: one safetensors file a split, written piece by piece and read through a memory map.

The shapes are known before the text is read, so the header goes first and the contexts follow as they are packed: memory
does not grow with the corpus. Row `context * length + position` of a split's activations belongs to that token here.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32

from bsc.errors import CorruptFile, UserError
from bsc.io import atomic, check, read_manifest, read_tensors

_BYTES = 4
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


class ContextWriter:
    """Appends contexts to a split's file, up to the number that its header promises."""

    def __init__(self, descriptor: int, contexts: int, length: int) -> None:
        self._descriptor, self._block = descriptor, contexts * length * _BYTES
        self.contexts, self.written = contexts, 0
        header = _header(contexts, length)
        os.truncate(descriptor, len(header) + 2 * self._block)
        os.pwrite(descriptor, header, 0)
        self._offset = len(header)

    @property
    def full(self) -> bool:
        """Whether every promised context is there."""
        return self.written == self.contexts

    def append(self, tokens: Int32[np.ndarray, "new length"], documents: Int32[np.ndarray, "new length"]) -> None:
        """Write contexts behind those that are there; the caller sees to it that they are not too many."""
        _write(self._descriptor, tokens, self._offset)
        _write(self._descriptor, documents, self._offset + self._block)
        self._offset += tokens.size * _BYTES
        self.written += len(tokens)


@contextmanager
def write_contexts(path: Path, contexts: int, length: int) -> Iterator[ContextWriter]:
    """A writer of `contexts` contexts of `length` tokens; the file gets its name when the block ends without an error."""
    with atomic(path) as temporary:
        descriptor = os.open(temporary, os.O_WRONLY)
        try:
            yield ContextWriter(descriptor, contexts, length)
        finally:
            os.close(descriptor)


def _header(contexts: int, length: int) -> bytes:
    """The first bytes of a safetensors file of int32 `tokens` and `documents`, padded so that the data is aligned."""
    block = contexts * length * _BYTES
    fields = {
        name: {"dtype": "I32", "shape": [contexts, length], "data_offsets": [number * block, (number + 1) * block]}
        for number, name in enumerate(("tokens", "documents"))
    }
    text = json.dumps(fields, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _write(descriptor: int, array: Int32[np.ndarray, "new length"], offset: int) -> None:
    data = memoryview(np.ascontiguousarray(array, dtype="<i4").tobytes())
    while data:  # a single call may write less than it is given
        count = os.pwrite(descriptor, data, offset)
        data, offset = data[count:], offset + count


def read_tokens(folder: Path, split: str) -> TokenStore:
    """A split as torch tensors.

    Raises UserError when there is no such split, CorruptFile when its file is not the one that was written.
    """
    tensors = read_tensors(_checked(folder, split))
    return TokenStore(tensors["tokens"], tensors["documents"])


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
