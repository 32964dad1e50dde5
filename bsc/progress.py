"""A bar with rate and time left on a terminal; plain lines, ten seconds apart, in a log."""

import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

LINE_SECONDS = 10.0


def job_label(stage: str, output: Path) -> str:
    """What to call a job among others that run beside it: its stage, and the end of the path that it writes."""
    return f"{stage} {'/'.join(output.parts[-4:])}"


class Progress:
    """Counts `unit`s up to `total` and shows how fast they go and when they end.

    Use as a context manager and call `advance(n)`; `note` is shown behind the rate (a loss, say). Where the total is 0
    nothing is said.
    """

    def __init__(self, label: str, total: int, unit: str, *, done: int = 0) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.done, self._resumed_at, self.note = done, done, ""
        self._bar: Any = None
        self._said: int | None = None
        self._begun = self._shown = time.monotonic()

    def __enter__(self) -> "Progress":
        if self.total and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(
                desc=self.label, total=self.total, unit=f" {self.unit}", initial=self.done, unit_scale=True, leave=True
            )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()
        elif self.total and kind is None and self._said != self.done:
            self._line()

    def advance(self, count: int, note: str = "") -> None:
        """Count `count` more units as done."""
        self.done += count
        self.note = note
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(count)
        elif time.monotonic() - self._shown >= LINE_SECONDS:
            self._line()

    def _line(self) -> None:
        self._shown, self._said = time.monotonic(), self.done
        rate = (self.done - self._resumed_at) / max(self._shown - self._begun, 1e-9)
        left = (self.total - self.done) / rate if rate > 0 else float("inf")
        share = 100 * self.done / max(self.total, 1)
        note = f", {self.note}" if self.note else ""
        counts = f"{self.done:,}/{self.total:,} {self.unit} ({share:.0f}%), {rate:,.0f} {self.unit}/s"
        print(f"{self.label}: {counts}, {left:.0f} s left{note}", file=sys.stderr, flush=True)
