"""An OpenAI-compatible server, asked concurrently: retries, a breaker, a budget, and every answer kept as it arrives. No torch.

Requests are taken from an iterable as places become free and outcomes handed on in order, so memory holds a window of them and
not their number.
"""

import asyncio
import contextlib
import gc
import ipaddress
import json
import math
import random
import re
import urllib.parse
import urllib.request
from collections import deque
from collections.abc import Coroutine, Iterable, Iterator
from functools import cached_property, partial
from itertools import count, islice
from types import TracebackType
from typing import Any, TypeVar

import aiohttp

from bsc.autointerp.llm.answers import AnswerCache
from bsc.autointerp.llm.breaker import Breaker, Budget
from bsc.autointerp.llm.leaving import Leaving
from bsc.autointerp.llm.messages import Failure, Outcome, Reply, Request, key_of
from bsc.autointerp.llm.serve import Server
from bsc.autointerp.llm.settings import Settings
from bsc.errors import UserError

_WINDOW = 8
"""Requests that are begun or done and not handed on yet, in units of those that are sent at a time."""
_AT_ONCE = 16
"""Requests that are written and looked up between two turns of the event loop."""
_FIRST_PAUSE, _LONGEST_BACKOFF = 0.5, 30.0
_LONGEST_PAUSE = 300.0
_LONGEST_CONNECT = 30.0
_WRONG_SETTINGS = (401, 402, 404)
"""Not 403: OpenRouter gives it to a prompt that was flagged, and with a key that may do nothing the breaker opens."""
_TRANSIENT = (408, 409, 425, 429)
_OK, _SERVER_ERROR = 200, 500
_UNKNOWN = (400, 422, 501)
_SCHEMA = re.compile(r"response_format|json_schema", re.IGNORECASE)
"""What servers say that do not know the field of a request which asks for structured output."""
_JSON = {"Content-Type": "application/json"}
_SHOWN = 300
_MOST_COUNTED = 2**31
"""Tokens of one request: a server that counts more is not believed."""
_STOPPED = "the stage stopped before it was sent"
_T = TypeVar("_T")


class Transient(Exception):
    """A fault that may pass. pause: seconds for which the server asked to be left alone; billed: tokens in and out, if any."""

    def __init__(self, reason: str, *, pause: float = 0.0, billed: tuple[int, int] | None = None) -> None:
        self.pause, self.billed = pause, billed
        super().__init__(reason)


class Refused(Exception):
    """The server will not answer this prompt, however often it is asked."""


