"""A web server on loopback that serves a folder, in ranges, and fails when it is told to."""

import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

Fault = Callable[[str, int], str | None]
"""What befalls a GET of a file from a byte on: None (nothing), a status, or "cut" (half of the answer, then silence)."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def handle_error(self, *_: object) -> None:
        """A client that goes away is no news."""


class FaultyServer:
    """Serves the files of a folder. gets: (file, first byte) of each GET so far; fault: decides what befalls the next."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.gets = folder, list[tuple[str, int]]()
        self.fault: Fault = lambda name, first: None
        self.port = 0
        self.start()

    def start(self) -> None:
        """Come up, on the port that it had."""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                outer._answer(self, body=False)

            def do_GET(self) -> None:
                outer._answer(self, body=True)

            def log_message(self, *_: object) -> None:
                pass

        self._server = _Server(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        """Die: nobody listens any more."""
        self._server.shutdown()
        self._server.server_close()

    def restart_in(self, seconds: float) -> None:
        """Come up again after a while."""
        threading.Thread(target=lambda: (time.sleep(seconds), self.start()), daemon=True).start()

    def _answer(self, handler: BaseHTTPRequestHandler, *, body: bool) -> None:
        name = handler.path.strip("/")
        content = (self.folder / name).read_bytes()
        asked = handler.headers.get("Range")
        first, last = 0, len(content) - 1
        if asked:
            start, _, end = asked.removeprefix("bytes=").partition("-")
            first, last = int(start), min(int(end or last), last)
        fault = None
        if body and asked:
            self.gets.append((name, first))
            fault = self.fault(name, first)
        if fault is not None and fault.isdecimal():
            handler.send_error(int(fault))
            return
        handler.send_response(206 if asked else 200)
        handler.send_header("Accept-Ranges", "bytes")
        if asked:
            handler.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        handler.send_header("Content-Length", str(last - first + 1))
        handler.end_headers()
        if body:
            part = content[first : last + 1]
            handler.wfile.write(part[: len(part) // 2] if fault == "cut" else part)
        handler.close_connection = True
