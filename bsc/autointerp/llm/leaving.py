"""Being told to stop: a stage leaves at once, by way of every `with`, so that what arrived is kept. No torch."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

from bsc.training.interruption import EXIT_CODE, SIGNALS, Handler


class Leaving:
    """While it is entered, the first of SIGNALS that comes raises SystemExit with exit code 75, and others do nothing.

    In a thread other than the main one it does nothing: Python lets only that one handle signals.
    """

    def __init__(self) -> None:
        self._previous: dict[signal.Signals, Handler] = {}
        self._held = self._told = False

    def __enter__(self) -> "Leaving":
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._leave) for number in SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Have a signal that comes in here wait for the end of it."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
        if self._told:
            raise SystemExit(EXIT_CODE)

    def _leave(self, number: int, frame: FrameType | None) -> None:
        told, self._told = self._told, True
        if not told and not self._held:
            raise SystemExit(EXIT_CODE)
