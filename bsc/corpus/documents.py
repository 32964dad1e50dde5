"""Where text comes from: documents in an order that never changes, which can be left and taken up again."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

from bsc.corpus.column import Column, Document
from bsc.corpus.dataset import HubDocuments
from bsc.corpus.documentation import documentation
from bsc.corpus.files import FileDocuments, listing

if TYPE_CHECKING:
    from bsc.stages import TokensSpec

Position = dict[str, Any]
"""Where in its documents a source is, as JSON."""


class Documents(Protocol):
    """The documents of a source from some position on, to be read once."""

    def __iter__(self) -> Iterator[Document]: ...

    @property
    def position(self) -> Position:
        """Where the document stands that comes next."""


class Counted:
    """Documents of which those before a position are read again and dropped: right where they are few."""

    def __init__(self, texts: Iterable[Document], position: Position | None = None) -> None:
        self._count = position["documents"] if position else 0
        self._texts = islice(texts, self._count, None)

    def __iter__(self) -> Iterator[Document]:
        for text in self._texts:
            self._count += 1
            yield text

    @property
    def position(self) -> Position:
        """How many documents came before."""
        return {"documents": self._count}


def documents(spec: "TokensSpec", vocabulary: int, position: Position | None = None) -> Documents:
    """The documents of a corpus, in the same order each time, from a position of the same corpus on.

    vocabulary: ids that the model has, against which those of a tokenised set are checked. Raises UserError where the source
    is not to be had, when the first document is asked for or later.
    """
    if spec.source == "documentation":
        return Counted(documentation(spec.versions or {}), position)
    column = Column(spec.text_column) if spec.ids_column is None else Column(spec.ids_column, vocabulary)
    if spec.source == "files":
        return FileDocuments(spec.files or [], column, position)
    return HubDocuments(spec, column, position)


def identity(spec: "TokensSpec") -> Any:
    """What a position in the corpus is good for, beside the spec, as JSON: the local files, and when they were changed."""
    return listing(spec.files or []) if spec.source == "files" else None
