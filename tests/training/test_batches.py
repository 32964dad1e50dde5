import threading
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bsc.activations.store import ActivationStore, Shard
from bsc.errors import UserError
from bsc.training.batches import Batches, prefetched

CPU = torch.device("cpu")


def layout(contexts: list[int], context: int) -> ActivationStore:
    """A store without files: enough to ask for rows."""
    shards, first = [], 0
    for number, count in enumerate(contexts):
        shards.append(Shard(Path(str(number)), first, count * context))
        first += count * context
    return ActivationStore("layers.0.mlp", first, 4, context, tuple(shards))


@settings(max_examples=50, deadline=None)
@given(
    contexts=st.lists(st.integers(1, 6), min_size=1, max_size=5),
    context=st.integers(2, 7),
    tokens=st.integers(1, 50),
    seed=st.integers(0, 5),
    window_rows=st.integers(1, 60),
)
def test_every_usable_row_once_an_epoch(contexts: list[int], context: int, tokens: int, seed: int, window_rows: int) -> None:
    store = layout(contexts, context)
    batches = Batches(store, tokens, seed, "input", CPU, window_rows=window_rows)
    epochs = 3
    steps = -(-epochs * store.usable_rows // tokens)
    drawn = [batches.rows(step) for step in range(steps)]
    assert all(len(rows) == tokens for rows in drawn)
    counts = Counter(np.concatenate(drawn).tolist())
    assert set(counts) == {row for row in range(store.rows) if row % context}
    surplus = steps * tokens - epochs * store.usable_rows
    assert sum(counts.values()) - epochs * store.usable_rows == surplus
    assert all(count >= epochs for count in counts.values())


def test_a_batch_depends_on_its_number_and_the_seed_alone() -> None:
    store = layout([3, 5, 2, 4], 8)
    read_on = Batches(store, 10, 1, "input", CPU, window_rows=50)
    expected = [read_on.rows(step) for step in range(30)]
    for step in (29, 3, 17):
        assert np.array_equal(Batches(store, 10, 1, "input", CPU, window_rows=50).rows(step), expected[step])
    other = Batches(store, 10, 2, "input", CPU, window_rows=50)
    assert not np.array_equal(other.rows(0), expected[0])


def test_epochs_differ() -> None:
    store = layout([8], 6)
    batches = Batches(store, 40, 1, "input", CPU)
    assert np.array_equal(batches.rows(0), batches.rows(1)), "one batch holds the epoch"
    halves = Batches(store, 20, 1, "input", CPU)
    assert not np.array_equal(halves.rows(0), halves.rows(2))


def test_a_window_bounds_what_is_shuffled_together() -> None:
    store = layout([4] * 10, 5)
    batches = Batches(store, 16, 3, "input", CPU, window_rows=20)
    shards = [set((batches.rows(step) // 20).tolist()) for step in range(10)]
    assert all(len(one) == 1 for one in shards), "windows of one shard, and a batch is a window"
    assert set.union(*shards) == set(range(10))
    assert [one.pop() for one in shards] != list(range(10))


def test_values_are_those_of_the_store(store_index: Path) -> None:
    store = ActivationStore.open(store_index)
    x = torch.cat([shard.input for shard in store.shards])
    y = torch.cat([shard.output for shard in store.shards])
    batches = Batches(store, 100, 0, "input", CPU)
    batch, rows = batches.at(13), torch.from_numpy(batches.rows(13))
    assert batch.x.dtype is torch.float32
    assert torch.equal(batch.x, x[rows].float())
    assert torch.equal(batch.y, y[rows].float())


def test_an_sae_reads_the_output_only(store_index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Shard, "input", property(lambda shard: pytest.fail("the stored inputs were read")))
    batch = Batches(ActivationStore.open(store_index), 32, 0, "output", CPU).at(0)
    assert batch.x is batch.y


def test_no_usable_rows() -> None:
    with pytest.raises(UserError, match="no activations"):
        Batches(layout([3], 1), 4, 0, "input", CPU)


def test_prefetched_keeps_order_and_stays_ahead_by_two() -> None:
    made: list[int] = []

    def make(step: int) -> int:
        made.append(step)
        return step * step

    with closing(prefetched(make, range(3, 9))) as upcoming:
        assert next(upcoming) == 9
        deadline = time.monotonic() + 5
        while len(made) < 3 and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(0.02)
        assert made == [3, 4, 5]
        assert list(upcoming) == [16, 25, 36, 49, 64]


def test_prefetched_passes_errors_on_and_leaves_no_thread() -> None:
    def make(step: int) -> int:
        if step == 2:
            raise OSError("gone")
        return step

    before = threading.active_count()
    with closing(prefetched(make, range(10))) as upcoming:
        assert [next(upcoming), next(upcoming)] == [0, 1]
        with pytest.raises(OSError, match="gone"):
            next(upcoming)
    assert threading.active_count() == before
