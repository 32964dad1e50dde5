"""Data sets that hold token ids: taken as they are, checked against the vocabulary, packed as text is."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from bsc.corpus import tokens as module
from bsc.corpus.store import read_tokens_numpy
from bsc.corpus.tokens import SPLIT_ORDER, make_tokens
from bsc.errors import UserError
from bsc.io import read_manifest
from bsc.models.load import load_tokenizer
from bsc.stages import TokensSpec

MakeSpec = Callable[..., TokensSpec]
TEXTS = [f"document {number}" * (number % 4) for number in range(60)]


def write(path: Path, rows: list[Any], column: str = "input_ids") -> Path:
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".parquet":
        pd.DataFrame({column: rows}).to_parquet(path)
    elif path.suffix == ".arrow":
        table = pa.table({column: rows})
        with pa.ipc.new_stream(path, table.schema) as stream:
            stream.write_table(table)
    else:
        path.write_text("".join(json.dumps({column: row}) + "\n" for row in rows))
    return path


def ids_of(model: Path) -> list[list[int]]:
    tokenizer = load_tokenizer(model)
    return [tokenizer.encode(text, add_special_tokens=False) for text in TEXTS]


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("separator", [None, "<|endoftext|>"])
@pytest.mark.parametrize("source", ["a.jsonl", "a.parquet", "a.arrow", "hub", "hub, downloaded"])
def test_ids_give_the_contexts_that_their_text_gives(
    model: Path,
    make_spec: MakeSpec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    source: str,
    separator: str | None,
    bos: bool,
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    options = {"bos": bos, "separator": separator}
    texts = write(tmp_path / "texts.jsonl", TEXTS, "text")
    make_tokens(make_spec(files=[str(texts)], **options), model, tmp_path / "of-text")
    if source.startswith("hub"):
        write(tmp_path / "set/train.parquet", ids_of(model))
        options |= {"source": "hub", "dataset": str(tmp_path / "set"), "streaming": source == "hub"}
    else:
        options |= {"files": [str(write(tmp_path / source, ids_of(model)))]}
    make_tokens(make_spec(ids_column="input_ids", **options), model, tmp_path / "of-ids")
    for split in SPLIT_ORDER:
        name = f"{split}.safetensors"
        assert (tmp_path / "of-ids" / name).read_bytes() == (tmp_path / "of-text" / name).read_bytes()
    facts = read_manifest(tmp_path / "of-ids")
    assert (facts["bos"], facts["separator"], facts["ids_column"]) == (bos, separator, "input_ids")


def test_no_tokenizer_is_needed_for_ids_alone(
    model: Path, make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.jsonl", ids_of(model))
    monkeypatch.setattr(module, "load_tokenizer", lambda _: pytest.fail("it was loaded"))
    make_tokens(make_spec(files=[str(path)], ids_column="input_ids", separator=None), model, tmp_path / "out")
    found = read_tokens_numpy(tmp_path / "out", SPLIT_ORDER[0]).tokens
    flat = [token for ids in ids_of(model) for token in ids]
    np.testing.assert_array_equal(found.ravel(), flat[: found.size])


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet", "a.arrow"])
@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([5, 258, 7], r"row 2 has the id 258 at position 1, and the model has ids 0 to 257"),
        ([5, 6, -1], r"row 2 has the id -1 at position 2"),
    ],
)
def test_an_id_that_the_model_has_not_is_named_with_its_row(
    model: Path, make_spec: MakeSpec, tmp_path: Path, name: str, row: list[int], message: str
) -> None:
    path = write(tmp_path / name, [[1, 2], [], row])
    with pytest.raises(UserError, match=rf"{name}: {message}"):
        make_tokens(make_spec(files=[str(path)], ids_column="input_ids"), model, tmp_path / "out")


@pytest.mark.parametrize(
    "rows", [["text"], [3], [[1.5]], [["1"]], [[[1], [2, 3]]], [[True]], [{"a": 1}], [[1, None]]], ids=repr
)
@pytest.mark.parametrize("name", ["a.jsonl", "a.arrow"])
def test_what_is_no_list_of_ids_is_refused(
    model: Path, make_spec: MakeSpec, tmp_path: Path, name: str, rows: list[Any]
) -> None:
    path = write(tmp_path / name, [*rows])
    with pytest.raises(UserError, match="column `input_ids` holds no list of whole numbers in row 0"):
        make_tokens(make_spec(files=[str(path)], ids_column="input_ids"), model, tmp_path / "out")


def test_a_missing_column_and_a_txt_are_refused(model: Path, make_spec: MakeSpec, tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", [[1]], "tokens")
    with pytest.raises(UserError, match=r"no column `input_ids`\n.*set `corpus\.ids_column`: `tokens`"):
        make_tokens(make_spec(files=[str(path)], ids_column="input_ids"), model, tmp_path / "out")
    (tmp_path / "a.txt").write_text("1 2 3")
    with pytest.raises(UserError, match="no column of ids"):
        make_tokens(make_spec(files=[str(tmp_path / "a.txt")], ids_column="input_ids"), model, tmp_path / "out")
