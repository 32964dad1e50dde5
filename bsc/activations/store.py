"""Reading stored activations: the shards of one hookpoint, memory-mapped, each checked when it is first read.

Position 0 of each context carries a massive activation (its MLP output is 10-20 times the median norm), in which FVU would
measure little else; rows of position 0 are stored, and `usable_rows` does not count them: they are left out of training and
of FVU.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import BFloat16
from torch import Tensor

from bsc.errors import CorruptFile
from bsc.io import check_contents, check_size, read_json, read_tensors


@dataclass(frozen=True)
class Shard:
    """Rows `first_row` to `first_row + rows` of a store; its tensors are mapped when they are first asked for.

    recorded: the SHA-256 that its file is to have, which is then checked (CorruptFile); None where it is not to be.
    """

    path: Path
    first_row: int
    rows: int
    recorded: Mapping[str, Any] | None = None

    @functools.cached_property
    def _tensors(self) -> dict[str, Tensor]:
        if self.recorded is not None:
            check_contents(self.path, self.recorded)
        tensors = read_tensors(self.path)
        if {"input", "output"} - tensors.keys() or any(len(tensor) != self.rows for tensor in tensors.values()):
            raise CorruptFile(
                f"not `input` and `output` of {self.rows} rows", where=str(self.path), fix=f"delete {self.path} and run again"
            )
        return tensors

    @property
    def input(self) -> BFloat16[Tensor, "rows d"]:
        """What went into the hooked module, memory-mapped."""
        return self._tensors["input"]

    @property
    def output(self) -> BFloat16[Tensor, "rows d"]:
        """What came out of the hooked module, memory-mapped."""
        return self._tensors["output"]


@dataclass(frozen=True)
class ActivationStore:
    """The activations of one hookpoint on one split. Row r is position r % context of context r // context."""

    hookpoint: str
    rows: int
    width: int
    context: int
    shards: tuple[Shard, ...]

    @property
    def usable_rows(self) -> int:
        """Rows whose position in the context is at least 1."""
        return self.rows // self.context * (self.context - 1)

    @classmethod
    def open(cls, index: Path, *, verify: bool = True) -> "ActivationStore":
        """The store that an index (`bsc index`) lists.

        With `verify`, CorruptFile names a shard that is not what was written: its size is looked at now, its contents when it
        is first read, for a store may hold more than can be read in an hour.
        """
        facts = read_json(index)
        shards, first_row = [], 0
        for recorded in facts["shards"]:
            path = index.parent / recorded["path"]
            if verify:
                check_size(path, recorded)
            shards.append(Shard(path, first_row, recorded["rows"], recorded if verify else None))
            first_row += recorded["rows"]
        return cls(facts["hookpoint"], facts["rows"], facts["width"], facts["context"], tuple(shards))
