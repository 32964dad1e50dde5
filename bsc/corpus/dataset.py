"""Text of a data set: one document a row, from the hub or from what `datasets` reads of local files."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from bsc.errors import UserError

if TYPE_CHECKING:
    from bsc.stages import TokensSpec


def hub_documents(spec: "TokensSpec") -> Iterator[str]:
    """The text column of a hub data set (or of a local folder that is one), row by row, streamed if the spec says so.

    Raises UserError when the data set, its subset, split or column is not there, or not to be reached.
    """
    from datasets import load_dataset

    where = f"data set {spec.dataset}"
    with readable(where, f"check the network (HF_HUB_OFFLINE must not be set) and {where}'s subset, split and revision"):
        rows = load_dataset(spec.dataset, spec.subset, split=spec.hub_split, revision=spec.revision, streaming=spec.streaming)
        yield from column(rows, spec.text_column, where)


def column(rows: Iterable[Mapping[str, Any]], name: str, where: str) -> Iterator[str]:
    """One column of rows, as text; an empty cell is an empty document.

    Raises UserError when the column is missing, naming those there are, or holds anything but text.
    """
    for number, row in enumerate(rows):
        if name not in row:
            have = ", ".join(f"`{key}`" for key in row)
            raise UserError(f"row {number} has no column `{name}`", where=where, fix=f"set `corpus.text_column`: {have}")
        text = row[name]
        if text is not None and not isinstance(text, str):
            kind = type(text).__name__
            raise UserError(f"column `{name}` holds {kind} in row {number}, not text", where=where, fix="name a text column")
        yield text or ""


@contextmanager
def readable(where: str, fix: str) -> Iterator[None]:
    """Turn whatever `datasets` raises for a source that it cannot read into a UserError."""
    from datasets.exceptions import DatasetGenerationError, DatasetsError

    try:
        yield
    except UserError:
        raise
    except (DatasetGenerationError, DatasetsError, OSError, ValueError) as error:
        cause = error.__cause__ or error
        raise UserError(f"it cannot be read ({type(cause).__name__}: {cause})", where=where, fix=fix) from error
