"""When to ask the scheduler next: soon after something changed, ever later while nothing does."""

from collections.abc import Callable

GROWTH = 1.5


class Interval:
    """Seconds between two questions, from `first` up to `longest`, by a clock that knows no date."""

    def __init__(self, first: float, longest: float, clock: Callable[[], float]) -> None:
        self.first, self.longest, self._clock = first, max(first, longest), clock
        self.seconds = first
        self._asked = clock()

    def due(self) -> bool:
        """Whether it is time to ask."""
        return self._clock() - self._asked >= self.seconds

    def asked(self, *, changed: bool) -> None:
        """Note that the question was asked now, and whether the answer was a new one."""
        self._asked = self._clock()
        self.seconds = self.first if changed else min(self.seconds * GROWTH, self.longest)

    def hurry(self) -> None:
        """Begin anew with the first interval: jobs were submitted, or ended."""
        self.seconds = self.first
