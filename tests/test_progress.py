"""What a job says of how far it is: a bar on a terminal, plain lines elsewhere."""

import io
import sys

import pytest

from bsc import progress
from bsc.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """Stands for the module `time`."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(progress, "time", made)
    return made


def test_a_log_gets_a_line_every_ten_seconds_with_rate_and_time_left(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("train coder", 8000, "tokens", done=2000) as shown:
        for _ in range(4):
            clock.now += 6
            shown.advance(1500, "FVU 0.3")
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "train coder: 5,000/8,000 tokens (62%), 250 tokens/s, 12 s left, FVU 0.3",
        "train coder: 8,000/8,000 tokens (100%), 250 tokens/s, 0 s left, FVU 0.3",
    ]


def test_a_short_stage_says_one_line(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("index", 2, "shards") as shown:
        clock.now += 1
        shown.advance(2)
    assert capsys.readouterr().err == "index: 2/2 shards (100%), 2 shards/s, 0 s left\n"


def test_a_stage_that_fails_leaves_its_last_word_to_the_error(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        with Progress("train", 10, "tokens") as shown:
            shown.advance(1)
            raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        fail()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("terminal", [False, True])
def test_of_nothing_to_do_nothing_is_said(monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    shown = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", shown)
    with Progress("some-llm", 0, "prompts"):
        pass
    assert shown.getvalue() == ""


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Progress("train coder", 8000, "tokens", done=2000) as shown:
        shown.advance(6000, "FVU 0.3")
    bar = terminal.getvalue()
    assert "train coder: 100%" in bar
    assert "8.00k/8.00k" in bar
    assert "FVU 0.3" in bar
    assert "tokens/s" in bar
    assert "\n" not in bar.rstrip("\n")
