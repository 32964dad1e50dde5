"""Contexts of tokens, written as they are packed: memory does not grow with the corpus, and a killed run goes on.

Until `finish`, everything lies in `.partial/` in the tokens folder: a safetensors file a split, at its full size from the start
(the shapes are known before the text is read), and `progress.json` with what is known to be on the disk. A context stands
at an offset that its number alone decides, so writing it again puts the same bytes in the same place. A run that asks for
more or fewer contexts of the last split goes on too: how many these are to be changes nothing in those that are there. Only
where that split was full already and is to be longer, it begins anew, as what came behind was let go.
"""

import json
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import numpy as np
from jaxtyping import Int32

from bsc.errors import UserError
from bsc.io import MANIFEST, disk_full, is_disk_full, read_json, write_json, write_manifest

FLUSH_SECONDS = 10.0
"""How much work a kill may cost, at most, beside what is being tokenised."""
PARTIAL = ".partial"
_BYTES = 4
_COPIED = 1 << 22
"""Tokens that are copied at a time."""


class ContextWriter:
    """Appends contexts to a split's file, up to the number that its header promises. written: that are there already."""

    def __init__(self, path: Path, contexts: int, length: int, written: int = 0) -> None:
        self.contexts, self.length, self.written = contexts, length, written
        self._path, self._block = path, contexts * length * _BYTES
        header = _header(contexts, length)
        self._first, self.bytes = len(header), len(header) + 2 * self._block
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        if not written:
            os.truncate(self._descriptor, self.bytes)
            self._write(header, 0)

    @property
    def full(self) -> bool:
        """Whether every promised context is there."""
        return self.written == self.contexts

    @property
    def documents(self) -> int:
        """How many documents the written contexts are of. These are numbered in their order, and none is left out."""
        if not self.written:
            return 0
        begin = self._first + self._block
        ends = (os.pread(self._descriptor, _BYTES, at) for at in (begin, begin + (self.written * self.length - 1) * _BYTES))
        first, last = (int.from_bytes(number, "little") for number in ends)
        return last - first + 1

    def append(self, tokens: Int32[np.ndarray, "new length"], documents: Int32[np.ndarray, "new length"]) -> None:
        """Write contexts behind those that are there; the caller sees to it that they are not too many."""
        offset = self._first + self.written * self.length * _BYTES
        self._write(np.ascontiguousarray(tokens, dtype="<i4").tobytes(), offset)
        self._write(np.ascontiguousarray(documents, dtype="<i4").tobytes(), offset + self._block)
        self.written += len(tokens)

    def flush(self) -> None:
        """Put on the disk what was written."""
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            raise _error(error, self._path) from error

    def close(self) -> None:
        """Give the file back; nothing can be written any more."""
        os.close(self._descriptor)

    def _write(self, content: bytes, offset: int) -> None:
        data = memoryview(content)
        try:
            while data:  # a single call may write less than it is given
                count = os.pwrite(self._descriptor, data, offset)
                data, offset = data[count:], offset + count
        except OSError as error:
            raise _error(error, self._path) from error


class TokenWriter:
    """Writes `{split}.safetensors` for each split into `folder`; a context manager.

    sizes: contexts of each split, and tokens in one, in the order in which splits are filled. identity: everything else, as
    JSON, that the bytes depend on; what a run with another one left is thrown away. `state` is what such a run saved last, or
    None. Raises UserError when the disk is full; what was saved by then is kept.
    """

    def __init__(self, folder: Path, sizes: Mapping[str, tuple[int, int]], identity: Mapping[str, Any]) -> None:
        self.folder, self.partial = folder, folder / PARTIAL
        last = list(sizes)[-1]
        fixed = {split: list(size) if split != last else size[1] for split, size in sizes.items()}
        self._identity = {**identity, "sizes": fixed}
        self._progress = self.partial / "progress.json"
        saved = self._saved(sizes)
        self.state: dict[str, Any] | None = saved and saved["state"]
        written: dict[str, int] = saved["written"] if saved else dict.fromkeys(sizes, 0)
        if saved is None:
            shutil.rmtree(self.partial, ignore_errors=True)
            self.partial.mkdir(parents=True)
        else:
            written[last] = min(written[last], sizes[last][0])
            if _shape(self._path(last)) != sizes[last]:
                _resize(self._path(last), written[last], *sizes[last])
        self.splits = {split: ContextWriter(self._path(split), *size, written[split]) for split, size in sizes.items()}
        self._saved_at = time.monotonic()

    def __enter__(self) -> "TokenWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        for writer in self.splits.values():
            writer.close()

    @property
    def due(self) -> bool:
        """Whether it is time to save."""
        return time.monotonic() - self._saved_at >= FLUSH_SECONDS

    def save(self, state: Mapping[str, Any]) -> None:
        """Put on the disk what was written, and then record how much that is, with a state (JSON) from which to go on."""
        for writer in self.splits.values():
            writer.flush()
        written = {split: writer.written for split, writer in self.splits.items()}
        write_json(self._progress, {"written": written, "state": dict(state), "identity": self._identity})
        self._saved_at = time.monotonic()

    def finish(self, facts: Mapping[str, Any]) -> None:
        """Give all files their final names and write the manifest. To be called when the splits are full, and saved."""
        names = [self._path(split).name for split in self.splits]
        write_manifest(self.partial, names, facts)  # reading them all once more takes long, and they may still be lost here
        for name in [*names, MANIFEST]:
            (self.partial / name).replace(self.folder / name)
        shutil.rmtree(self.partial)

    def _saved(self, sizes: Mapping[str, tuple[int, int]]) -> dict[str, Any] | None:
        """What a killed run of the same identity recorded; None when there is none, or its files are not whole."""
        try:
            progress: dict[str, Any] = read_json(self._progress)
        except UserError:
            return None
        shapes = {split: _shape(self._path(split)) for split in sizes}
        if not all(shapes.values()) or progress["identity"] != self._identity:
            return None
        last = list(sizes)[-1]
        there = cast("tuple[int, int]", shapes[last])[0]
        return None if progress["written"][last] >= there < sizes[last][0] else progress

    def _path(self, split: str) -> Path:
        return self.partial / f"{split}.safetensors"


def _shape(path: Path) -> tuple[int, int] | None:
    """The contexts of a split's file, and the tokens in one, by its header; None when it is not as long as that says."""
    try:
        with path.open("rb") as file:
            fields = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        contexts, length = fields["tokens"]["shape"]
    except (OSError, ValueError, KeyError, TypeError, OverflowError, MemoryError):
        return None
    whole = path.stat().st_size == len(_header(contexts, length)) + 2 * contexts * length * _BYTES
    return (contexts, length) if whole else None


def _resize(path: Path, kept: int, contexts: int, length: int) -> None:
    """Make room for another number of contexts, and keep the first so many; it takes the room of both until it is done."""
    shape = _shape(path)
    assert shape is not None
    old = np.memmap(path, np.dtype("<i4"), "r", offset=len(_header(*shape)), shape=(2, *shape))
    new = path.with_suffix(".resized")
    writer = ContextWriter(new, contexts, length)
    step = max(_COPIED // length, 1)
    for first in range(0, kept, step):
        writer.append(*old[:, first : min(first + step, kept)])
    writer.flush()
    writer.close()
    new.replace(path)


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


def _error(error: OSError, path: Path) -> Exception:
    return disk_full(path) if is_disk_full(error) else error
