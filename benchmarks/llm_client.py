"""The client of language models against a server on loopback that answers each request after a fixed time.

    python benchmarks/llm_client.py                  # 10,000 prompts, 64 at a time, each answered after 50 ms

Prints, and writes to benchmarks/results/llm_client.json, medians of five rounds: requests a second, their share of the ideal
rate (concurrency over delay; also its least and its greatest), the client's processor time a request, the rate from the cache,
and its memory at a tenth of the prompts and at the end.
"""

import argparse
import asyncio
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from machine import record, show

from bsc.autointerp.llm.messages import Failure, Request, Sampling
from bsc.autointerp.llm.reach import reached
from bsc.autointerp.llm.settings import Settings

_CONTENT = "[1, 0, 0, 1, 1]"


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=10_000)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--delay", type=float, default=0.05, help="seconds until the server answers")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--serve", action="store_true", help="be the server, on a free port that is printed")
    parser.add_argument("--no-record", action="store_true", help="print only")
    shape = parser.parse_args()
    if shape.serve:
        asyncio.run(serve(shape.delay))
        return
    measured = measure(shape)
    name = f"{shape.prompts} prompts, {shape.concurrency} at a time, {shape.delay:g} s"
    show(name, measured)
    if not shape.no_record:
        record("llm_client", name, measured)


async def serve(delay: float) -> None:
    """As little of a server as there can be, so that the client is what is measured."""
    message = {"message": {"role": "assistant", "content": _CONTENT}, "finish_reason": "stop"}
    body = json.dumps({"choices": [message], "usage": {"prompt_tokens": 400, "completion_tokens": 15}}).encode()
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)

    class Answering(asyncio.Protocol):
        """One connection: each request, once it is there, is answered after the delay."""

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.Transport)
            self.transport, self.read = transport, b""

        def data_received(self, data: bytes) -> None:
            self.read += data
            head, mark, rest = self.read.partition(b"\r\n\r\n")
            length = re.search(rb"(?i)content-length: (\d+)", head)
            if mark and length and len(rest) == int(length[1]):
                self.read = b""
                asyncio.get_running_loop().call_later(delay, self.transport.write, answer)

    server = await asyncio.get_running_loop().create_server(Answering, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def measure(shape: argparse.Namespace) -> dict[str, Any]:
    """The prompts, once from the server and once from the cache, in each round."""
    command = [sys.executable, __file__, "--serve", f"--delay={shape.delay}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            endpoint = f"http://127.0.0.1:{int(server.stdout.readline())}/v1"
            settings = Settings("one", "m", endpoint=endpoint, concurrency=shape.concurrency)
            asked, kept = zip(*(_round(settings, shape.prompts) for _ in range(shape.rounds)), strict=True)
        finally:
            server.terminate()
    shares = [run["rate"] * shape.delay / shape.concurrency for run in asked]
    return {
        "requests_a_second": round(_median(asked, "rate"), 1),
        "share_of_ideal": round(median(shares), 3),
        "share_of_ideal_range": [round(min(shares), 3), round(max(shares), 3)],
        "processor_milliseconds_a_request": round(_median(asked, "processor"), 3),
        "cached_a_second": round(_median(kept, "rate"), 1),
        "resident_mb_at_a_tenth": round(_median(asked, "early"), 1),
        "resident_mb_at_the_end": round(_median(asked, "late"), 1),
    }


def _round(settings: Settings, prompts: int) -> tuple[dict[str, float], dict[str, float]]:
    with tempfile.TemporaryDirectory() as folder:
        return _run(settings, Path(folder), prompts), _run(settings, Path(folder), prompts)


def _median(runs: Sequence[dict[str, float]], key: str) -> float:
    return median(run[key] for run in runs)


def _run(settings: Settings, folder: Path, prompts: int) -> dict[str, float]:
    early, done = 0.0, 0
    with reached(settings, folder, folder / "server.log") as model:
        begun, used = time.perf_counter(), time.process_time()
        for outcome in model.ask(_prompts(prompts)):
            assert not isinstance(outcome, Failure), outcome
            done += 1
            if done == prompts // 10:
                early = _resident()
        wall, processor = time.perf_counter() - begun, time.process_time() - used
    return {"rate": prompts / wall, "processor": 1e3 * processor / prompts, "early": early, "late": _resident()}


def _prompts(count: int) -> Iterator[Request]:
    """As long as those of detection: five windows."""
    for number in range(count):
        yield Request("judge " * 100, f"{number} " + "words of a window " * 40, Sampling(0.0, 64))


def _resident() -> float:
    """Megabytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1e3


if __name__ == "__main__":
    main()
