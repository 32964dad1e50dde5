"""Labelled text for probing: documents with a class each, from a data set, local files or the installed packages.

*Ours*: the paper does not probe. The packages' labels need no download: `package`, which one a document documents, or `kind`,
whether it is prose (documentation) or code (Python without its docstrings and comments).
"""

import ast
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from heapq import heappush, heappushpop
from importlib.metadata import PackageNotFoundError, distribution
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bsc.corpus.dataset import readable
from bsc.corpus.documentation import LONGEST, SHORTEST, documentation
from bsc.errors import UserError

if TYPE_CHECKING:
    from bsc.stages import LabelledSpec

BUILDERS = {".jsonl": "json", ".parquet": "parquet", ".csv": "csv"}
"""What `datasets` calls the kinds of file that labelled text is read from."""

SCANNED = 200_000
"""Rows of a data set or of files that are looked at, at the most: many sets are sorted by label."""

Labelled = tuple[str, str]
"""A document and its label."""


def labelled_documents(spec: "LabelledSpec") -> list[Labelled]:
    """At most `spec.documents` documents with their labels, the same each time.

    They are equally many of each label, as far as there are so many. Of data sets and files they are those with the lowest
    SHA-256 among the first `SCANNED` rows whose text is long enough (`SHORTEST` characters), in whatever order the rows stand.
    Raises UserError when the source cannot be read or has no such columns.
    """
    if spec.source == "documentation":
        return _of_packages(spec)
    rows = _hub_rows(spec) if spec.source == "hub" else _file_rows(spec)
    return _drawn((pair for pair in islice(rows, SCANNED) if len(pair[0]) >= SHORTEST), spec.documents)


def _drawn(rows: Iterable[Labelled], documents: int) -> list[Labelled]:
    kept: dict[str, list[tuple[int, str]]] = {}
    for text, label in rows:
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
        heap, entry = kept.setdefault(label, []), (-int.from_bytes(digest), text)
        (heappushpop if len(heap) == documents else heappush)(heap, entry)  # the largest negative ones are the lowest
    shares, left = {}, documents
    for place, label in enumerate(sorted(kept, key=lambda label: len(kept[label]))):
        shares[label] = min(len(kept[label]), left // (len(kept) - place))  # what the rare ones leave goes to the others
        left -= shares[label]
    return [(text, label) for label in sorted(kept) for _, text in sorted(kept[label], reverse=True)[: shares[label]]]


def _of_packages(spec: "LabelledSpec") -> list[Labelled]:
    versions = spec.versions or {}
    if spec.labels == "package":
        sources = {package: documentation({package: version}) for package, version in sorted(versions.items())}
    else:
        sources = {"code": code(versions), "prose": documentation(versions)}
    each = spec.documents // len(sources)
    return [(text, label) for label, texts in sources.items() for text in islice(texts, each)]


def code(versions: Mapping[str, str]) -> Iterator[str]:
    """Python modules of these packages without docstrings and comments, in the order of the SHA-256 of their paths.

    Raises UserError when a package is not installed.
    """
    for path in sorted(_modules(versions), key=lambda path: hashlib.sha256(path.as_posix().encode()).digest()):
        text = _bare(path)
        if len(text) >= SHORTEST:
            yield text[:LONGEST]


def _modules(versions: Mapping[str, str]) -> Iterator[Path]:
    for package in versions:
        try:
            found = distribution(package)
        except PackageNotFoundError as error:
            raise UserError(f"`{package}` is not installed", where="probing.packages", fix=f"pip install {package}") from error
        yield from (Path(str(found.locate_file(name))) for name in found.files or [] if name.suffix == ".py")


def _bare(path: Path) -> str:
    """A module's code alone; nothing when it is no Python."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, FileNotFoundError, SyntaxError, ValueError):
        return ""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(node):
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)


def _hub_rows(spec: "LabelledSpec") -> Iterator[Labelled]:
    from datasets import load_dataset

    where = f"data set {spec.dataset}"
    with readable(where, f"check the network (HF_HUB_OFFLINE must not be set) and {where}'s subset, split and revision"):
        rows = load_dataset(spec.dataset, spec.subset, split=spec.hub_split, revision=spec.revision, streaming=spec.streaming)
        yield from _pairs(rows, spec, where)


def _file_rows(spec: "LabelledSpec") -> Iterator[Labelled]:
    from datasets import load_dataset

    for name in spec.files or []:
        path = Path(name)
        if path.suffix not in BUILDERS:
            what = "not a kind of file that labelled text is read from"
            raise UserError(what, where=name, fix="use .jsonl, .parquet or .csv, with a text and a label in each row")
        with readable(name, "check that the file is there, whole and of the kind that its name says"):
            rows = load_dataset(BUILDERS[path.suffix], data_files=name, split="train", streaming=True)
            yield from _pairs(rows, spec, name)


def _pairs(rows: Iterable[Mapping[str, Any]], spec: "LabelledSpec", where: str) -> Iterator[Labelled]:
    for number, row in enumerate(rows):
        for key, column in (("text_column", spec.text_column), ("label_column", spec.label_column)):
            if column not in row:
                have = ", ".join(f"`{name}`" for name in row)
                raise UserError(f"row {number} has no column `{column}`", where=where, fix=f"set `probing.{key}`: {have}")
        text, label = row[spec.text_column], row[spec.label_column]
        if text is not None and label is not None:
            yield str(text), str(label)
