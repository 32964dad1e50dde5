"""A server that the job starts for itself: waited for, its log kept, stopped by process id at the end. No torch."""

import contextlib
import ctypes
import os
import shlex
import signal
import socket
import subprocess
import time
import urllib.request
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from types import TracebackType
from typing import Any

from bsc.autointerp.llm.leaving import Leaving
from bsc.autointerp.llm.settings import Settings
from bsc.errors import UserError
from bsc.progress import Progress

_POLL_SECONDS, _STOP_SECONDS = 0.25, 15.0
_DIRECTLY = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Past any proxy: the server is on this machine."""
_PR_SET_PDEATHSIG = 1  # of linux/prctl.h


class Server:
    """Started when its endpoint is first asked for, so that a stage whose answers are all kept starts none."""

    def __init__(self, settings: Settings, log: Path, leaving: Leaving) -> None:
        """settings: with `serve`. log: file to which what the server prints is added. leaving: what signals wait by."""
        assert settings.serve is not None
        self._leaving = leaving
        self._settings, self._serve, self._log = settings, settings.serve, log
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.stop()

    def endpoint(self) -> str:
        """The base URL of its API, once it is up.

        Raises UserError when it does not start, ends, or is not healthy within its `wait_seconds`.
        """
        if self._process is None:
            with self._leaving.at_once():
                self._start()
                self._wait()
        return f"http://127.0.0.1:{self._port}/v1"

    def stop(self) -> None:
        """End it and what it started: politely, then after fifteen seconds for good."""
        if self._process is None:
            return
        _signal_group(self._process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_STOP_SECONDS)
        _signal_group(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None

    def _start(self) -> None:
        self._port = _free_port()
        command = str(self._serve["command"]).replace("{port}", str(self._port))
        filled = command.replace("{model}", shlex.quote(self._settings.model))
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._leaving.held(), self._log.open("ab") as log:  # until its process id is known
            log.write(f"$ {filled}\n".encode())
            log.flush()
            try:
                self._process = subprocess.Popen(
                    shlex.split(filled),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    preexec_fn=_die_with_parent(),
                )
            except OSError as error:
                raise self._fault(f"the server does not start ({error})") from error

    def _wait(self) -> None:
        seconds = self._serve["wait_seconds"]
        begun = time.monotonic()
        with Progress(f"waiting for the server of {self._settings.name}", round(seconds), "s") as progress:
            while not self._healthy():
                if (waited := time.monotonic() - begun) > seconds:
                    raise self._fault(f"the server was not ready within {seconds:g} s")
                progress.advance(int(waited) - progress.done)
                time.sleep(_POLL_SECONDS)

    def _healthy(self) -> bool:
        assert self._process is not None
        if (code := self._process.poll()) is not None:
            _signal_group(self._process.pid, signal.SIGKILL)  # what it started may be there still
            self._process = None
            raise self._fault(f"the server ended with exit code {code} before it was ready")
        try:
            with _DIRECTLY.open(f"http://127.0.0.1:{self._port}{self._serve['health']}", timeout=5) as health:
                return bool(health.status == HTTPStatus.OK)
        except (OSError, HTTPException):
            return False

    def check(self) -> None:
        """Raises UserError when it was started and has ended."""
        if self._process is not None and (code := self._process.poll()) is not None:
            raise self._fault(f"the server ended with exit code {code}")

    def _fault(self, what: str) -> UserError:
        return UserError(what, where=f"llms.{self._settings.name}.serve", fix=f"see its log, {self._log}")


def _signal_group(process: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # gone already
        os.killpg(process, number)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _die_with_parent() -> Any:
    """What has Linux end the server when the job is killed and cannot; None elsewhere."""
    library = ctypes.CDLL(None, use_errno=True)
    if not hasattr(library, "prctl"):
        return None
    return lambda: library.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
