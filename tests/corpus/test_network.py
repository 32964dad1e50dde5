"""A network that fails while a data set is streamed: waited for, gone on from, and in the end a clear error."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
from faulty_server import FaultyServer
from tenacity import wait_fixed

from bsc.corpus import dataset as module
from bsc.corpus import tokens
from bsc.corpus.column import Column
from bsc.corpus.dataset import HubDocuments, NetworkFault
from bsc.errors import UserError
from bsc.stages import TokensSpec

MakeSpec = Callable[..., TokensSpec]
FILES, ROWS = 4, 60
TEXTS = [f"file {file}, row {row}: {'word ' * (row % 7)}" for file in range(FILES) for row in range(ROWS)]


@pytest.fixture(autouse=True)
def hasty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    for name in ("READ", "OPEN"):
        monkeypatch.setattr(f"datasets.config.STREAMING_{name}_MAX_RETRIES", 2)
        monkeypatch.setattr(f"datasets.config.STREAMING_{name}_RETRY_INTERVAL", 0)
    monkeypatch.setattr(module, "BACKOFF", wait_fixed(0.02))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FaultyServer]:
    (tmp_path / "served").mkdir()
    server = FaultyServer(tmp_path / "served")
    yield server
    server.stop()


def write(path: Path, texts: list[str]) -> None:
    if path.suffix == ".parquet":
        pd.DataFrame({"text": texts}).to_parquet(path, row_group_size=25)
    else:
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


@pytest.fixture(params=["jsonl", "parquet"])
def spec(request: pytest.FixtureRequest, server: FaultyServer, tmp_path: Path, make_spec: MakeSpec) -> TokensSpec:
    """A data set whose files are at the server."""
    names = [f"{number}.{request.param}" for number in range(FILES)]
    for number, name in enumerate(names):
        write(server.folder / name, TEXTS[number * ROWS : (number + 1) * ROWS])
    return served(server, names, tmp_path, make_spec)


def served(server: FaultyServer, names: list[str], tmp_path: Path, make_spec: MakeSpec) -> TokensSpec:
    (tmp_path / "set").mkdir()
    paths = "".join(f"    - http://127.0.0.1:{server.port}/{name}\n" for name in names)
    card = f"---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path:\n{paths}---\n"
    (tmp_path / "set/README.md").write_text(card)
    splits = {split: {"tokens": 1_000, "context": 8} for split in ("evaluation", "interpretation", "train")}
    return make_spec(source="hub", dataset=str(tmp_path / "set"), splits=splits)


def documents(spec: TokensSpec, position: dict[str, object] | None = None) -> HubDocuments:
    return HubDocuments(spec, Column("text"), position)


def failing(server: FaultyServer, name: str, fault: str, times: int) -> None:
    """Let the next `times` GETs of files of that name (without its ending) fail."""
    left = [times]

    def befalls(asked: str, first: int) -> str | None:
        if Path(asked).stem == name and left[0]:
            left[0] -= 1
            return fault
        return None

    server.fault = befalls


@pytest.mark.parametrize("fault", ["500", "cut"])
def test_a_fault_is_waited_for_and_each_document_comes_once(spec: TokensSpec, server: FaultyServer, fault: str) -> None:
    stream = iter(documents(spec))
    found = [next(stream) for _ in range(ROWS + 5)]
    failing(server, "2", fault, times=7)
    server.gets.clear()
    found += stream
    assert found == TEXTS
    assert {Path(name).stem for name, _ in server.gets} == {"2", "3"}, "a file that was read is not asked for again"


def test_a_connection_that_is_cut_in_the_middle_of_a_file(
    server: FaultyServer, tmp_path: Path, make_spec: MakeSpec, capfd: pytest.CaptureFixture[str]
) -> None:
    texts = [f"{number} {'x' * 100_000}" for number in range(400)]  # 40 MB: more than is asked for at a time
    write(server.folder / "a.jsonl", texts)
    stream = iter(documents(served(server, ["a.jsonl"], tmp_path, make_spec)))
    found = [next(stream)]
    cut: list[int] = []

    def befalls(name: str, first: int) -> str | None:
        if not first or len(cut) == 5:
            return None
        cut.append(first)
        return "cut"

    server.fault = befalls
    found += stream
    assert [text[:4] for text in found] == [text[:4] for text in texts]
    assert len(cut) == 5
    assert "row 0: attempt" not in (said := capfd.readouterr().err)
    assert "attempt 1 of 10 failed" in said


def test_a_server_that_dies_and_comes_back(spec: TokensSpec, server: FaultyServer) -> None:
    stream = iter(documents(spec))
    found = [next(stream) for _ in range(5)]
    server.stop()
    server.restart_in(0.1)
    assert found + list(stream) == TEXTS


def test_a_position_is_gone_on_from_without_the_files_before_it(spec: TokensSpec, server: FaultyServer) -> None:
    for count in (0, 1, 24, ROWS - 1, ROWS, 2 * ROWS + 31, FILES * ROWS):
        first = documents(spec)
        stream = iter(first)
        found = [next(stream) for _ in range(count)]
        position = json.loads(json.dumps(first.position))
        server.gets.clear()
        found += documents(spec, position)
        assert found == TEXTS
        read = {int(Path(name).stem) for name, _ in server.gets}
        assert not read & set(range(1, (count - 1) // ROWS)), "the first file may be looked at for its columns"


def make(spec: TokensSpec, model: Path, output: Path) -> dict[str, bytes]:
    tokens.make_tokens(spec, model, output)
    return {path.name: path.read_bytes() for path in sorted(output.iterdir())}


def test_a_network_that_stays_down_ends_in_an_error_and_a_rerun_goes_on(
    spec: TokensSpec, server: FaultyServer, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "_BATCH", 100)
    whole = make(spec, model, tmp_path / "whole")
    failing(server, "1", "cut", times=10**9)
    message = (
        r"data set .*: the network failed 10 times in a row, at row 60 \(.*\)"
        r"\n.* of 3,000 tokens are kept in .*\.partial: run the same command again .*goes on from there"
    )
    with pytest.raises(NetworkFault, match=message):
        make(spec, model, tmp_path / "out")
    server.fault = lambda name, first: None
    server.gets.clear()
    assert make(spec, model, tmp_path / "out") == whole


def test_a_file_that_is_refused_is_not_waited_for(
    spec: TokensSpec, server: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BACKOFF", wait_fixed(1_000))
    failing(server, "2", "403", times=10**9)
    with pytest.raises(UserError, match=r"data set .*: it cannot be read \(.*403"):
        list(documents(spec))


@pytest.mark.parametrize("offline", [False, True])
def test_what_is_not_there_is_not_waited_for(
    server: FaultyServer, tmp_path: Path, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch, offline: bool
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("offline") if offline else FileNotFoundError("no such set")

    monkeypatch.setattr("datasets.load_dataset", fail)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(module, "BACKOFF", wait_fixed(1_000))
    (tmp_path / "set").mkdir()
    with pytest.raises(UserError, match="it cannot be read"):
        list(documents(make_spec(source="hub", dataset=str(tmp_path / "set"))))


def test_a_run_that_is_taken_up_reads_the_commit_that_it_began_with(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    class Info:
        sha = "c0ffee"

    def load(name: str, subset: str | None, **options: object) -> object:
        from datasets import Dataset

        asked.append(options["revision"])
        return Dataset.from_dict({"text": ["a", "b", "c"]}).to_iterable_dataset()

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", lambda *_, **__: Info)
    monkeypatch.setattr("datasets.load_dataset", load)
    spec = make_spec(source="hub", dataset="someone/text")
    first = documents(spec)
    assert next(iter(first)) == "a"
    Info.sha = "decaf"
    assert list(documents(spec, first.position)) == ["b", "c"]
    assert asked == ["c0ffee", "c0ffee"]
