"""Text without a download: the documentation of packages that are installed anyway.

A Python module's docstrings, read from its syntax tree and never imported, make one document; so does a .md, .rst or .txt
file that the package ships, unless it is a licence or data; tests are left out. Libraries repeat themselves (a hundred models
explain `hidden_states` in the same words), so a docstring of which half or more has stood before is left out: else the
evaluation split would hold much of the training text. *Ours*: the paper trains on web text; this is a stand-in that every
machine has.
"""

import ast
import hashlib
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path, PurePosixPath

from bsc.errors import UserError

SHORTEST = 200
"""Characters under which a document is left out."""

LONGEST = 4_000
"""Characters at which a document ends, with the docstring that reaches them: a small split then still has many documents."""

_PROSE = (".md", ".rst", ".txt")
_NOT_PROSE = re.compile(r"(licen[cs]e|copying|notice|authors|requirements|top_level|entry_points|cmakelists|version)", re.I)
_TEST = re.compile(r"tests?|test_.*|.*_test\.py|conftest\.py")
_LETTERS = 0.7
"""The share of letters and blanks under which a file is data and no prose."""


def documentation(versions: Mapping[str, str]) -> Iterator[str]:
    """The documents of these packages, as they are asked for: a demo reads a tenth of what is installed.

    Their order is that of the SHA-256 of their paths, which is random over packages and everywhere the same.
    Raises UserError when a package is not installed in this version, or its installer left no list of its files.
    """
    found = (pair for package, version in sorted(versions.items()) for pair in _files(package, version))
    seen: set[bytes] = set()
    for _, path in sorted(found, key=lambda pair: hashlib.sha256(pair[0].encode()).digest()):
        text = _joined(part for part in _read(path) if not _is_repeated(part, seen))
        if len(text) >= SHORTEST:
            yield text


def _files(package: str, version: str) -> list[tuple[str, Path]]:
    """The files of a package that may hold documentation: their names as installed, and where they are."""
    try:
        found = distribution(package)
    except PackageNotFoundError as error:
        raise UserError(f"`{package}` is not installed", where="corpus.packages", fix=f"pip install {package}") from error
    if found.version != version:
        what = f"`{package}` is now {found.version} and was {version} when the workflow was planned"
        raise UserError(what, where="corpus.packages", fix="run snakemake again: it plans with what is installed")
    if found.files is None:
        fix = "reinstall it with pip, or take it out of the list"
        raise UserError(f"`{package}` was installed without a list of its files", where="corpus.packages", fix=fix)
    names = (name.as_posix() for name in found.files)
    return [(name, Path(str(found.locate_file(name)))) for name in names if _is_documented(name)]


def _is_documented(name: str) -> bool:
    path = PurePosixPath(name)
    if ".." in path.parts or any(part.endswith(".dist-info") or _TEST.fullmatch(part) for part in path.parts):
        return False
    return path.suffix == ".py" or (path.suffix in _PROSE and not _NOT_PROSE.search(path.name))


def _read(path: Path) -> list[str]:
    """What a file says to its readers, docstring by docstring; nothing when it is no text, no Python or no prose."""
    try:
        text = path.read_text(encoding="utf-8")
    except (UnicodeDecodeError, FileNotFoundError):
        return []
    if path.suffix == ".py":
        return list(docstrings(text))
    letters = sum(character.isalpha() or character.isspace() for character in text)
    return [text] if letters >= _LETTERS * len(text) else []


def docstrings(source: str) -> Iterator[str]:
    """The docstrings of a module and of its classes and functions, however deep, in the order of the source."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a stray backslash in a library's string is not our reader's concern
            tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return
    yield from _docstrings_below(tree)


def _docstrings_below(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        text = (ast.get_docstring(node) or "").strip()
        if text:
            yield text
    for child in ast.iter_child_nodes(node):
        yield from _docstrings_below(child)


def _joined(parts: Iterable[str]) -> str:
    text = ""
    for part in parts:
        text = f"{text}\n\n{part}".strip()
        if len(text) >= LONGEST:
            break
    return text


def _is_repeated(text: str, seen: set[bytes]) -> bool:
    """Whether at least half of a text, by length of paragraphs, is in `seen`; what is new is added to `seen`."""
    total = repeated = 0
    for paragraph in re.split(r"\n\s*\n", text):
        normal = " ".join(paragraph.lower().split())
        mark = hashlib.sha256(normal.encode()).digest()
        total += len(normal)
        repeated += len(normal) if mark in seen else 0
        seen.add(mark)
    return 2 * repeated >= total
