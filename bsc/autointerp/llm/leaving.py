"""Being told to stop: a stage leaves at once, by way of every `with`, so that what arrived is kept. No torch."""

import asyncio
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import NoReturn

from bsc.training.interruption import EXIT_CODE, SIGNALS, Handler


def _leave() -> NoReturn:
    raise SystemExit(EXIT_CODE)


@contextmanager
def _woken_by_signals(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = socket.socketpair()
    with reader, writer:
        reader.setblocking(False)
        writer.setblocking(False)
        loop.add_reader(reader, reader.recv, 1)
        before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)
            loop.remove_reader(reader)


class Leaving:
    """While it is entered, the first of SIGNALS that comes raises SystemExit with exit code 75, and others do nothing.

    In a thread other than the main one it does nothing: Python lets only that one handle signals.
    """

    def __init__(self) -> None:
        self._previous: dict[signal.Signals, Handler] = {}
        self._told = False
        self._react: Callable[[], object] = _leave

    def __enter__(self) -> "Leaving":
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._receive) for number in SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Have a signal that comes in here wait for the end of it."""
        with self._meanwhile(lambda: None):
            yield

    @contextmanager
    def between_callbacks(self, loop: asyncio.AbstractEventLoop) -> Iterator[None]:
        """Have a signal that comes while the loop runs raise SystemExit from it, between two of its callbacks.

        Raised in the middle of one it may be lost, as in a weak reference's callback, or break what it comes upon: of a thread
        that an executor has just started, and not noted, the interpreter waits for the end for ever. A signal that Linux handed
        to another thread, after which Python's handler only comes when the main one has something to do, wakes the loop.
        """
        with self._meanwhile(lambda: loop.call_soon_threadsafe(_leave)), _woken_by_signals(loop):
            yield

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Within `between_callbacks`, have a signal raise SystemExit where it comes: in a callback that takes long."""
        with self._meanwhile(_leave):
            yield

    @contextmanager
    def _meanwhile(self, react: Callable[[], object]) -> Iterator[None]:
        before, self._react = self._react, react
        try:
            if self._told:
                react()
            yield
        finally:
            self._react = before
        if self._told:
            before()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        told, self._told = self._told, True
        if not told:
            self._react()
