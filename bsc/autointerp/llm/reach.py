"""From settings to a model that can be asked, closed with all that it holds when it is left. No torch until one is asked."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

from bsc.autointerp.llm.answers import AnswerCache
from bsc.autointerp.llm.leaving import Leaving
from bsc.autointerp.llm.messages import Outcome, Request
from bsc.autointerp.llm.settings import Settings


class Asked(Protocol):
    """What answers prompts."""

    def ask(self, requests: Iterable[Request]) -> Iterator[Outcome]:
        """The outcome of each request, in order."""


@contextmanager
def reached(settings: Settings, answers: Path, log: Path) -> Iterator[Asked]:
    """A model that can be asked. answers: folder of the answer caches; log: what a server that is started here prints.

    On a signal what arrived is kept, a server is stopped and the process ends with exit code 75; see `Leaving`.
    """
    with ExitStack() as stack:
        leaving = stack.enter_context(Leaving())
        cache = stack.enter_context(AnswerCache(answers / f"{settings.name}.sqlite"))
        if settings.transformers is not None:
            from bsc.autointerp.llm.local import LocalModel

            yield stack.enter_context(LocalModel(settings, cache))
            return
        from bsc.autointerp.llm.http import HttpModel
        from bsc.autointerp.llm.serve import Server

        server = None if settings.serve is None else stack.enter_context(Server(settings, log, leaving))
        yield stack.enter_context(HttpModel(settings, cache, server, leaving))
