"""Text of local files: a .txt is one document, a .jsonl or .parquet has one a row."""

from collections.abc import Iterator
from pathlib import Path

from bsc.corpus.dataset import column, readable
from bsc.errors import UserError

BUILDERS = {".jsonl": "json", ".parquet": "parquet"}


def file_documents(patterns: list[str], text_column: str) -> Iterator[str]:
    """The documents of the files that the patterns match (relative to the working directory), sorted by path.

    Raises UserError when a pattern matches nothing, a file is of another kind, or its text cannot be read.
    """
    for path in sorted({path for pattern in patterns for path in _matching(pattern)}):
        if path.suffix == ".txt":
            yield _text(path)
        elif path.suffix in BUILDERS:
            yield from _rows(path, text_column)
        else:
            raise UserError("not a kind of file that text is read from", where=str(path), fix="use .txt, .jsonl or .parquet")


def _matching(pattern: str) -> list[Path]:
    absolute = Path(pattern).is_absolute()
    found = [Path(pattern)] if absolute else sorted(Path().glob(pattern))
    found = [path for path in found if path.is_file()]
    if not found:
        raise UserError(f"no file matches `{pattern}`", where="corpus.files", fix=f"paths are relative to {Path.cwd()}")
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"not UTF-8 ({error})", where=str(path), fix="convert it, with iconv say") from error


def _rows(path: Path, text_column: str) -> Iterator[str]:
    from datasets import load_dataset

    with readable(str(path), "check that the file is whole and of the kind that its name says"):
        rows = load_dataset(BUILDERS[path.suffix], data_files=str(path), split="train", streaming=True)
        yield from column(rows, text_column, str(path))
