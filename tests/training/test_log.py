import numpy as np
import pytest
import torch

from bsc.training.log import COLUMNS, TrainingLog


def noted(*fvus: float, norms: list[float] | None = None) -> tuple[TrainingLog, "np.ndarray"]:  # type: ignore[type-arg]
    log = TrainingLog(len(fvus), 100)
    for fvu, norm in zip(fvus, norms or [1.0] * len(fvus), strict=True):
        log.add(torch.tensor([fvu, fvu + 1, 3.0, 0.25, norm]), 0.5)
    return log, log.fetch()


def test_rows() -> None:
    log, rows = noted(0.5, 0.25)
    assert rows[:, :-1].tolist() == [[1, 100, 0.5, 1.5, 3, 0.25, 1, 0.5], [2, 200, 0.25, 1.25, 3, 0.25, 1, 0.5]]
    assert (rows[:, -1] > 0).all()
    assert list(log.frame().columns) == list(COLUMNS)
    assert len(log.fetch()) == 0


def test_goes_on_from_a_tensor() -> None:
    first = TrainingLog(3, 100)
    first.add(torch.arange(5.0), 0.1)
    first.fetch()
    second = TrainingLog(3, 100)
    second.load(first.tensor())
    second.add(torch.ones(5), 0.2)
    assert second.fetch()[0, :2].tolist() == [2, 200]
    assert second.frame()["fvu"].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("fvus", "step"),
    [
        ((1.0, 0.5, float("nan")), 3),
        ((1.0, float("inf"), float("nan")), 2),
        ((float("nan"),), 1),
        ((1.0, 0.1, 999.0), None),
        ((1.0, 0.1, 1001.0), 3),
        ((5e5, 1e6, 4e8), None),
        ((5e5, 100.0, 1.01e5, 1.0), 3),
    ],
)
def test_diverged_at(fvus: tuple[float, ...], step: int | None) -> None:
    log, rows = noted(*fvus)
    assert log.diverged_at(rows) == step


def test_the_best_is_remembered_between_fetches() -> None:
    log = TrainingLog(3, 100)
    for fvu in (5e5, 0.5):
        log.add(torch.full((5,), fvu), 0.1)
    assert log.diverged_at(log.fetch()) is None
    log.add(torch.full((5,), 2e4), 0.1)
    assert log.diverged_at(log.fetch()) == 3


def test_an_infinite_gradient_is_divergence() -> None:
    log, rows = noted(1.0, 0.5, norms=[1.0, float("inf")])
    assert log.diverged_at(rows) == 2
