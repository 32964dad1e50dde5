"""Signals: when a stage leaves on one, and that none is lost."""

import asyncio
import signal
import threading
import time
import weakref
from collections.abc import Callable, Coroutine

import pytest

from bsc.autointerp.llm.leaving import Leaving


def left_on_a_signal(run: Callable[[Leaving], Coroutine[None, None, None]]) -> None:
    runner = asyncio.Runner()
    loop = runner.get_loop()
    with Leaving() as leaving, pytest.raises(SystemExit) as left, leaving.between_callbacks(loop):
        runner.run(run(leaving))
    loop.close()
    assert left.value.code == 75


def test_while_it_is_held_a_signal_waits() -> None:
    done = []

    def start(leaving: Leaving) -> None:
        with leaving.held():
            signal.raise_signal(signal.SIGUSR2)
            done.append("the rest of it")

    with Leaving() as leaving:
        with pytest.raises(SystemExit):
            start(leaving)
        signal.raise_signal(signal.SIGTERM)  # it is leaving already
    assert done


def test_a_signal_is_not_lost_where_exceptions_are() -> None:
    class Gone:
        pass

    done = []

    async def lose(leaving: Leaving) -> None:
        gone = Gone()
        _reference = weakref.ref(gone, lambda _: signal.raise_signal(signal.SIGUSR2))  # Python ignores what is raised in there
        del gone
        done.append("the rest of the callback")
        await asyncio.sleep(20)
        done.append("too much")

    left_on_a_signal(lose)
    assert done == ["the rest of the callback"]


def test_a_signal_that_another_thread_takes_wakes_the_loop() -> None:
    over = threading.Event()
    other = threading.Thread(target=over.wait, daemon=True)
    other.start()
    begun = time.monotonic()

    async def wait(leaving: Leaving) -> None:
        threading.Timer(0.3, signal.pthread_kill, [other.ident, signal.SIGUSR2]).start()
        await asyncio.sleep(20)

    left_on_a_signal(wait)
    over.set()
    assert time.monotonic() - begun < 10


def test_a_long_callback_is_left_at_once() -> None:
    done = []

    async def wait(leaving: Leaving) -> None:
        with leaving.at_once(), leaving.held():
            signal.raise_signal(signal.SIGUSR2)
            done.append("what is held")
        done.append("too much")

    left_on_a_signal(wait)
    assert done == ["what is held"]


def test_a_signal_before_a_long_callback_is_not_waited_with() -> None:
    done = []

    async def wait(leaving: Leaving) -> None:
        signal.raise_signal(signal.SIGUSR2)
        with leaving.at_once():
            done.append("too much")

    left_on_a_signal(wait)
    assert not done