class HttpModel:
    """One model behind an endpoint, or behind a server that is started when the first question is not in the cache."""

    def __init__(self, settings: Settings, cache: AnswerCache, server: Server | None, leaving: Leaving) -> None:
        self._settings, self._cache, self._server, self._leaving = settings, cache, server, leaving
        self._breaker, self._budget = Breaker(f"llms.{settings.name}"), Budget(settings, cache)
        self._runner = asyncio.Runner()
        self._places = asyncio.Semaphore(settings.concurrency)
        self._unsaved = asyncio.Semaphore(2 * settings.concurrency)  # under way, or on the way to the disk
        self._stopping = asyncio.Event()
        self._fault: Exception | None = None
        self._asked: dict[str, asyncio.Future[Outcome]] = {}
        self._session: aiohttp.ClientSession | None = None

    def __enter__(self) -> "HttpModel":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if isinstance(error, SystemExit | KeyboardInterrupt):
            self._leave_at_once()
            return
        try:
            self._run(self._close())
        finally:
            self._runner.close()

    def _leave_at_once(self) -> None:
        """On a signal, what is under way is not waited for. What arrived is kept all the same."""
        self._runner.get_loop().set_exception_handler(lambda loop, context: None)  # of tasks that never end
        self._cache.flush()

    def _run(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        with self._leaving.between_callbacks(self._runner.get_loop()):
            return self._runner.run(coroutine)

    @cached_property
    def _secret(self) -> str | None:
        """The key, which is not needed before something is sent."""
        return self._settings.secret()

    def ask(self, requests: Iterable[Request]) -> Iterator[Outcome]:
        """The outcome of each request, in order; see `bsc.autointerp.llm.messages`.

        Raises UserError when the server refuses the key or knows no such model, when ten requests in a row failed or a hundred
        were refused, at the end when none was answered, and before the budget would be exceeded. What was answered is kept.
        """
        feed, waiting = iter(requests), deque[asyncio.Future[Outcome]]()
        outcomes, last, answered = 0, None, False
        try:
            while ready := self._run(self._advance(feed, waiting)):
                yield from ready
                outcomes += len(ready)
                last = next((outcome for outcome in ready if isinstance(outcome, Failure)), last)
                answered = answered or any(isinstance(outcome, Reply) for outcome in ready)
            self._breaker.conclude(outcomes, None if answered else last)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException:
            self._run(self._abandon(waiting))
            raise

    async def _advance(self, feed: Iterator[Request], waiting: "deque[asyncio.Future[Outcome]]") -> list[Outcome]:
        """Fill the window, wait for its first request, and return the outcomes at its beginning that are there."""
        window = _WINDOW * self._settings.concurrency
        while some := list(islice(feed, min(_AT_ONCE, window - len(waiting)))):
            waiting.extend(self._outcomes(some))
            await asyncio.sleep(0)  # those that were answered meanwhile do not wait for the rest of the window
        if not waiting:
            return []
        await self._first(waiting)
        ready = []
        while waiting and waiting[0].done():
            ready.append(waiting.popleft().result())
        return ready

    async def _first(self, waiting: "deque[asyncio.Future[Outcome]]") -> None:
        """Wait for the first of the window, or raise what ended another once all under way, which is paid for, has come in."""
        stopped: asyncio.Future[Any] = asyncio.create_task(self._stopping.wait())
        await asyncio.wait({waiting[0], stopped}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if self._fault is not None:
            await asyncio.gather(*waiting, return_exceptions=True)
            raise self._fault

    async def _abandon(self, waiting: "deque[asyncio.Future[Outcome]]") -> None:
        for outcome in waiting:
            outcome.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await self._cache.settle()

    async def _close(self) -> None:
        await self._cache.settle()
        if self._session is not None:
            await self._session.close()

    def _outcomes(self, requests: list[Request]) -> Iterator[asyncio.Future[Outcome]]:
        """From the cache, or from the server; a prompt that is under way already is not sent again."""
        bodies = [request.body(self._settings.model) for request in requests]
        keys = [key_of(body) for body in bodies]
        kept = self._cache.get(keys)
        for key, request, body in zip(keys, requests, bodies, strict=True):
            if key in kept:
                there: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
                there.set_result(kept[key])
                yield there
                continue
            if key not in self._asked:
                self._asked[key] = asyncio.create_task(self._sent(key, request, body))
                self._asked[key].add_done_callback(partial(self._forget, key))
            yield self._asked[key]

    def _forget(self, key: str, outcome: "asyncio.Future[Outcome]") -> None:
        del self._asked[key]

    async def _sent(self, key: str, request: Request, body: bytes) -> Outcome:
        try:
            async with self._unsaved, contextlib.AsyncExitStack() as held:
                async with self._places:
                    if self._stopping.is_set():
                        return Failure(_STOPPED)
                    held.enter_context(self._budget.reserved(request))
                    outcome = await self._attempts(request, body)
                self._breaker.record(outcome)
                if isinstance(outcome, Reply):
                    await self._cache.keep(key, outcome)
        except Exception as error:
            self._fault = self._fault or error
            self._stopping.set()  # nothing more is begun
            raise
        return outcome

    async def _attempts(self, request: Request, body: bytes) -> Outcome:
        for attempt in count(1):
            try:
                return await self._attempt(request, body)
            except Transient as error:
                if error.billed is not None:
                    self._budget.charge(error.billed)
                if attempt == self._settings.attempts:
                    return Failure(f"{error} ({attempt} attempts)")
                if not await self._pause(_backoff(attempt) + error.pause):
                    return Failure(_STOPPED)
            except Refused as error:
                return Failure(str(error), refused=True)
        raise AssertionError

    async def _pause(self, seconds: float) -> bool:
        """Wait for the next attempt. Whether there is one: not when the stage is about to stop."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)
        return not self._stopping.is_set()

    async def _attempt(self, request: Request, body: bytes) -> Reply:
        session = self._session = self._session or self._opened()
        try:
            # A redirect is not followed: it would be asked for without the prompt, and might be given the key.
            async with session.post("chat/completions", data=body, allow_redirects=False) as response:
                text = self._clean((await response.read()).decode(errors="replace"))
        except aiohttp.ClientError as error:  # a connection that takes too long too: nothing was sent
            if self._server is not None:
                self._server.check()
            billed = request.dearest if isinstance(error, aiohttp.ClientPayloadError) else None  # cut in mid-answer
            reason = f"the connection failed ({type(error).__name__}: {self._clean(str(error))})"
            raise Transient(reason, billed=billed) from error
        except TimeoutError as error:
            raise Transient(f"no answer within {self._settings.timeout:g} s", billed=request.dearest) from error
        if response.status != _OK:
            raise self._refusal(response, text, structured=request.schema is not None)
        try:
            return reply_of(text, request)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
            reason = f"the answer is no chat completion ({type(error).__name__}: {error})"[:_SHOWN]
            raise Transient(reason, billed=_billed(text, request)) from error

    def _opened(self) -> aiohttp.ClientSession:
        """The connections to the endpoint, as many as requests are sent at a time."""
        endpoint = str(self._settings.endpoint if self._server is None else self._server.endpoint())
        seconds = self._settings.timeout
        gc.freeze()  # what is loaded by now stays: to look for garbage in it while requests come and go took 2% of the rate
        return aiohttp.ClientSession(
            base_url=f"{endpoint.rstrip('/')}/",
            headers={**_JSON, **({"Authorization": f"Bearer {self._secret}"} if self._secret else {})},
            connector=aiohttp.TCPConnector(limit=self._settings.concurrency),
            timeout=aiohttp.ClientTimeout(total=seconds, connect=min(_LONGEST_CONNECT, seconds / 2)),
            proxy=_proxy(endpoint),  # worked out once: `trust_env` does so at each request, and costs more than the request
        )

    def _refusal(self, response: aiohttp.ClientResponse, text: str, *, structured: bool) -> Exception:
        status = response.status
        reason = f"HTTP {status}: {text[:_SHOWN]}"
        if status in _WRONG_SETTINGS:
            return UserError(
                f"the server refuses: {reason}",
                where=f"llms.{self._settings.name}",
                fix="check `endpoint`, `model`, the key in the environment and the account",
            )
        if structured and status in _UNKNOWN and _SCHEMA.search(text):
            return UserError(
                f"the server has no structured output: {reason}",
                where=f"llms.{self._settings.name}.structured",
                fix="leave `structured` out: answers are then read from what the model writes",
            )
        if status in _TRANSIENT or status >= _SERVER_ERROR:
            return Transient(reason, pause=_seconds(response.headers.get("retry-after", "")))
        return Refused(reason)

    def _clean(self, text: str) -> str:
        """Text from the server, in which the key must not stand, should it be echoed."""
        return text.replace(self._secret, "[key]") if self._secret else text


def _proxy(endpoint: str) -> str | None:
    """The proxy that the environment names for an endpoint; none for one on this machine."""
    where = urllib.parse.urlsplit(endpoint)
    host = where.hostname or ""
    if _is_here(host) or urllib.request.proxy_bypass(f"{host}:{where.port}" if where.port else host):
        return None
    return urllib.request.getproxies().get(where.scheme)


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _backoff(attempt: int) -> float:
    """Seconds until the attempt after this one: exponential, with full jitter."""
    return random.uniform(0.0, min(_FIRST_PAUSE * 2 ** (attempt - 1), _LONGEST_BACKOFF))


def _seconds(header: str) -> float:
    """Retry-After in seconds (RFC 9110, 10.2.3), at most five minutes; 0 when it is not there or not understood."""
    from datetime import UTC, datetime
    from email.utils import parsedate_to_datetime

    seconds = 0.0
    with contextlib.suppress(ValueError, TypeError):
        seconds = (
            float(header) if header.replace(".", "", 1).isdigit() else _until(parsedate_to_datetime(header), datetime.now(UTC))
        )
    return min(max(seconds, 0.0), _LONGEST_PAUSE)


def _until(then: Any, now: Any) -> float:
    return float((then - now).total_seconds())


def reply_of(text: str, request: Request) -> Reply:
    """The reply in the body of a chat completion, and what its tokens are counted as.

    Raises ValueError, KeyError, TypeError, IndexError, AttributeError or RecursionError when it is none, or tells of a
    provider's error.
    """
    body = json.loads(text)
    if fault := body.get("error"):
        raise ValueError(json.dumps(fault))
    choice = body["choices"][0]
    finish = str(choice.get("finish_reason") or "")
    if finish == "error" or choice.get("error"):
        raise ValueError(json.dumps(choice.get("error") or finish))
    content = choice["message"].get("content")
    if isinstance(content, list):
        content = "".join(str(part.get("text") or "") for part in content)
    positions = ((choice.get("logprobs") or {}).get("content")) or []
    prompt_tokens, completion_tokens = _counted(body.get("usage"), request)
    return Reply(
        text="" if content is None else _whole(str(content)),
        finish=finish,
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        characters=request.characters,
        logprobs=tuple(_alternatives(position) for position in positions),
    )


def _billed(text: str, request: Request) -> tuple[int, int]:
    """What an answer that is no chat completion may have cost: by its own count, else the most."""
    with contextlib.suppress(ValueError, AttributeError, TypeError, RecursionError):
        return _counted(json.loads(text).get("usage"), request)
    return request.dearest


def _counted(usage: Any, request: Request) -> tuple[int, int]:
    """Tokens in and out by the server's count; where that is none, the most that they can be, so that a budget holds."""
    counts = [usage.get(name) if isinstance(usage, dict) else None for name in ("prompt_tokens", "completion_tokens")]
    tokens_in, tokens_out = map(_count, counts)
    if not tokens_in or tokens_out is None:
        return request.dearest
    return tokens_in, tokens_out


def _count(value: Any) -> int | None:
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= _MOST_COUNTED:
        return math.ceil(value)
    return None


def _alternatives(position: dict[str, Any]) -> tuple[tuple[str, float], ...]:
    pairs = [position, *(position.get("top_logprobs") or [])]
    return tuple((_whole(pair["token"]), float(pair["logprob"])) for pair in pairs)


def _whole(text: str) -> str:
    """Text in which no half of a surrogate pair stands, which JSON may hold and no file can."""
    return text.encode("utf-8", "replace").decode()
