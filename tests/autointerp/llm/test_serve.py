"""How a server is started, against a program that says what it was started with and ends."""

import shlex
import sys
from pathlib import Path

import pytest

from bsc.autointerp.llm.leaving import Leaving
from bsc.autointerp.llm.serve import Server
from bsc.autointerp.llm.settings import Settings
from bsc.errors import UserError

PROGRAM = "import os, sys; print(sys.argv[1:], os.environ.get('SOME_CACHE'), flush=True); raise SystemExit(3)"


def printed(tmp_path: Path, arguments: str) -> str:
    """The log of a server that was started with some arguments."""
    command = f"{sys.executable} -c {shlex.quote(PROGRAM)} {arguments}"
    settings = Settings("one", "a model", serve={"command": command, "health": "/", "wait_seconds": 9})
    with Server(settings, tmp_path / "log", Leaving()) as started, pytest.raises(UserError, match="exit code 3"):
        started.endpoint()
    return (tmp_path / "log").read_text()


def test_the_environment_reaches_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a server that loads its model from a cache elsewhere needs."""
    monkeypatch.setenv("SOME_CACHE", "elsewhere")
    assert "elsewhere" in printed(tmp_path, "{port}")


def test_braces_that_are_none_of_ours_reach_it(tmp_path: Path) -> None:
    said = printed(tmp_path, """{model} --port={port} --config '{"temperature": 0}' '{{x}}'""").splitlines()[-1]
    assert said.startswith("['a model', '--port=")
    assert """, '--config', '{"temperature": 0}', '{{x}}']""" in said


def test_the_log_of_an_earlier_start_stays(tmp_path: Path) -> None:
    printed(tmp_path, "first {port}")
    assert {"['first',", "['second',"} <= set(printed(tmp_path, "second {port}").split())
