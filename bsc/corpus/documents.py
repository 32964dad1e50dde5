"""Where text comes from: a stream of documents from the source that the spec names."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bsc.corpus.dataset import hub_documents
from bsc.corpus.documentation import documentation
from bsc.corpus.files import file_documents

if TYPE_CHECKING:
    from bsc.stages import TokensSpec


def documents(spec: "TokensSpec") -> Iterator[str]:
    """The documents of a corpus, in the same order each time.

    Raises UserError where the source is not to be had, when the first document is asked for or later.
    """
    if spec.source == "documentation":
        return documentation(spec.versions or {})
    if spec.source == "files":
        return file_documents(spec.files or [], spec.text_column)
    return hub_documents(spec)
