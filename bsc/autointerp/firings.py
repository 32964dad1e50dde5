"""Firings of all latents: gathered token by token, written latent by latent, and read again one latent at a time. No torch.

`latents.safetensors` is compressed by column: `offsets` int64 [M+1], and for each latent i, in `offsets[i]:offsets[i+1]`, the
`rows` (int64, ascending; context * length + position) on which it fires and its `values` (float32, above 0) there.
"""

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from bsc.errors import CorruptFile, UserError
from bsc.io import atomic, read_manifest

FILE = "latents.safetensors"
_CHUNK = 1 << 21
_BLOCK = 1 << 22
_INTEGER, _REAL = np.dtype("<i8"), np.dtype("<f4")
_TYPES: dict[str, np.dtype[Any]] = {"offsets": _INTEGER, "rows": _INTEGER, "values": _REAL}
_CODES = {_INTEGER: "I64", _REAL: "F32"}


@dataclass(frozen=True)
class _Chunk:
    """Firings sorted by latent, then by row; those of latent i are in `starts[i]:starts[i+1]`."""

    starts: Int[np.ndarray, " latents+1"]
    latents: Int[np.ndarray, " firings"]
    rows: Int[np.ndarray, " firings"]
    values: Float[np.ndarray, " firings"]


class FiringSorter:
    """Takes firings in the order of their rows and writes them by latent, then by row.

    A counting sort in two steps (chunks of about two million firings as they come, merged a range of latents at a time), so
    memory is some ten bytes a firing, whatever is written.
    """

    def __init__(self, latents: int) -> None:
        self.latents = latents
        self._small: np.dtype[Any] = np.min_scalar_type(max(latents - 1, 0))
        self._chunks: list[_Chunk] = []
        self._pending: list[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]] = []
        self._waiting = 0
        self._offsets = np.zeros(latents + 1, np.int64)

    def append(
        self, rows: Int[np.ndarray, " firings"], latents: Int[np.ndarray, " firings"], values: Float[np.ndarray, " firings"]
    ) -> None:
        """Add firings, whose rows are no smaller than any before. rows: below 2**32."""
        self._pending.append((latents.astype(self._small), rows.astype(np.uint32), values.astype(np.float32)))
        self._waiting += len(rows)
        if self._waiting >= _CHUNK:
            self._close_chunk()

    def offsets(self) -> Int[np.ndarray, " latents+1"]:
        """Where each latent's firings begin, and their number at the end."""
        self._close_chunk()
        return self._offsets.copy()

    def write(self, path: Path) -> None:
        """Write the cache's safetensors file, atomically. Raises UserError when the disk is full."""
        offsets = self.offsets()
        header, places = _header(self.latents, int(offsets[-1]))
        with atomic(path) as temporary, temporary.open("wb") as file, temporary.open("r+b") as second:
            file.write(header)
            file.write(offsets.astype(_INTEGER).data)
            second.seek(places["values"])
            for rows, values in self._blocks(offsets):
                file.write(rows.astype(_INTEGER).data)
                second.write(values.astype(_REAL).data)

    def _close_chunk(self) -> None:
        if not self._waiting:
            return
        latents, rows, values = (np.concatenate(parts) for parts in zip(*self._pending, strict=True))
        order = np.argsort(latents, kind="stable")
        counts = np.bincount(latents, minlength=self.latents)
        starts = np.concatenate([[0], np.cumsum(counts)])
        self._offsets += starts
        self._chunks.append(_Chunk(starts, latents[order], rows[order], values[order]))
        self._pending, self._waiting = [], 0

    def _blocks(self, offsets: Int[np.ndarray, " latents+1"]) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
        """(rows, values) of successive ranges of latents, each of about `_BLOCK` firings or one latent."""
        targets = np.arange(0, offsets[-1], _BLOCK)
        edges = np.unique(np.append(np.searchsorted(offsets, targets, side="right") - 1, self.latents))
        for first, last in itertools.pairwise(edges):
            spans = [(chunk, slice(chunk.starts[first], chunk.starts[last])) for chunk in self._chunks]
            order = np.argsort(np.concatenate([chunk.latents[span] for chunk, span in spans]), kind="stable")
            rows = np.concatenate([chunk.rows[span] for chunk, span in spans])
            yield rows[order], np.concatenate([chunk.values[span] for chunk, span in spans])[order]


def _header(latents: int, firings: int) -> tuple[bytes, dict[str, int]]:
    """The safetensors header of a cache, and at which byte of the file each tensor begins."""
    described: dict[str, Any] = {}
    end = 0
    for name, length in (("offsets", latents + 1), ("rows", firings), ("values", firings)):
        kind = _TYPES[name]
        begin, end = end, end + length * kind.itemsize
        described[name] = {"dtype": _CODES[kind], "shape": [length], "data_offsets": [begin, end]}
    text = json.dumps(described, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    places = {name: 8 + len(text) + entry["data_offsets"][0] for name, entry in described.items()}
    return len(text).to_bytes(8, "little") + text, places


@dataclass(frozen=True)
class LatentCache:
    """A latent cache, memory-mapped. facts: its manifest's (`latents`, `rows`, `usable_rows`, `context`, `variant`)."""

    folder: Path
    facts: dict[str, Any]
    offsets: Int[np.ndarray, " latents+1"]
    rows: Int[np.ndarray, " firings"]
    values: Float[np.ndarray, " firings"]

    @classmethod
    def open(cls, folder: Path, *, verify: bool = True) -> "LatentCache":
        """The cache of a folder that `bsc latents` wrote.

        verify: check its files against the manifest first. Raises CorruptFile when one is cut short or altered, UserError when
        the folder holds no cache.
        """
        facts = read_manifest(folder, verify=verify)
        path = folder / FILE
        try:
            with path.open("rb") as file:
                tensors = dict(_mapped(path, file))
            return cls(folder, facts, tensors["offsets"], tensors["rows"], tensors["values"])
        except FileNotFoundError as error:
            raise UserError("no such file", where=str(path), fix="run `bsc latents` first") from error
        except (ValueError, KeyError, TypeError, MemoryError) as error:
            raise CorruptFile(f"no latent cache ({error})", where=str(path), fix=f"delete {folder} and run again") from error

    @property
    def firings(self) -> Int[np.ndarray, " latents"]:
        """On how many tokens each latent fires."""
        return np.diff(self.offsets)

    def of(self, latent: int) -> tuple[Int[np.ndarray, " firings"], Float[np.ndarray, " firings"]]:
        """(rows, values) of one latent's firings, rows ascending."""
        span = slice(self.offsets[latent], self.offsets[latent + 1])
        return self.rows[span], self.values[span]


def _mapped(path: Path, file: BinaryIO) -> Iterator[tuple[str, NDArray[Any]]]:
    length = int.from_bytes(file.read(8), "little")
    header = json.loads(file.read(length))
    for name, kind in _TYPES.items():
        begin, end = header[name]["data_offsets"]
        size = (end - begin) // kind.itemsize
        place = 8 + length + begin
        yield name, np.memmap(path, kind, "r", place, (size,)).view(np.ndarray) if size else np.zeros(0, kind)
