"""What stops a stage before it wastes money: a circuit breaker and a budget. No torch."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from bsc.autointerp.llm.answers import AnswerCache
from bsc.autointerp.llm.messages import Failure, Outcome, Request
from bsc.autointerp.llm.settings import Settings
from bsc.errors import UserError

_FAULTS, _REFUSALS = 10, 100
_FEW = 10
"""Fewer outcomes than this may all be failures: of one latent, whose explanation is what a server refuses."""


class Breaker:
    """Opens after ten requests in a row that failed, each after all its attempts, or after a hundred that were refused.

    A refusal may be of what one prompt says, and twenty prompts or more hold the explanation of one latent.
    """

    def __init__(self, where: str) -> None:
        self._where = where
        self._failed: Counter[bool] = Counter()  # in a row: refused, and else

    def record(self, outcome: Outcome) -> None:
        """Count an outcome. Raises UserError when it is one failure too many."""
        if not isinstance(outcome, Failure):
            self._failed.clear()
            return
        self._failed[outcome.refused] += 1
        count = self._failed[outcome.refused]
        if count >= (_REFUSALS if outcome.refused else _FAULTS):
            how = "were refused" if outcome.refused else "failed"
            raise self._error(f"{count} requests in a row {how}, the last one with: {outcome.reason}")

    def conclude(self, outcomes: int, last: Failure | None) -> None:
        """At the end. last: the last failure, where nothing was answered. Raises UserError when all of so many failed."""
        if last is not None and outcomes >= _FEW:
            raise self._error(f"none of {outcomes:,} requests was answered, the last one failed with: {last.reason}")

    def _error(self, what: str) -> UserError:
        fix = "see to the server, then run the same command again: what was answered is kept and not asked again"
        return UserError(what, where=self._where, fix=fix)


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
        self._check(cost)
        self._reserved += cost
        try:
            yield
        finally:
            self._reserved -= cost

    def charge(self, tokens: tuple[int, int]) -> None:
        """Book an attempt that was billed and gave no reply. tokens: in and out, by the server or the most that they can be.

        Raises UserError when another attempt, for which money is held back already, could take the cost over the budget.
        """
        self._cache.charge(*tokens)
        self._check(0.0)

    def _check(self, more: float) -> None:
        if self._settings.budget is None:
            return
        spent = self._settings.cost(*self._cache.billed())
        if spent + self._reserved + more > self._settings.budget:
            raise UserError(
                f"the next request could take the cost over the budget: {spent:.4f} of {self._settings.budget:g} are spent",
                where=f"llms.{self._settings.name}.budget",
                fix="raise the budget and run again: what was answered is kept and not asked again",
            )

    def dearest(self, request: Request) -> float:
        """What a request costs at the most, its reply as long as it may be."""
        return self._settings.cost(*request.dearest)
