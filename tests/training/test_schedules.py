import pytest

from bsc.training.schedules import rate_at


def test_adam_warms_up_and_decays_to_zero() -> None:
    rates = [rate_at(step, 10, 2.0, 4, "adam") for step in range(11)]
    assert rates == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0, 5 / 3, 4 / 3, 1.0, 2 / 3, 1 / 3, 0.0])


def test_signum_stays_at_the_peak() -> None:
    assert [rate_at(step, 6, 2.0, 2, "signum") for step in range(6)] == [1.0, 2.0, 2.0, 2.0, 2.0, 2.0]


def test_without_warmup() -> None:
    assert rate_at(0, 10, 3.0, 0, "adam") == 3.0
    assert rate_at(0, 10, 3.0, 0, "signum") == 3.0
