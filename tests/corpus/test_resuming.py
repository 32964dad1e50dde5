"""A run of `bsc tokens` that is killed goes on: the same bytes, and what was read is not read again."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bsc.corpus import tokens as module
from bsc.corpus import writer
from bsc.corpus.column import Column, Document
from bsc.corpus.documents import Counted, documents
from bsc.corpus.files import FileDocuments
from bsc.corpus.store import read_tokens_numpy
from bsc.corpus.tokens import SPLIT_ORDER, make_tokens
from bsc.corpus.writer import PARTIAL
from bsc.errors import UserError
from bsc.stages import TokensSpec

MakeSpec = Callable[..., TokensSpec]
ENDINGS = ("jsonl", "parquet", "arrow")


class Killed(BaseException):
    """Nobody catches it, as nobody catches a kill."""


def write(path: Path, texts: list[str]) -> Path:
    table = pa.table({"other": range(len(texts)), "text": texts})
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=7)
    elif path.suffix == ".arrow":
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
            stream.write_table(table, max_chunksize=5)
    else:
        path.write_text("".join(json.dumps({"text": text}) + "\n\n" for text in texts), encoding="utf-8")
    return path


def shards(folder: Path) -> list[str]:
    """Files of three kinds, 90 documents; the third has none."""
    texts = [f"document {number}: ü{'x' * (number % 13)}" if number % 5 else "" for number in range(90)]
    for number in range(3):
        write(folder / f"{number}.{ENDINGS[number]}", texts[30 * number : 30 * number + 30])
    write(folder / "2.parquet", [])
    return texts


def made(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_position_in_files_is_gone_on_from_at_every_document(tmp_path: Path) -> None:
    texts = shards(tmp_path)
    (tmp_path / "3.txt").write_text("the last")
    patterns = [str(tmp_path / "*.*")]
    for count in range(92):
        first = FileDocuments(patterns, Column("text"))
        stream = iter(first)
        found: list[Document] = [next(stream) for _ in range(count)]
        position = json.loads(json.dumps(first.position))
        assert [*found, *FileDocuments(patterns, Column("text"), position)] == [*texts, "the last"]


def test_a_source_without_places_is_gone_on_from_by_counting() -> None:
    first = Counted("abcdef")
    stream = iter(first)
    assert [next(stream), next(stream)] == ["a", "b"]
    rest = Counted("abcdef", first.position)
    assert list(rest) == ["c", "d", "e", "f"]
    assert rest.position == {"documents": 6}


def test_an_arrow_file_of_either_format_is_read(tmp_path: Path) -> None:
    table = pa.table({"text": ["a", None, "c"]})
    with pa.ipc.new_file(tmp_path / "a.arrow", table.schema) as file:
        file.write_table(table, max_chunksize=2)
    source = FileDocuments([str(tmp_path / "a.arrow")], Column("text"), {"file": 0, "row": 1, "byte": 0})
    assert list(source) == ["", "c"]


def test_rows_before_the_position_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"text {number}" for number in range(50)]
    jsonl, parquet = write(tmp_path / "a.jsonl", texts), write(tmp_path / "b.parquet", texts)
    first = FileDocuments([str(jsonl)], Column("text"))
    stream = iter(first)
    for _ in range(30):
        next(stream)
    content = jsonl.read_bytes()
    jsonl.write_bytes(b"\0" * first.position["byte"] + content[first.position["byte"] :])
    assert list(FileDocuments([str(jsonl)], Column("text"), first.position)) == texts[30:]
    groups = []
    iter_batches = pq.ParquetFile.iter_batches
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", lambda *given: groups.append(given[2]) or iter_batches(*given))
    assert list(FileDocuments([str(parquet)], Column("text"), {"file": 0, "row": 30, "byte": 0})) == texts[30:]
    assert groups == [[4, 5, 6, 7]], "row 30 is in the fifth group of 7"


KILLS = st.one_of(st.integers(1, 25), st.sampled_from(["resized", "full"]))


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kills=st.lists(st.tuples(KILLS, st.sampled_from([11, 300, 700, 800, 5_000])), max_size=4), bos=st.booleans())
def test_however_often_it_is_killed_the_bytes_are_those_of_one_run(
    model: Path, make_spec: MakeSpec, tmp_path_factory: pytest.TempPathFactory, kills: list[tuple[int | str, int]], bos: bool
) -> None:
    """Also when the killed runs ask for more or fewer tokens of the last split, or for more than there are.

    A kill comes after so many batches, just after the last split's file is made longer or shorter, or when all is full.
    """
    folder = tmp_path_factory.mktemp("killed")
    shards(folder)
    splits = {split: {"tokens": count, "context": 11} for split, count in zip(SPLIT_ORDER, (130, 250, 700), strict=True)}
    spec = make_spec(files=[str(folder / "[0-9].*")], splits=splits, bos=bos)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BATCH", 40)
        patch.setattr(writer, "FLUSH_SECONDS", 0.0)
        make_tokens(spec, model, folder / "whole")
        for at, tokens in kills:
            other = make_spec(files=spec.files, splits={**splits, SPLIT_ORDER[-1]: {"tokens": tokens, "context": 11}}, bos=bos)
            killed_at(patch, at, lambda other=other: make_tokens(other, model, folder / "out"))
            if not (folder / "out" / PARTIAL).exists():  # 11 tokens are soon made
                shutil.rmtree(folder / "out")
        make_tokens(spec, model, folder / "out")
    assert made(folder / "out") == made(folder / "whole")


def killed_at(patch: pytest.MonkeyPatch, at: int | str, run: Callable[[], None]) -> None:
    """Run until so many batches are read, the last split's file has another size, or all splits are full; or to the end."""
    if isinstance(at, int):
        return killed_after(patch, at, run)

    def resized(*given: object) -> None:
        resize(*given)
        raise Killed

    def full(*_: object) -> None:
        raise Killed

    resize = writer._resize
    with patch.context() as inner:
        if at == "resized":
            inner.setattr(writer, "_resize", resized)
        else:
            inner.setattr(writer.TokenWriter, "finish", full)
        with suppress(Killed, UserError):
            run()
    return None


