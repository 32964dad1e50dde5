"""An OpenAI-compatible server on loopback that answers as it is told to: with a fault, or with an answer."""

import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[["Loopback", dict[str, Any], int, BaseHTTPRequestHandler], None]


class Loopback(ThreadingHTTPServer):
    """`answer(server, body, attempt, handler)` sends what comes back; attempt counts from 0 for each prompt."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, answer: Answer, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.answer = answer
        self.asked: Counter[str] = Counter()
        self.times: list[float] = []
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.under_way = self.most_under_way = 0
        self.lock = threading.Lock()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


class _Handler(BaseHTTPRequestHandler):
    server: Loopback
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def do_GET(self) -> None:
        send(self, 200, "{}")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = body["messages"][-1]["content"]
        server = self.server
        with server.lock:
            attempt = server.asked[prompt]
            server.asked[prompt] += 1
            server.times.append(time.monotonic())
            server.bodies.append(body)
            server.keys.append(self.headers.get("Authorization"))
            server.under_way += 1
            server.most_under_way = max(server.most_under_way, server.under_way)
        try:
            server.answer(server, body, attempt, self)
        finally:
            with server.lock:
                server.under_way -= 1

    def log_message(self, *arguments: object) -> None:
        """Nothing."""


def send(handler: BaseHTTPRequestHandler, status: int, text: str, **headers: str) -> None:
    """A whole response. A header's name has its dashes as underscores."""
    content = text.encode()
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)


def completion(text: str, finish: str = "stop", tokens: tuple[int, int] = (100, 10)) -> str:
    """A chat completion that says `text`."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    usage = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], "total_tokens": sum(tokens)}
    return json.dumps({"id": "0", "object": "chat.completion", "choices": [choice], "usage": usage})


def say(handler: BaseHTTPRequestHandler, text: str, **changes: Any) -> None:
    """Answer with a completion."""
    send(handler, 200, completion(text, **changes))


def cut(handler: BaseHTTPRequestHandler) -> None:
    """Promise a body, send half of it and close the connection."""
    whole = completion("half of it").encode()
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(whole)))
    handler.end_headers()
    handler.wfile.write(whole[: len(whole) // 2])
    handler.wfile.flush()
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True


@contextmanager
def served(answer: Answer, port: int = 0) -> Iterator[Loopback]:
    """A server while it is entered."""
    server = Loopback(answer, port)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


if __name__ == "__main__":
    import sys

    def slow(server: Loopback, body: dict[str, Any], attempt: int, handler: BaseHTTPRequestHandler) -> None:
        time.sleep(0.5)
        say(handler, "[EXPLANATION]: slow")

    Loopback(slow, int(sys.argv[1])).serve_forever()
