"""Contexts of tokens, written as they are packed: memory does not grow with the corpus, and a killed run goes on.

Until `finish`, everything lies in `.partial/` in the tokens folder: a safetensors file a split, at its full size from the start
(the shapes are known before the text is read), and `progress.json` with what is known to be on the disk. A context stands
at an offset that its number alone decides, so writing it again puts the same bytes in the same place.
"""

import json
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from jaxtyping import Int32

from bsc.errors import UserError
from bsc.io import MANIFEST, disk_full, is_disk_full, read_json, write_json, write_manifest

FLUSH_SECONDS = 10.0
"""How much work a kill may cost, at most, beside what is being tokenised."""
PARTIAL = ".partial"
_BYTES = 4


class ContextWriter:
    """Appends contexts to a split's file, up to the number that its header promises. written: that are there already."""

    def __init__(self, path: Path, contexts: int, length: int, written: int = 0) -> None:
        self.contexts, self.length, self.written = contexts, length, written
        self._path, self._block = path, contexts * length * _BYTES
        header = _header(contexts, length)
        self._first, self.bytes = len(header), len(header) + 2 * self._block
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o666)
        if not written:
            os.truncate(self._descriptor, self.bytes)
            self._write(header, 0)

    @property
    def full(self) -> bool:
        """Whether every promised context is there."""
        return self.written == self.contexts

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

    sizes: contexts of each split, and tokens in one. identity: everything, as JSON, that the bytes depend on; what a run with
    another one left is thrown away. `state` is what such a run saved last, or None. Raises UserError when the disk is full;
    what was saved by then is kept.
    """

    def __init__(self, folder: Path, sizes: Mapping[str, tuple[int, int]], identity: Mapping[str, Any]) -> None:
        self.folder, self.partial = folder, folder / PARTIAL
        self._identity = {**identity, "sizes": {split: list(size) for split, size in sizes.items()}}
        self._progress = self.partial / "progress.json"
        saved = self._saved(sizes)
        self.state: dict[str, Any] | None = saved and saved["state"]
        if saved is None:
            shutil.rmtree(self.partial, ignore_errors=True)
            self.partial.mkdir(parents=True)
        self.splits = {
            split: ContextWriter(self._path(split), *size, saved["written"][split] if saved else 0)
            for split, size in sizes.items()
        }
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

    def discard(self) -> None:
        """Delete all that was written and saved."""
        shutil.rmtree(self.partial)

    def _saved(self, sizes: Mapping[str, tuple[int, int]]) -> dict[str, Any] | None:
        """What a killed run of the same identity recorded; None when there is none, or its files are not whole."""
        try:
            progress: dict[str, Any] = read_json(self._progress)
        except UserError:
            return None
        files = {self._path(split): len(_header(*size)) + 2 * size[0] * size[1] * _BYTES for split, size in sizes.items()}
        whole = all(path.is_file() and path.stat().st_size == size for path, size in files.items())
        return progress if whole and progress["identity"] == self._identity else None

    def _path(self, split: str) -> Path:
        return self.partial / f"{split}.safetensors"


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
