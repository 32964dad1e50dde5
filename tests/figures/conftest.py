"""Fixtures: the made-up results folder, and what is drawn from it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from made_up_results import write_results
from matplotlib.figure import Figure

from bsc.figures import style
from bsc.paths import CoderId

Written = Callable[..., Path]


@pytest.fixture
def finished(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Figure, str]]:
    """The figures of panels that a test draws, each with its note."""
    found: list[tuple[Figure, str]] = []
    finish = style.finish

    def noted(figure: Figure, handles: list[Any], note: str, look: Mapping[str, Any]) -> None:
        found.append((figure, note))
        finish(figure, handles, note, look)

    monkeypatch.setattr(style, "finish", noted)
    return found


@pytest.fixture
def written(tmp_path: Path) -> Written:
    """Write a results folder and return it."""

    def write(coders: list[CoderId], variants: tuple[str, ...] = ("trained",), **options: Any) -> Path:
        write_results(tmp_path / "results", coders, variants, **options)
        return tmp_path / "results"

    return write
