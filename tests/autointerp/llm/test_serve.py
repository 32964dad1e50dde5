"""How a server is started, against a program that says what it was started with and ends."""

import shlex
import sys
import time
from pathlib import Path

import pytest

from bsc.autointerp.llm.leaving import Leaving
from bsc.autointerp.llm.messages import Request, Sampling
from bsc.autointerp.llm.reach import reached
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


def test_what_a_server_started_before_it_ended_is_stopped(tmp_path: Path) -> None:
    """As a worker of vLLM that holds the GPU."""
    marker = tmp_path / "marker"
    command = f"sh -c 'sleep 47 & echo $! > {marker}; exit 3'"
    settings = Settings("one", "m", serve={"command": command, "health": "/", "wait_seconds": 9})
    with Server(settings, tmp_path / "log", Leaving()) as started, pytest.raises(UserError, match="exit code 3"):
        started.endpoint()
    child = Path("/proc", marker.read_text().strip(), "stat")
    deadline = time.monotonic() + 10
    while child.exists() and child.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_port_that_speaks_something_else_is_not_ready(tmp_path: Path) -> None:
    program = "import socket, sys; s = socket.create_server(('127.0.0.1', int(sys.argv[1])))\n"
    program += "while True: c, _ = s.accept(); c.recv(999); c.sendall(b'NONSENSE\\n'); c.close()"
    command = f"{sys.executable} -c {shlex.quote(program)} {{port}}"
    settings = Settings("one", "m", serve={"command": command, "health": "/", "wait_seconds": 1.5})
    with Server(settings, tmp_path / "log", Leaving()) as started, pytest.raises(UserError, match="not ready within"):
        started.endpoint()


DIES = """
import http.server, os, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def do_POST(self):
        os._exit(9)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def test_a_server_that_ends_in_the_middle_stops_the_stage_and_is_named(tmp_path: Path) -> None:
    serve = {"command": f"{sys.executable} -c {shlex.quote(DIES)} {{port}}", "health": "/", "wait_seconds": 20}
    settings = Settings("one", "m", serve=serve, concurrency=2, attempts=50)
    requests = [Request("system", f"prompt {number}", Sampling(0.0, 9)) for number in range(5)]
    with (
        pytest.raises(UserError, match="the server ended with exit code 9") as caught,
        reached(settings, tmp_path, tmp_path / "log") as model,
    ):
        list(model.ask(requests))
    assert str(tmp_path / "log") in str(caught.value.fix)


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
