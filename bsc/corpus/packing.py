"""Documents packed one after another and cut into contexts, for one split after the other."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from bsc.corpus.column import Ids
from bsc.corpus.writer import ContextWriter


class Packer:
    """Fills splits in their order: a document goes into the first that is not full, and what does not fit is left out.

    bos: the id that every context begins with, or None. state: as `state` gave it, to go on from.
    """

    def __init__(self, splits: Mapping[str, ContextWriter], bos: int | None, state: Mapping[str, Any] | None = None) -> None:
        self._splits, self._bos = splits, bos
        state = state or {"number": 0, "rest": [[], []]}
        self._number: int = state["number"]
        self._tokens, self._numbers = (np.array(rest, np.int32) for rest in state["rest"])

    def state(self) -> dict[str, Any]:
        """What is not in the files, as JSON: less than a context of tokens, and the next document's number."""
        return {"number": self._number, "rest": [self._tokens.tolist(), self._numbers.tolist()]}

    @property
    def split(self) -> str:
        """The split that is being filled; the last one when all are full."""
        return next((split for split, writer in self._splits.items() if not writer.full), list(self._splits)[-1])

    @property
    def full(self) -> bool:
        """Whether every split is."""
        return all(writer.full for writer in self._splits.values())

    @property
    def written(self) -> int:
        """Contexts in the split that is being filled."""
        return self._splits[self.split].written

    @property
    def tokens(self) -> int:
        """Tokens in all splits' contexts."""
        return sum(writer.written * writer.length for writer in self._splits.values())

    def add(self, ids: Ids) -> None:
        """Take the next document, which has ids; nothing happens when every split is full."""
        if self.full:
            return
        writer = self._splits[self.split]
        self._tokens = np.concatenate([self._tokens, ids])
        self._numbers = np.concatenate([self._numbers, np.full_like(ids, self._number)])
        self._number += 1
        body = writer.length - (self._bos is not None)
        count = min(len(self._tokens) // body, writer.contexts - writer.written)
        if count:
            self._write(writer, count, body)
        if writer.full:
            self._tokens, self._numbers = np.empty(0, np.int32), np.empty(0, np.int32)

    def _write(self, writer: ContextWriter, count: int, body: int) -> None:
        end = count * body
        tokens = self._tokens[:end].reshape(count, body)
        numbers = self._numbers[:end].reshape(count, body)
        if self._bos is not None:
            tokens = np.insert(tokens, 0, self._bos, axis=1)
            numbers = np.insert(numbers, 0, numbers[:, 0], axis=1)
        writer.append(tokens, numbers)
        self._tokens, self._numbers = self._tokens[end:], self._numbers[end:]
