"""Text of local files: a .txt is one document; a .jsonl, .parquet or .arrow has one a row.

They are read piece by piece and nothing is copied, so memory does not grow with them. A position is a file and a row; where
rows have no fixed place in the file, as in .jsonl, the byte too.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bsc.corpus.column import Column, Document
from bsc.errors import UserError
from bsc.io import matching

if TYPE_CHECKING:
    import pyarrow as pa

_BOM = b"\xef\xbb\xbf"
_ROWS = 1024
_READ_BYTES = 1 << 20


class _Place(NamedTuple):
    """A row of a file, counted from 0, and the byte that it begins at, where that is told."""

    row: int = 0
    byte: int = 0


Read = Callable[[Path, Column, _Place], Iterator[tuple[_Place, Document]]]
"""Reads a file from a place on: each document, with the place of the next one."""


class FileDocuments:
    """The documents of the files that the patterns match (relative to the working directory), sorted by path.

    position: as the property, of the same files. Raises UserError when a pattern matches nothing, a file is of another kind,
    or what is in it cannot be read.
    """

    def __init__(self, patterns: list[str], column: Column, position: dict[str, Any] | None = None) -> None:
        self._patterns, self._column = patterns, column
        self._file, self._place = 0, _Place()
        if position:
            self._file, self._place = position["file"], _Place(position["row"], position["byte"])

    def __iter__(self) -> Iterator[Document]:
        for path in _files(self._patterns)[self._file :]:
            if path.suffix not in _READERS:
                fix = f"use {', '.join(_READERS)}"
                raise UserError("not a kind of file that text is read from", where=str(path), fix=fix)
            for place, document in _READERS[path.suffix](path, self._column, self._place):
                self._place = place
                yield document
            self._file, self._place = self._file + 1, _Place()

    @property
    def position(self) -> dict[str, Any]:
        """The number of the file in their order, and the row and byte in it, of the document that comes next."""
        return {"file": self._file, **self._place._asdict()}


def listing(patterns: list[str]) -> list[list[Any]]:
    """The files that the patterns match: path, bytes and time of the last change. Raises as `FileDocuments` does."""
    facts = ((path, path.stat()) for path in _files(patterns))
    return [[str(path), stat.st_size, stat.st_mtime_ns] for path, stat in facts]


def _files(patterns: list[str]) -> list[Path]:
    found: set[Path] = set()
    for pattern in patterns:
        paths = matching(pattern, Path())
        if not paths:
            raise UserError(f"no file matches `{pattern}`", where="corpus.files", fix=f"paths are relative to {Path.cwd()}")
        found.update(paths)
    return sorted(found)


def _txt(path: Path, column: Column, start: _Place) -> Iterator[tuple[_Place, Document]]:
    if column.vocabulary is not None:
        raise UserError("a .txt has no column of ids", where=str(path), fix="use .jsonl, .parquet or .arrow")
    if start.row:
        return
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"not UTF-8 ({error})", where=str(path), fix="convert it, with iconv say") from error
    yield _Place(1), text


def _jsonl(path: Path, column: Column, start: _Place) -> Iterator[tuple[_Place, Document]]:
    """A line is a row; the first must have the column, and where a later one lacks it the document is empty."""
    row, byte = start
    with path.open("rb", _READ_BYTES) as file:
        file.seek(byte)
        for line in file:
            text = line.removeprefix(_BOM) if not byte else line
            byte += len(line)
            if not text.strip():
                continue
            values = _object(text, row, path)
            if not row and column.name not in values:
                raise column.missing(values, row, str(path))
            row += 1
            yield _Place(row, byte), column.document(_cell(values, column.name, row - 1, path), row - 1, str(path))


def _object(line: bytes, row: int, path: Path) -> dict[str, Any]:
    with _readable(path, f" in row {row}"):
        values = json.loads(line)
        if not isinstance(values, dict):
            raise ValueError(f"{type(values).__name__}, not an object")
        return values


def _cell(values: dict[str, Any], name: str, row: int, path: Path) -> Any:
    cell = values.get(name)
    with _readable(path, f" in row {row}"):
        if isinstance(cell, str):
            cell.encode()  # half of a surrogate pair, which JSON can hold, is no text
    return cell


def _parquet(path: Path, column: Column, start: _Place) -> Iterator[tuple[_Place, Document]]:
    """From the row group that the place is in; columns beside the one are not read."""
    import pyarrow.parquet as pq

    with _readable(path), pq.ParquetFile(path, buffer_size=_READ_BYTES) as file:
        if column.name not in file.schema_arrow.names:
            raise column.missing(file.schema_arrow.names, 0, str(path))
        group, first = 0, 0
        while group < file.num_row_groups and first + file.metadata.row_group(group).num_rows <= start.row:
            first += file.metadata.row_group(group).num_rows
            group += 1
        groups = list(range(group, file.num_row_groups))
        yield from _rows(file.iter_batches(_ROWS, groups, [column.name]), first, path, column, start)


def _arrow(path: Path, column: Column, start: _Place) -> Iterator[tuple[_Place, Document]]:
    """Arrow's stream format (what `datasets` saves) or file format, through a memory map: what is passed over is not read."""
    import pyarrow as pa

    with _readable(path), pa.memory_map(str(path)) as source:
        try:
            file = pa.ipc.open_file(source)
            schema, batches = file.schema, (file.get_batch(number) for number in range(file.num_record_batches))
        except pa.ArrowInvalid:
            source.seek(0)
            stream = pa.ipc.open_stream(source)
            schema, batches = stream.schema, iter(stream)
        if column.name not in schema.names:
            raise column.missing(schema.names, 0, str(path))
        yield from _rows((batch.select([column.name]) for batch in batches), 0, path, column, start)


def _rows(
    batches: "Iterator[pa.RecordBatch]", first: int, path: Path, column: Column, start: _Place
) -> Iterator[tuple[_Place, Document]]:
    """The rows of batches of one column, of which the first is row `first` of the file, from `start` on."""
    for batch in batches:
        rest = batch.column(0).slice(max(start.row - first, 0))
        at = first + len(batch) - len(rest)
        first += len(batch)
        for offset in range(0, len(rest), _ROWS):
            for row, cell in enumerate(_cells(rest.slice(offset, _ROWS), column), at + offset):
                yield _Place(row + 1), column.document(cell, row, str(path))


def _cells(array: "pa.Array", column: Column) -> Iterator[Any]:
    """The cells of an array: text as str, ids as numpy arrays, without a Python number for each."""
    import pyarrow as pa

    kind = array.type
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if column.vocabulary is None or not lists:
        yield from array.to_pylist()
        return
    for cell in array:
        yield cell.values.to_numpy(zero_copy_only=False) if cell.is_valid else None


_READERS: dict[str, Read] = {".txt": _txt, ".jsonl": _jsonl, ".parquet": _parquet, ".arrow": _arrow}


@contextmanager
def _readable(path: Path, at: str = "") -> Iterator[None]:
    """Turn what is raised for a file that cannot be read into a UserError."""
    import pyarrow as pa

    try:
        yield
    except (OSError, ValueError, pa.ArrowException) as error:
        fix = "check that the file is whole and of the kind that its name says"
        raise UserError(f"it cannot be read{at} ({type(error).__name__}: {error})", where=str(path), fix=fix) from error
