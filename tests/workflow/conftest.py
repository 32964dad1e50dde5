"""A copy of the repository in which smoke.yaml has been run to its end by the real Snakemake."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from checkouts import ROOT, Checkout, copy


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout whose smoke DAG has been built. Not to be changed: take `checkout`."""
    made = copy(ROOT, tmp_path_factory.mktemp("finished"), results=False)
    made.run()
    return made


@pytest.fixture
def checkout(finished: Checkout, tmp_path: Path) -> Checkout:
    """A copy of the finished checkout that a test may change."""
    return copy(finished.folder, tmp_path / "checkout", results=True)


@pytest.fixture
def tokenised(checkout: Checkout) -> Checkout:
    """One that has its model and its tokens, and nothing that comes after them."""
    for folder in (checkout.folder / "results" / "smoke").iterdir():
        if folder.name not in ("models", "tokens"):
            shutil.rmtree(folder)
    return checkout


@pytest.fixture
def fresh(tmp_path: Path) -> Callable[[], Checkout]:
    """Makes a checkout with no results."""
    return lambda: copy(ROOT, tmp_path / "fresh", results=False)
