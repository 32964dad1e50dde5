"""The fixture of the made-up results folder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_up_results import write_results

from bsc.paths import CoderId

Written = Callable[..., Path]


@pytest.fixture
def written(tmp_path: Path) -> Written:
    """Write a results folder and return it."""

    def write(coders: list[CoderId], variants: tuple[str, ...] = ("trained",), **options: Any) -> Path:
        write_results(tmp_path / "results", coders, variants, **options)
        return tmp_path / "results"

    return write
