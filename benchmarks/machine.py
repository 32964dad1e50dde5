"""What a benchmark says of where it ran, and how it times."""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from bsc.device import has_fast_bfloat16, processor

RESULTS = Path(__file__).resolve().parent / "results"


def facts() -> dict[str, Any]:
    """Machine class and versions."""
    return {
        "cpu": f"{os.cpu_count()} x {processor()}",
        "bfloat16_products": has_fast_bfloat16(torch.device("cpu")),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__.partition("+")[0],
        "date": time.strftime("%Y-%m-%d"),
    }


def medians(cases: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median milliseconds of each case: one untimed call, then `rounds` rounds in which all take turns.

    At its turn a case is called twice and timed the second time: as in a loop, it then finds the caches and the heap as it left
    them itself, and not as its neighbour did.
    """
    times: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(rounds + 1):
        for name, case in cases.items():
            _milliseconds(case)
            if turn:
                times[name].append(_milliseconds(case))
    return {name: statistics.median(taken) for name, taken in times.items()}


def _milliseconds(case: Callable[[], object]) -> float:
    begun = time.perf_counter()
    case()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - begun)


def show(title: str, measured: Mapping[str, Any]) -> None:
    """Print where and with what a benchmark ran, and a table of what it measured: a row a number, nested names before it."""
    rows = list(_rows(measured))
    wide = max(len(name) for name, _ in rows)
    print(title, "; ".join(f"{name}: {value}" for name, value in facts().items()), sep="\n")
    print(f"{'measured':<{wide}}  {'value':>16}", f"{'-' * wide}  {'-' * 16}", sep="\n")
    for name, value in rows:
        print(f"{name:<{wide}}  {value:>16}", flush=True)


def _rows(measured: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    for name, value in measured.items():
        named = before + (name.replace("_", " ") if name.isidentifier() else name)
        if isinstance(value, Mapping):
            yield from _rows(value, f"{named}: ")
        elif isinstance(value, list):
            yield named, ", ".join(map(_said, value))
        else:
            yield named, _said(value)


def _said(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.5g}" if abs(value) < 1e6 else f"{value:.3e}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def record(name: str, part: str, measured: Mapping[str, Any]) -> None:
    """Put a part of a benchmark's measurements, with the facts, into results/NAME.json, beside the parts that are there."""
    path = RESULTS / f"{name}.json"
    held = json.loads(path.read_text()) if path.exists() else {}
    held[part] = {**facts(), **measured}
    path.write_text(json.dumps(held, indent=2) + "\n")
