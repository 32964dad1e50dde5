"""What stops a stage before it wastes money: a circuit breaker and a budget. No torch."""

from collections.abc import Iterator
from contextlib import contextmanager

from bsc.autointerp.llm.answers import AnswerCache
from bsc.autointerp.llm.messages import Failure, Outcome, Request
from bsc.autointerp.llm.settings import Settings
from bsc.errors import UserError

_IN_A_ROW = 10


class Breaker:
    """Opens after ten requests in a row that failed, each of them after all its attempts."""

    def __init__(self, where: str) -> None:
        self._where, self._failed = where, 0

    def record(self, outcome: Outcome) -> None:
        """Count an outcome. Raises UserError when it is one failure too many."""
        self._failed = self._failed + 1 if isinstance(outcome, Failure) else 0
        if isinstance(outcome, Failure) and self._failed >= _IN_A_ROW:
            raise UserError(
                f"{self._failed} requests in a row failed, the last one with: {outcome.reason}",
                where=self._where,
                fix="see to the server, then run the same command again: what was answered is kept and not asked again",
            )


class Budget:
    """What may be spent on one model, by all that is in its cache and what is under way from here."""

    def __init__(self, settings: Settings, cache: AnswerCache) -> None:
        self._settings, self._cache = settings, cache
        self._reserved = 0.0

    @contextmanager
    def reserved(self, request: Request) -> Iterator[None]:
        """Hold back what a request may cost at the most while it is under way.

        Raises UserError when it could take the model's cost over its budget. What other processes have under way is not seen
        until it is answered.
        """
        if self._settings.budget is None:
            yield
            return
        cost = self.dearest(request)
        spent = self._settings.cost(*self._cache.totals()[2:])
        if spent + self._reserved + cost > self._settings.budget:
            raise UserError(
                f"the next request could take the cost over the budget: {spent:.4f} of {self._settings.budget:g} are spent",
                where=f"llms.{self._settings.name}.budget",
                fix="raise the budget and run again: what was answered is kept and not asked again",
            )
        self._reserved += cost
        try:
            yield
        finally:
            self._reserved -= cost

    def dearest(self, request: Request) -> float:
        """What a request costs at the most, its reply as long as it may be."""
        return self._settings.cost(request.most_tokens, request.sampling.max_tokens)
