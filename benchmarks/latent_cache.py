"""The latent cache and the windows of all its latents, from firings: what autointerp costs beside the encoder and the scorer.

    python benchmarks/latent_cache.py                # 36,864 latents, k = 32, 0.5, 1 and 2 million tokens

Each token fires k latents, drawn by rates that fall off as 1/rank, as a coder's do, with a few latents on over a tenth of all
tokens. Firings are sorted and written as `bsc latents` does, then read again for windows, halves and deciles of every latent.
Each size runs in a process of its own. Prints, and writes to benchmarks/results/latent_cache.json: seconds, seconds a million
tokens, and the peak of resident memory, in which pages of the file that were read count too.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from machine import record, show
from numpy.typing import NDArray

from bsc.autointerp.firings import FILE, FiringSorter, LatentCache
from bsc.autointerp.windows import EXPLANATION, TEST, FiringWindows, Grid, halves_of
from bsc.io import write_manifest

_CONTEXT, _WINDOW, _BATCH, _DOCUMENT = 256, 32, 1_024, 700


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[500_000, 1_000_000, 2_000_000])
    parser.add_argument("--latents", type=int, default=36_864)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--one", action="store_true", help="measure the first size in this process, and print it as JSON")
    parser.add_argument("--no-record", action="store_true", help="print only")
    shape = parser.parse_args()
    if shape.one:
        print(json.dumps(measure(shape.tokens[0], shape.latents, shape.k)))
        return
    for tokens in shape.tokens:
        command = [sys.executable, __file__, "--one", f"--tokens={tokens}", f"--latents={shape.latents}", f"--k={shape.k}"]
        measured = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        name = f"{tokens} tokens, {shape.latents} latents, k = {shape.k}"
        show(name, measured)
        if not shape.no_record:
            record("latent_cache", name, measured)


def measure(tokens: int, latents: int, k: int) -> dict[str, Any]:
    """One size. The firings are made while nothing is timed."""
    rows = tokens // _CONTEXT * _CONTEXT
    sorter, sorting = FiringSorter(latents), 0.0
    for begin, firing in _firings(rows, latents, k):
        at = np.repeat(np.arange(begin, begin + len(firing)), k)
        values = np.ones(at.size, np.float32)
        begun = time.perf_counter()
        sorter.append(at, firing.reshape(-1), values)
        sorting += time.perf_counter() - begun
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        sorter.write(Path(folder, FILE))
        write_manifest(Path(folder), [FILE], {"rows": rows, "context": _CONTEXT})
        sorting += time.perf_counter() - begun
        del sorter
        begun = time.perf_counter()
        scored = _windows(LatentCache.open(Path(folder)), rows, latents)
        cutting = time.perf_counter() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    whole = sorting + cutting
    return {
        "cache_seconds": round(sorting, 2),
        "windows_seconds": round(cutting, 2),
        "seconds": round(whole, 2),
        "seconds_a_million_tokens": round(1e6 * whole / rows, 2),
        "peak_gb": round(peak, 2),
        "latents_with_200_windows": scored,
    }


def _firings(rows: int, latents: int, k: int) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """(first row, latents [batch, k]) of each batch: a latent of each of k groups, so none fires twice on a token."""
    generator = np.random.default_rng(0)
    within = latents // k
    weights = 1 / np.arange(1, within + 1)
    edges = np.cumsum(weights / weights.sum())
    for begin in range(0, rows, _BATCH):
        size = min(_BATCH, rows - begin)
        ranks = np.minimum(np.searchsorted(edges, generator.random((size, k))), within - 1)
        yield begin, np.sort(ranks * k + np.arange(k), axis=1)


def _windows(cache: LatentCache, rows: int, latents: int) -> int:
    """Windows, halves and deciles of every latent, as explaining and scoring take them; how many have 200 windows."""
    documents = (np.arange(rows) // _DOCUMENT).reshape(-1, _CONTEXT)
    sides = halves_of(documents, 0).reshape(-1, _WINDOW)
    halves = np.where((sides == sides[:, :1]).all(1), sides[:, 0], -1).astype(np.int8)
    grid = Grid(np.zeros((rows // _WINDOW, _WINDOW), np.int32), halves, _CONTEXT)
    generator, scored = np.random.default_rng(0), 0
    for latent in range(latents):
        firing = FiringWindows.of(cache, latent, _WINDOW)
        scored += len(firing.windows) >= 200
        for half in (EXPLANATION, TEST):
            firing.within(grid, half).deciles(generator)
    return scored


if __name__ == "__main__":
    main()
