"""The column of a data set that documents stand in: text, or token ids that are already there."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int32

from bsc.errors import UserError

Ids = Int32[np.ndarray, " tokens"]
Document = str | Ids
"""A document: its text, or the ids of its tokens."""


@dataclass(frozen=True)
class Column:
    """A column by its name. vocabulary: None where it holds text; else it holds ids, from 0 to `vocabulary` - 1."""

    name: str
    vocabulary: int | None = None

    @property
    def key(self) -> str:
        """The key of the config that names it."""
        return "text_column" if self.vocabulary is None else "ids_column"

    def of(self, row: Mapping[str, Any], number: int, where: str) -> Document:
        """The document of a row. Raises UserError when the row lacks the column, and as `document` does."""
        if self.name not in row:
            raise self.missing(row, number, where)
        return self.document(row[self.name], number, where)

    def missing(self, there: Any, number: int, where: str) -> UserError:
        """The error for a row without this column. there: the names of those that it has."""
        have = ", ".join(f"`{name}`" for name in there)
        return UserError(f"row {number} has no column `{self.name}`", where=where, fix=f"set `corpus.{self.key}`: {have}")

    def document(self, cell: Any, number: int, where: str) -> Document:
        """The document in a cell; an empty cell is an empty document.

        Raises UserError when the cell holds anything but text, or anything but ids of the vocabulary; it names the row.
        """
        if self.vocabulary is None:
            return self._text(cell, number, where)
        return self._ids([] if cell is None else cell, self.vocabulary, number, where)

    def _text(self, cell: Any, number: int, where: str) -> str:
        if cell is not None and not isinstance(cell, str):
            kind = type(cell).__name__
            what = f"column `{self.name}` holds {kind} in row {number}, not text"
            raise UserError(what, where=where, fix="name a text column, or `ids_column` where it holds token ids")
        return cell or ""

    def _ids(self, cell: Any, vocabulary: int, number: int, where: str) -> Ids:
        try:
            ids = np.asarray(cell)
        except ValueError:  # lists of unequal length
            ids = np.empty((0, 0))
        if ids.ndim == 1 and not ids.size:
            return np.empty(0, np.int32)
        if ids.ndim != 1 or ids.dtype.kind not in "iu":
            what = f"column `{self.name}` holds no list of whole numbers in row {number}"
            raise UserError(what, where=where, fix="name a column of token ids, or `text_column` where it holds text")
        if ids.min() < 0 or ids.max() >= vocabulary:
            place = int(np.argmax((ids < 0) | (ids >= vocabulary)))
            raise UserError(
                f"row {number} has the id {ids[place]} at position {place}, and the model has ids 0 to {vocabulary - 1}",
                where=where,
                fix="take a data set that was tokenised with this model's own tokenizer, or its text",
            )
        return ids.astype(np.int32)