def killed_after(patch: pytest.MonkeyPatch, batches: int, run: Callable[[], None]) -> None:
    """Run until so many batches are read, or to the end."""

    def some(source: object) -> Iterator[list[Document]]:
        for number, batch in enumerate(given(source)):
            if number == batches:
                raise Killed
            yield batch

    given = module.batches
    with patch.context() as inner:
        inner.setattr(module, "batches", some)
        try:
            run()
        except (Killed, UserError):
            return


def test_a_rerun_after_a_kill_reads_only_what_comes_next(
    model: Path, make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards(tmp_path)
    monkeypatch.setattr(module, "_BATCH", 40)
    monkeypatch.setattr(writer, "FLUSH_SECONDS", 0.0)
    spec = make_spec(files=[str(tmp_path / "[0-9].*")])
    killed_after(monkeypatch, 2, lambda: make_tokens(spec, model, tmp_path / "out"))
    began = []
    monkeypatch.setattr(module, "documents", lambda *given: began.append(given[2]) or documents(*given))
    make_tokens(spec, model, tmp_path / "out")
    assert began[0]["row"] > 4


def test_a_file_that_changed_in_between_is_read_from_the_start(
    model: Path, make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.jsonl", [f"document {number}" for number in range(60)])
    monkeypatch.setattr(module, "_BATCH", 40)
    monkeypatch.setattr(writer, "FLUSH_SECONDS", 0.0)
    spec = make_spec(files=[str(path)])
    killed_after(monkeypatch, 3, lambda: make_tokens(spec, model, tmp_path / "out"))
    write(path, [f"DOCUMENT {number}" for number in range(60)])
    make_tokens(spec, model, tmp_path / "out")
    make_tokens(spec, model, tmp_path / "whole")
    assert made(tmp_path / "out") == made(tmp_path / "whole")


RUN = """
import sys
from pathlib import Path
from bsc.corpus import tokens, writer
from bsc.stages import TokensSpec

tokens._BATCH, writer.FLUSH_SECONDS = 2_000, 0.0
tokens.make_tokens(TokensSpec.model_validate_json(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
"""


@pytest.mark.slow
def test_a_process_that_is_killed_goes_on(model: Path, make_spec: MakeSpec, tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", [f"document {number} " * 9 for number in range(5_000)])
    splits = {split: {"tokens": count, "context": 64} for split, count in zip(SPLIT_ORDER, (999, 999, 300_000), strict=True)}
    spec = make_spec(files=[str(path)], splits=splits)
    command = [sys.executable, "-c", RUN, spec.json_text, str(model)]
    progress = tmp_path / "out" / writer.PARTIAL / "progress.json"
    rows = []
    for _ in range(2):
        process = subprocess.Popen([*command, str(tmp_path / "out")], stderr=subprocess.DEVNULL)
        before = rows[-1] if rows else 0
        while process.poll() is None and not (progress.exists() and saved_row(progress) > before + 500):
            time.sleep(0.01)
        assert process.poll() is None, "it was to be killed before its end"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        rows.append(saved_row(progress))
    subprocess.run([*command, str(tmp_path / "out")], check=True, capture_output=True)
    make_tokens(spec, model, tmp_path / "whole")
    assert made(tmp_path / "out") == made(tmp_path / "whole")


def saved_row(progress: Path) -> int:
    return int(json.loads(progress.read_text())["state"]["position"]["row"])


PEAK = """
import resource, sys
from pathlib import Path
from bsc.corpus import tokens
from bsc.stages import TokensSpec

tokens.make_tokens(TokensSpec.model_validate_json(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("ending", "source"), [*((ending, "files") for ending in ENDINGS), ("parquet", "hub")])
def test_memory_does_not_grow_with_the_files(
    model: Path, make_spec: MakeSpec, tmp_path: Path, ending: str, source: str
) -> None:
    """Token ids, so that it is reading and writing that is measured; 1 M and 6 M tokens."""
    generator = np.random.default_rng(0)
    rows = generator.integers(0, 258, (100, 5_000), dtype=np.int32)
    table = pa.table({"input_ids": pa.array(list(rows))})
    (tmp_path / "texts").mkdir()
    for number in range(14):
        write_table(tmp_path / f"texts/{number:02}.{ending}", table)
    peaks = []
    for train in (1_000_000, 6_000_000):
        sizes = dict(zip(SPLIT_ORDER, (10_000, 10_000, train), strict=True))
        splits = {split: {"tokens": tokens, "context": 1_000} for split, tokens in sizes.items()}
        where = {"dataset": str(tmp_path / "texts")} if source == "hub" else {"files": [str(tmp_path / f"texts/*.{ending}")]}
        spec = make_spec(source=source, **where, ids_column="input_ids", separator=None, splits=splits)
        command = [sys.executable, "-c", PEAK, spec.json_text, str(model), str(tmp_path / str(train))]
        peaks.append(int(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    assert peaks[1] - peaks[0] < 15_000, f"5 M more tokens are 40 MB more on disk, and may not be in memory: {peaks}"
    np.testing.assert_array_equal(read_tokens_numpy(tmp_path / "1000000", "train").tokens[:5], rows[4:5].reshape(5, 1_000))


def write_table(path: Path, table: pa.Table) -> None:
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    elif path.suffix == ".arrow":
        with pa.ipc.new_stream(path, table.schema) as stream:
            stream.write_table(table, max_chunksize=20)
    else:
        table.to_pandas().to_json(path, orient="records", lines=True)
