"""What a stage depends on: a frozen slice of the config, and the fingerprint of the code that it runs.

A rule's `params` hold both, so Snakemake reruns a job when one of them changes and only then. The fingerprint is a hash of
the syntax trees, without docstrings and positions, of the `bsc` modules that the stage imports, directly or through others,
and of the C++ source of the same name beside a module, with the headers there; a comment or a docstring changes nothing.
Modules that carry values to a stage but compute nothing are left out: their values are in the spec.
"""

import ast
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

CARRIERS = frozenset(
    f"bsc{name}"
    for name in (
        "",
        ".cli",
        ".config",
        ".errors",
        ".paths",
        ".progress",
        ".spec",
        ".stages",
        ".coders.binarisers.registry",
        ".figures.registry",
    )
)
"""Modules whose text is no part of any fingerprint."""
_COMMENT = re.compile(r"//.*")


def dump(spec: Any) -> str:
    """A spec as compact JSON with sorted keys: equal specs give equal text."""
    return json.dumps(spec, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(*parts: Any) -> str:
    """Sixteen hexadecimal digits that stand for JSON-able parts."""
    return hashlib.sha256(dump(parts).encode()).hexdigest()[:16]


@cache
def fingerprint(*modules: str) -> str:
    """The fingerprint of the code that starts in `modules` (full names): sixteen hexadecimal digits."""
    return digest({name: _tree_hash(name) for name in sorted(_closure(modules))})


def _closure(modules: Iterable[str]) -> set[str]:
    found: set[str] = set()
    pending = list(modules)
    while pending:
        name = pending.pop()
        if name in CARRIERS or name in found:
            continue
        found.add(name)
        pending.extend(_imports(name))
    return found


@cache
def _source(name: str) -> Path | None:
    """The file of a bsc module, found without importing it; None when the name is a class or a function in one."""
    path = Path(__file__).parent.joinpath(*name.split(".")[1:])
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


@cache
def _tree(name: str) -> ast.Module:
    source = _source(name)
    if source is None:
        raise ModuleNotFoundError(name)
    return ast.parse(source.read_text(encoding="utf-8"))


@cache
def _imports(name: str) -> frozenset[str]:
    """The bsc modules that a module imports anywhere in its text, and the packages around them."""
    found: set[str] = set()
    for node in _statements(_tree(name)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for imported in names:
            if imported.partition(".")[0] == "bsc" and _source(imported):
                found.update(_with_parents(imported))
    return frozenset(found)


def _with_parents(name: str) -> Iterable[str]:
    parts = name.split(".")
    return (".".join(parts[:length]) for length in range(1, len(parts) + 1))


@cache
def _tree_hash(name: str) -> str:
    tree = _tree(name)
    for node in _statements(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [child for child in node.body if not _is_bare_string(child)] or [ast.Pass()]
    return hashlib.sha256((ast.dump(tree, include_attributes=False) + _compiled(name)).encode()).hexdigest()


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """A node and every statement within it; expressions, which are most of a tree, hold none and are not walked."""
    yield node
    for field in ("body", "handlers", "orelse", "finalbody", "cases"):
        for child in getattr(node, field, ()):
            yield from _statements(child)


def _compiled(name: str) -> str:
    """The C++ source beside a module, and the headers there, without comments and blank lines; "" where there is none."""
    source = _source(name)
    if source is None or not (beside := source.with_suffix(".cpp")).is_file():
        return ""
    files = (beside, *sorted(beside.parent.glob("*.hpp")))
    lines = (_COMMENT.sub("", line).rstrip() for file in files for line in file.read_text(encoding="utf-8").splitlines())
    return "\n".join(line for line in lines if line)


def _is_bare_string(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
