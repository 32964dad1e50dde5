"""Contexts on disk are a safetensors file like any other, read the same by torch and by numpy."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from bsc.corpus import store
from bsc.corpus.store import read_tokens, read_tokens_numpy, write_contexts
from bsc.errors import CorruptFile, UserError
from bsc.io import write_manifest


def write_split(folder: Path, tokens: np.ndarray, documents: np.ndarray, cuts: list[int]) -> Path:
    path = folder / "train.safetensors"
    with write_contexts(path, *tokens.shape) as writer:
        for first, last in zip([0, *cuts], [*cuts, len(tokens)], strict=True):
            writer.append(tokens[first:last], documents[first:last])
        assert writer.full
    write_manifest(folder, [path.name], {})
    return path


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


def test_a_writer_that_is_killed_leaves_no_file(tmp_path: Path) -> None:
    def killed() -> None:
        with write_contexts(tmp_path / "train.safetensors", 9, 8) as writer:
            writer.append(np.ones((4, 8), np.int32), np.ones((4, 8), np.int32))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        killed()
    assert list(tmp_path.iterdir()) == []


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
