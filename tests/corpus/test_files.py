"""Documents of local files and data sets, and what is said of those that cannot be read."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest

from bsc.corpus.column import Column, Document
from bsc.corpus.documents import documents
from bsc.corpus.files import FileDocuments
from bsc.errors import UserError
from bsc.stages import TokensSpec

TEXTS = ["first\nof two lines", "", "ümlaut"]
VOCABULARY = 50


def file_documents(patterns: list[str], text_column: str) -> Iterator[Document]:
    return iter(FileDocuments(patterns, Column(text_column)))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)


def write(path: Path, texts: list[object], column: str = "text") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"id": number, column: text} for number, text in enumerate(texts)]
    if path.suffix == ".parquet":
        pd.DataFrame(rows).to_parquet(path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_txt_is_one_document(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\ntwo ü\n", encoding="utf-8")
    assert list(file_documents(["a.txt"], "text")) == ["one\n\ntwo ü\n"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_a_row_is_a_document(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, TEXTS, "body")
    assert list(file_documents([str(path)], "body")) == TEXTS


def test_an_empty_cell_is_an_empty_document(tmp_path: Path) -> None:
    assert list(file_documents([str(write(tmp_path / "a.jsonl", ["a", None]))], "text")) == ["a", ""]


def test_patterns_are_taken_in_the_order_of_paths_each_file_once(tmp_path: Path) -> None:
    for name in ("c", "a", "b"):
        (tmp_path / f"{name}.txt").write_text(name)
    assert list(file_documents(["c.txt", "*.txt"], "text")) == ["a", "b", "c"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_a_missing_column_is_named_with_those_there_are(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, TEXTS, "body")
    with pytest.raises(UserError, match=rf"{name}: row 0 has no column `text`\n.*`id`, `body`"):
        list(file_documents([str(path)], "text"))


def test_a_column_that_is_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="column `id` holds int in row 0"):
        list(file_documents([str(write(tmp_path / "a.parquet", TEXTS))], "id"))


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_a_broken_file_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text('{"text": "unfinished\n')
    with pytest.raises(UserError, match=rf"{name}: it cannot be read"):
        list(file_documents([name], "text"))


def test_a_txt_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("ü".encode("latin-1"))
    with pytest.raises(UserError, match=r"a\.txt: not UTF-8"):
        list(file_documents(["a.txt"], "text"))


@pytest.mark.parametrize(("name", "message"), [("a.pdf", "not a kind of file"), ("b.txt", r"no file matches `b\.txt`")])
def test_files_that_are_not_there_or_of_another_kind_are_refused(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "a.pdf").write_bytes(b"%PDF")
    with pytest.raises(UserError, match=message):
        list(file_documents([name], "text"))


@pytest.fixture
def hub_spec(tmp_path: Path, make_spec: Callable[..., TokensSpec]) -> Callable[..., TokensSpec]:
    """A spec of a data set that is a local folder: two splits of jsonl."""
    write(tmp_path / "set/train.jsonl", TEXTS)
    write(tmp_path / "set/test.jsonl", ["held out"])
    return lambda **changes: make_spec(**{"source": "hub", "dataset": str(tmp_path / "set"), **changes})


@pytest.mark.parametrize("streaming", [True, False])
def test_a_data_set_gives_the_split_that_is_asked_for(hub_spec: Callable[..., TokensSpec], streaming: bool) -> None:
    assert list(documents(hub_spec(streaming=streaming), VOCABULARY)) == TEXTS
    assert list(documents(hub_spec(streaming=streaming, hub_split="test"), VOCABULARY)) == ["held out"]


@pytest.mark.parametrize(
    "changes",
    [{"hub_split": "nothing"}, {"subset": "nothing"}, {"dataset": "./nowhere"}],
    ids=lambda change: next(iter(change)),
)
def test_what_a_data_set_lacks_is_a_clear_error(hub_spec: Callable[..., TokensSpec], changes: dict[str, str]) -> None:
    with pytest.raises(UserError, match=r"data set .*: it cannot be read .*\n.*subset, split and revision"):
        list(documents(hub_spec(**changes), VOCABULARY))


def test_a_hub_that_is_out_of_reach_is_a_clear_error(
    hub_spec: Callable[..., TokensSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"data set someone/text: it cannot be read .*\n.*HF_HUB_OFFLINE"):
        list(documents(hub_spec(dataset="someone/text"), VOCABULARY))
