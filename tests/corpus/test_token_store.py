"""Contexts on disk are a safetensors file like any other, read the same by torch and by numpy."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from bsc.corpus import store
from bsc.corpus.store import read_tokens, read_tokens_numpy
from bsc.corpus.writer import PARTIAL, TokenWriter
from bsc.errors import CorruptFile, UserError
from bsc.io import MANIFEST, write_json


def write_split(folder: Path, tokens: np.ndarray, documents: np.ndarray, cuts: list[int]) -> Path:
    with TokenWriter(folder, {"train": tokens.shape}, {}) as writer:
        for first, last in zip([0, *cuts], [*cuts, len(tokens)], strict=True):
            writer.splits["train"].append(tokens[first:last], documents[first:last])
        assert writer.splits["train"].full
        writer.save({})
        writer.finish({})
    return folder / "train.safetensors"


@given(st.integers(1, 40), st.integers(1, 33), st.data())
def test_what_is_read_is_what_was_written_in_pieces(
    tmp_path_factory: pytest.TempPathFactory, contexts: int, length: int, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("store")
    generator = np.random.default_rng(0)
    tokens, documents = generator.integers(0, 2**31, (2, contexts, length), dtype=np.int32)
    path = write_split(folder, tokens, documents, sorted(data.draw(st.lists(st.integers(0, contexts), max_size=3))))
    for found in (load_file(path), vars(read_tokens_numpy(folder, "train")), vars(read_tokens(folder, "train"))):
        np.testing.assert_array_equal(np.asarray(found["tokens"]), tokens)
        np.testing.assert_array_equal(np.asarray(found["documents"]), documents)
    assert read_tokens(folder, "train").context == length


def test_numpy_reads_through_a_map_that_cannot_be_written(tmp_path: Path) -> None:
    ones = np.ones((4, 8), np.int32)
    write_split(tmp_path, ones, ones, [])
    found = read_tokens_numpy(tmp_path, "train").tokens
    assert isinstance(found, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        found[0, 0] = 2


SIZES = {"evaluation": (2, 8), "train": (9, 8)}


def interrupted(folder: Path, identity: dict[str, int]) -> None:
    """A run that saves five contexts, writes a sixth and is killed."""
    with TokenWriter(folder, SIZES, identity) as writer:
        writer.splits["train"].append(np.ones((5, 8), np.int32), np.full((5, 8), 2, np.int32))
        writer.save({"next": 5})
        writer.splits["train"].append(np.full((1, 8), 7, np.int32), np.full((1, 8), 7, np.int32))


def test_a_run_that_is_killed_leaves_no_file_and_goes_on_from_what_it_saved(tmp_path: Path) -> None:
    interrupted(tmp_path, {"spec": 1})
    assert [path.name for path in tmp_path.iterdir()] == [PARTIAL]
    with TokenWriter(tmp_path, SIZES, {"spec": 1}) as writer:
        assert writer.state == {"next": 5}
        assert {split: part.written for split, part in writer.splits.items()} == {"evaluation": 0, "train": 5}
        writer.splits["evaluation"].append(*np.full((2, 2, 8), 3, np.int32))
        writer.splits["train"].append(*np.full((2, 4, 8), 4, np.int32))
        writer.save({"next": 9})
        writer.finish({})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evaluation.safetensors", "manifest.json", "train.safetensors"]
    found = read_tokens_numpy(tmp_path, "train")
    np.testing.assert_array_equal(found.tokens[:, 0], [1] * 5 + [4] * 4)
    np.testing.assert_array_equal(found.documents[:, 0], [2] * 5 + [4] * 4)


def test_what_another_run_left_or_is_not_whole_is_thrown_away(tmp_path: Path) -> None:
    for number, spoil in enumerate(
        (
            lambda folder: None,
            lambda folder: (folder / PARTIAL / "train.safetensors").unlink(),
            lambda folder: os.truncate(folder / PARTIAL / "train.safetensors", 99),
            lambda folder: (folder / PARTIAL / "progress.json").write_text("{"),
        )
    ):
        folder = tmp_path / str(number)
        interrupted(folder, {"spec": 1})
        spoil(folder)
        with TokenWriter(folder, SIZES, {"spec": 1 if number else 2}) as writer:
            assert writer.state is None
            assert not any(part.written for part in writer.splits.values())


def test_a_full_disk_says_so_and_keeps_what_was_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    interrupted(tmp_path, {})
    with TokenWriter(tmp_path, SIZES, {}) as writer, monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(UserError, match="disk is full"):
            writer.splits["train"].append(*np.full((2, 1, 8), 4, np.int32))
    with TokenWriter(tmp_path, SIZES, {}) as writer:
        assert writer.state == {"next": 5}


@pytest.mark.parametrize("hashed_up_to", [0, 1 << 30])
def test_a_truncated_file_is_noticed_however_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hashed_up_to: int) -> None:
    ones = np.ones((4, 8), np.int32)
    path = write_split(tmp_path, ones, ones, [])
    monkeypatch.setattr(store, "_HASHED_UP_TO", hashed_up_to)
    read_tokens(tmp_path, "train")
    path.write_bytes(path.read_bytes()[:-4])
    for read in (read_tokens, read_tokens_numpy):
        with pytest.raises(CorruptFile, match="train"):
            read(tmp_path, "train")


def test_a_changed_byte_is_noticed(tmp_path: Path) -> None:
    ones = np.ones((4, 8), np.int32)
    path = write_split(tmp_path, ones, ones, [])
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptFile, match="SHA-256"):
        read_tokens_numpy(tmp_path, "train")


def test_a_split_that_is_not_there_is_refused(tmp_path: Path) -> None:
    ones = np.ones((4, 8), np.int32)
    write_split(tmp_path, ones, ones, [])
    with pytest.raises(UserError, match="no split `test`"):
        read_tokens(tmp_path, "test")


def test_a_split_may_be_larger_than_memory(tmp_path: Path) -> None:
    """Twice over: the file is sparse, and nothing is read but what is asked for."""
    context = 1 << 20
    contexts = 2 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // (4 * context)
    size = 4 * contexts * context
    fields = {
        name: {"dtype": "I32", "shape": [contexts, context], "data_offsets": [place * size, (place + 1) * size]}
        for place, name in enumerate(("documents", "tokens"))
    }
    header = json.dumps(fields).encode()
    path = tmp_path / "train.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    os.truncate(path, 8 + len(header) + 2 * size)
    with path.open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write((7).to_bytes(4, "little"))
    write_json(tmp_path / MANIFEST, {"files": {path.name: {"bytes": path.stat().st_size, "sha256": "not read"}}})
    store = read_tokens(tmp_path, "train")
    assert store.tokens.shape == store.documents.shape == (contexts, context)
    assert store.tokens[-1, -2:].tolist() == [0, 7]
    assert store.documents[-1, -1].item() == 0
