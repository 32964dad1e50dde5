"""Being told to stop: a signal only sets a flag, and the loop stops at a place of its own choosing."""

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType

EXIT_CODE = 75
"""EX_TEMPFAIL of sysexits.h: not finished through no fault of the job; run the same command again and it goes on."""

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
"""A scheduler's kill, Ctrl-C, and submitit's notice that the time is nearly up."""

Handler = Callable[[int, FrameType | None], object] | int | None


class Stopped(Exception):
    """Raised where a run that was told to stop does so."""


class Interruption:
    """While it is entered, the first of SIGNALS that comes is kept in `received`; the same one again acts as it did before.

    In a thread other than the main one it does nothing: Python lets only that one handle signals. once: no signal after the
    first does anything, for a rank that is told by the scheduler and by torchrun too, and waits for the others meanwhile.
    """

    def __init__(self, *, once: bool = False) -> None:
        self._once = once
        self.received: signal.Signals | None = None
        self._previous: dict[signal.Signals, Handler] = {}

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._receive) for number in SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        for number in list(self._previous):
            self._restore(number)

    def check(self) -> None:
        """Raise Stopped if a signal has come; may be called from any thread."""
        if self.received:
            raise Stopped(f"stopped by {self.received.name}")

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        if not self._once:
            self._restore(self.received)

    def _restore(self, number: signal.Signals) -> None:
        if number in self._previous:
            previous = self._previous.pop(number)
            signal.signal(number, signal.SIG_DFL if previous is None else previous)
