"""One shard of activations, written batch by batch: memory does not grow with it, and a killed run goes on from its last flush.

Until `finish`, everything lies in `.partial/` in the shard's folder: a safetensors file a hookpoint, at its full size from the
start, and `progress.json` with the rows that are known to be on the disk. Rows stand at offsets that their number alone
decides, so writing a batch again puts the same bytes in the same place.
"""

import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import torch
from jaxtyping import BFloat16
from torch import Tensor

from bsc.errors import UserError
from bsc.io import disk_full, is_disk_full, read_json, write_json

FLUSH_SECONDS = 10.0
"""How much work a kill may cost, at most, beside the batch that is being computed."""
PARTIAL = ".partial"
BFLOAT16_BYTES = 2


def header(rows: int, width: int) -> bytes:
    """The safetensors header of a file that holds bf16 `input` and `output`, each [rows, width], in this order."""
    size = rows * width * BFLOAT16_BYTES
    tensors = {
        name: {"dtype": "BF16", "shape": [rows, width], "data_offsets": [size * number, size * (number + 1)]}
        for number, name in enumerate(("input", "output"))
    }
    text = json.dumps(tensors, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


class ShardWriter:
    """Writes `{hookpoint}.safetensors` for each hookpoint into `folder`; a context manager.

    identity: everything, as JSON, that the bytes depend on; a partial shard left by a run with another one is thrown away.
    `rows_done` is where a run goes on. Raises UserError when the disk is full; what is flushed by then is kept.
    """

    def __init__(self, folder: Path, hookpoints: Sequence[str], rows: int, width: int, identity: Mapping[str, Any]) -> None:
        self.folder, self.rows, self.width = folder, rows, width
        self._header = header(rows, width)
        self._identity = {**identity, "hookpoints": list(hookpoints), "rows": rows, "width": width}
        self._paths = {hookpoint: folder / PARTIAL / f"{hookpoint}.safetensors" for hookpoint in hookpoints}
        self._progress = folder / PARTIAL / "progress.json"
        self._files: dict[str, BinaryIO] = {}
        self._flushed = time.monotonic()
        self.rows_done = self._resumable()

    def __enter__(self) -> "ShardWriter":
        if not self.rows_done:
            shutil.rmtree(self.folder / PARTIAL, ignore_errors=True)
            (self.folder / PARTIAL).mkdir(parents=True)
        for hookpoint, path in self._paths.items():
            self._files[hookpoint] = path.open("r+b" if self.rows_done else "w+b", buffering=0)
            if not self.rows_done:
                self._write(hookpoint, 0, memoryview(self._header))
                self._files[hookpoint].truncate(self._bytes)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        for file in self._files.values():
            file.close()

    def append(self, activations: Mapping[str, tuple[BFloat16[Tensor, "rows d"], BFloat16[Tensor, "rows d"]]]) -> None:
        """Write the next rows of every hookpoint: hookpoint -> (input, output), on any device."""
        count = 0
        for hookpoint, pair in activations.items():
            for number, tensor in enumerate(pair):
                count = tensor.shape[0]
                row = number * self.rows + self.rows_done
                data = tensor.contiguous().cpu().view(torch.uint8).flatten().numpy().data
                self._write(hookpoint, len(self._header) + row * self.width * BFLOAT16_BYTES, data)
        self.rows_done += count
        if time.monotonic() - self._flushed >= FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Put on the disk what was written, and then record how much that is."""
        try:
            for file in self._files.values():
                os.fsync(file.fileno())
        except OSError as error:
            raise self._error(error, self._progress) from error
        write_json(self._progress, {"rows": self.rows_done, "identity": self._identity})
        self._flushed = time.monotonic()

    def finish(self) -> None:
        """Give all files their final names. To be called when every row is written."""
        self.flush()
        for path in self._paths.values():
            path.replace(self.folder / path.name)
        shutil.rmtree(self.folder / PARTIAL)

    @property
    def _bytes(self) -> int:
        return len(self._header) + 2 * self.rows * self.width * BFLOAT16_BYTES

    def _resumable(self) -> int:
        """Rows that a killed run of the same identity left on the disk; 0 when there is none, or its files are not whole."""
        try:
            progress = read_json(self._progress)
        except UserError:
            return 0
        whole = all(path.is_file() and path.stat().st_size == self._bytes for path in self._paths.values())
        return int(progress["rows"]) if whole and progress["identity"] == self._identity else 0

    def _write(self, hookpoint: str, offset: int, data: memoryview) -> None:
        file = self._files[hookpoint]
        try:
            file.seek(offset)
            while data:
                data = data[file.write(data) :]
        except OSError as error:
            raise self._error(error, self._paths[hookpoint]) from error

    def _error(self, error: OSError, path: Path) -> Exception:
        return disk_full(path) if is_disk_full(error) else error
