"""Shuffled batches of single tokens from stored activations: batch i is a function of the seed and of i alone.

The stream is the store's usable rows (no position 0), epoch after epoch, each epoch in its own order; batch i is the i-th cut
of the stream, so every batch is full, every row comes once an epoch, and a run that is resumed at step s reads on without
replaying what came before. A store that is too big to stay in memory is shuffled in windows: the order of its shards, then
the rows within as many shards as fit. So all coders of a seed read the same batches, whatever side of the module they read.
Rows are read from the memory-mapped files, sorted, so that reads go forward; a window's before the next window's, so that
activations that are computed as they are read need no more room than one window.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import chain, islice
from typing import Literal, NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import BFloat16, Float, Int64
from torch import Tensor

from bsc.activations.store import ActivationStore, Shard
from bsc.device import enter_device
from bsc.errors import UserError

WINDOW_BYTES = 4 << 30
"""Activations that are shuffled together: what the page cache should hold at once."""

Made = TypeVar("Made")
Side = Literal["input", "output"]


class Batch(NamedTuple):
    """x: what the encoder reads. y: the target, the module's output. The same tensor in an SAE."""

    x: Float[Tensor, "tokens d"]
    y: Float[Tensor, "tokens d"]


class _Window(NamedTuple):
    """Shards whose rows are shuffled together; they are the epoch's usable rows from `first` on."""

    shards: tuple[Shard, ...]
    first: int
    rows: int


class Batches:
    """Batches of `tokens` rows of a store, as float32 on `device`.

    reads: the side of the module that the encoder reads; with "output" the stored inputs are never touched. window_rows: rows
    (usable or not) of the shards that are shuffled together, by default what WINDOW_BYTES hold; one shard at least. Raises
    UserError when the store has no row after position 0.
    """

    def __init__(
        self,
        store: ActivationStore,
        tokens: int,
        seed: int,
        reads: Side,
        device: torch.device,
        *,
        window_rows: int | None = None,
    ) -> None:
        if not store.usable_rows:
            raise UserError("no activations to train on", where=store.hookpoint, fix="give the train split more tokens")
        self._store, self._tokens, self._seed, self._device = store, tokens, seed, device
        self._sides: tuple[Side, ...] = ("output",) if reads == "output" else ("input", "output")
        self._window_rows = window_rows or WINDOW_BYTES // (2 * 2 * store.width)
        self._first_rows = [shard.first_row for shard in store.shards]
        self._windows = lru_cache(maxsize=2)(self._make_windows)
        self._shuffled = lru_cache(maxsize=2)(self._shuffle)

    def at(self, step: int) -> Batch:
        """Batch number `step`, counted from 0."""
        return batches_at([self], step)[0]

    def rows(self, step: int) -> Int64[np.ndarray, " tokens"]:
        """The store's rows that make batch `step`, ascending."""
        return np.sort(np.concatenate(self._pieces(step)))

    def _pieces(self, step: int) -> list[Int64[np.ndarray, " rows"]]:
        """The rows of batch `step`, window by window as the stream has them."""
        start, stop = step * self._tokens, (step + 1) * self._tokens
        pieces: list[Int64[np.ndarray, " rows"]] = []
        while start < stop:
            epoch, first = divmod(start, self._store.usable_rows)
            taken = min(stop - start, self._store.usable_rows - first)
            pieces.extend(self._of_epoch(epoch, first, first + taken))
            start += taken
        return pieces

    def shards_of(self, step: int) -> list[int]:
        """The numbers of the shards that hold batch `step`, those of the first window first."""
        held = (np.unique(np.searchsorted(self._first_rows, piece, side="right") - 1).tolist() for piece in self._pieces(step))
        return list(dict.fromkeys(chain.from_iterable(held)))

    def _of_epoch(self, epoch: int, first: int, last: int) -> Iterator[Int64[np.ndarray, " rows"]]:
        for number, window in enumerate(self._windows(epoch)):
            if first < window.first + window.rows and window.first < last:
                yield self._shuffled(epoch, number)[max(first - window.first, 0) : last - window.first]

    def _make_windows(self, epoch: int) -> list[_Window]:
        order = np.random.default_rng([self._seed, epoch]).permutation(len(self._store.shards))
        groups: list[list[Shard]] = []
        held = self._window_rows
        for shard in (self._store.shards[index] for index in order):
            if held + shard.rows > self._window_rows:
                groups.append([])
                held = 0
            groups[-1].append(shard)
            held += shard.rows
        usable = [sum(self._usable(shard.rows) for shard in group) for group in groups]
        firsts = np.cumsum([0, *usable]).tolist()
        return [_Window(tuple(group), firsts[n], usable[n]) for n, group in enumerate(groups)]

    def _usable(self, rows: int) -> int:
        return rows // self._store.context * (self._store.context - 1)

    def _shuffle(self, epoch: int, number: int) -> Int64[np.ndarray, " rows"]:
        shards = self._windows(epoch)[number].shards
        rows = np.concatenate([np.arange(shard.first_row, shard.first_row + shard.rows) for shard in shards])
        return np.random.default_rng([self._seed, epoch, number]).permutation(rows[rows % self._store.context != 0])

    def empty(self, rows: int) -> list[BFloat16[Tensor, "tokens d"]]:
        """Room for so many rows of each side that is read."""
        pinned = self._device.type == "cuda"
        return [torch.empty(rows, self._store.width, dtype=torch.bfloat16, pin_memory=pinned) for _ in self._sides]

    def gather(self, rows: Int64[np.ndarray, " tokens"], number: int, read: list[BFloat16[Tensor, "tokens d"]]) -> None:
        """Put those of the rows that a shard holds in their places, side by side."""
        shard = self._store.shards[number]
        first, last = np.searchsorted(rows, [shard.first_row, shard.first_row + shard.rows])
        picked = torch.from_numpy(rows[first:last] - shard.first_row)
        for side, gathered in zip(self._sides, read, strict=True):
            stored: BFloat16[Tensor, "rows d"] = getattr(shard, side)
            torch.index_select(stored, 0, picked, out=gathered[first:last])

    def moved(self, read: list[BFloat16[Tensor, "tokens d"]]) -> Batch:
        """What was gathered, as a batch on the device."""
        moved = [gathered.to(self._device, non_blocking=True).float() for gathered in read]
        return Batch(moved[0], moved[-1])


def batches_at(many: Sequence[Batches], step: int) -> list[Batch]:
    """Batch number `step` of each of several hookpoints, whose stores have the same rows in the same shards.

    Shard by shard, and not one batch after the other, for the next window's shards may take the place of this one's.
    """
    rows = many[0].rows(step)
    read = [batches.empty(len(rows)) for batches in many]
    for number in many[0].shards_of(step):
        for batches, gathered in zip(many, read, strict=True):
            batches.gather(rows, number, gathered)
    return [batches.moved(gathered) for batches, gathered in zip(many, read, strict=True)]


def prefetched(
    make: Callable[[int], Made], steps: range, ahead: int = 2, *, finish: bool = False
) -> Generator[Made, None, None]:
    """What `make` gives for each step, in order; a thread makes the next ones meanwhile, at most `ahead` of them.

    finish: closed early, it makes those all the same, for ranks that make them together.
    """
    remaining = iter(steps)
    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches", initializer=enter_device)
    try:
        pending = deque(pool.submit(make, step) for step in islice(remaining, ahead))
        while pending:
            made = pending.popleft().result()
            pending.extend(pool.submit(make, step) for step in islice(remaining, 1))
            yield made
    finally:
        pool.shutdown(wait=True, cancel_futures=not finish)
