import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from bsc.activations.index import write_index
from bsc.activations.store import ActivationStore
from bsc.activations.writer import ShardWriter
from bsc.errors import CorruptFile, UserError

CONTEXT, WIDTH, CONTEXTS = 8, 6, (3, 2)


def activations(rows, seed):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(rows, WIDTH, generator=generator).bfloat16() for _ in range(2))


def write_shard(folder, pair, *, width=WIDTH, hookpoint="layers.1.mlp"):
    with ShardWriter(folder, [hookpoint], len(pair[0]), width, {}) as writer:
        for first in range(0, len(pair[0]), CONTEXT):
            writer.append({hookpoint: tuple(tensor[first : first + CONTEXT] for tensor in pair)})
        writer.finish()
    return folder / f"{hookpoint}.safetensors"


@pytest.fixture
def pairs():
    return [activations(contexts * CONTEXT, seed) for seed, contexts in enumerate(CONTEXTS)]


@pytest.fixture
def index(tmp_path, pairs):
    shards = [write_shard(tmp_path / "train" / f"shard{number}", pair) for number, pair in enumerate(pairs)]
    path = tmp_path / "train" / "layers.1.mlp.json"
    write_index(shards, CONTEXT, path)
    return path


def test_what_was_written_is_read(index, pairs):
    store = ActivationStore.open(index)
    assert (store.hookpoint, store.rows, store.width, store.context) == ("layers.1.mlp", 40, WIDTH, CONTEXT)
    assert store.usable_rows == 5 * 7
    assert [(shard.first_row, shard.rows) for shard in store.shards] == [(0, 24), (24, 16)]
    for shard, (x, y) in zip(store.shards, pairs, strict=True):
        assert torch.equal(shard.input, x)
        assert torch.equal(shard.output, y)


def test_a_shard_is_a_safetensors_file_like_any_other(index, pairs, tmp_path):
    ours = (index.parent / "shard0" / "layers.1.mlp.safetensors").read_bytes()
    save_file(dict(zip(("input", "output"), pairs[0], strict=True)), tmp_path / "theirs")
    theirs = (tmp_path / "theirs").read_bytes()
    assert ours == theirs


def test_tensors_are_memory_mapped(index):
    shard = ActivationStore.open(index, verify=False).shards[0]
    assert shard.input.shape == (24, WIDTH)
    assert str(shard.path.resolve()) in Path("/proc/self/maps").read_text()


def test_the_folder_may_be_moved(index, tmp_path, pairs):
    moved = (tmp_path / "train").rename(tmp_path / "elsewhere") / index.name
    assert torch.equal(ActivationStore.open(moved).shards[1].output, pairs[1][1])


def flip(path):
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-2])


@pytest.mark.parametrize("damage", [flip, truncate, Path.unlink])
def test_a_damaged_shard_is_refused_by_name(index, damage):
    damage(index.parent / "shard1" / "layers.1.mlp.safetensors")
    with pytest.raises(CorruptFile, match=r"shard1") as caught:
        _ = ActivationStore.open(index).shards[1].input
    assert "shard1/layers.1.mlp.safetensors" in str(caught.value)


@pytest.mark.parametrize("damage", [truncate, Path.unlink])
def test_a_shard_that_is_short_or_missing_is_refused_before_anything_is_read(index, damage):
    damage(index.parent / "shard1" / "layers.1.mlp.safetensors")
    with pytest.raises(CorruptFile, match=r"shard1"):
        ActivationStore.open(index)


def test_a_flipped_byte_is_found_where_it_is_read_and_not_before(index, pairs):
    flip(index.parent / "shard1" / "layers.1.mlp.safetensors")
    store = ActivationStore.open(index)
    assert torch.equal(store.shards[0].input, pairs[0][0])
    with pytest.raises(CorruptFile, match="SHA-256"):
        _ = store.shards[1].output


def test_a_truncated_shard_is_refused_even_unverified(index):
    truncate(index.parent / "shard0" / "layers.1.mlp.safetensors")
    store = ActivationStore.open(index, verify=False)
    with pytest.raises(CorruptFile, match="shard0"):
        _ = store.shards[0].input


def test_a_shard_of_other_rows_is_refused_even_unverified(index):
    facts = json.loads(index.read_text())
    facts["shards"][0]["rows"] = 16
    index.write_text(json.dumps(facts))
    with pytest.raises(CorruptFile, match="16 rows"):
        _ = ActivationStore.open(index, verify=False).shards[0].input


@pytest.mark.parametrize("damage", [truncate, lambda path: path.write_bytes(b"no"), lambda path: path.write_bytes(bytes(64))])
def test_no_index_of_a_damaged_shard(index, damage):
    shards = [index.parent / f"shard{number}" / "layers.1.mlp.safetensors" for number in range(2)]
    damage(shards[1])
    with pytest.raises(CorruptFile, match="shard1"):
        write_index(shards, CONTEXT, index)


def test_no_index_of_shards_that_do_not_belong_together(index, tmp_path, pairs):
    first = index.parent / "shard0" / "layers.1.mlp.safetensors"
    odd = write_shard(tmp_path / "odd", activations(12, 2))
    with pytest.raises(UserError, match="12 rows are no whole contexts of 8"):
        write_index([first, odd], CONTEXT, index)
    other = write_shard(tmp_path / "other", pairs[0], hookpoint="layers.2.mlp")
    with pytest.raises(UserError, match="another hookpoint"):
        write_index([first, other], CONTEXT, index)
    narrow = write_shard(tmp_path / "narrow", tuple(tensor[:, :4] for tensor in pairs[0]), width=4)
    with pytest.raises(UserError, match="width is 4 and that of the first shard 6"):
        write_index([first, narrow], CONTEXT, index)


def test_no_index_of_a_shard_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        write_index([tmp_path / "layers.1.mlp.safetensors"], CONTEXT, tmp_path / "index.json")
