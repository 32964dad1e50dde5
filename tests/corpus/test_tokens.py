"""Documents become contexts: packed in order, each token knowing its document, no document in two splits."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bsc.corpus import tokens as module
from bsc.corpus.documents import Counted
from bsc.corpus.store import read_tokens_numpy
from bsc.corpus.tokens import SPLIT_ORDER, Encoder, batches, make_tokens
from bsc.corpus.writer import PARTIAL
from bsc.errors import UserError
from bsc.io import read_manifest
from bsc.models.load import load_tokenizer
from bsc.stages import TokensSpec

BOS, END, FIRST_BYTE, VOCABULARY = 1, 0, 2, 258
MakeSpec = Callable[..., TokensSpec]


def reference(
    documents: list[list[int]], splits: dict[str, dict[str, int]], *, bos: bool, separator: bool
) -> dict[str, tuple[list[list[int]], list[list[int]]]] | None:
    """Token by token: every split's contexts and document numbers; None when the text is too short."""
    numbered = iter(list(enumerate(ids for ids in documents if ids)))
    made = {}
    for split in SPLIT_ORDER:
        rows: list[list[int]] = []
        numbers: list[list[int]] = []
        context = splits[split]["context"]
        wanted = splits[split]["tokens"] // context * context
        while sum(map(len, rows)) < wanted:
            number, ids = next(numbered, (None, []))
            if number is None:
                return None
            for token in [*ids, *([END] if separator else [])]:
                if not rows or len(rows[-1]) == context:
                    if sum(map(len, rows)) == wanted:
                        break
                    rows.append([BOS] if bos else [])
                    numbers.append([number] if bos else [])
                rows[-1].append(token)
                numbers[-1].append(number)
        made[split] = (rows, numbers)
    return made


def write_documents(path: Path, documents: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    return path


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=60),
    lengths_of=st.tuples(*[st.integers(2, 12)] * 3),
    contexts=st.tuples(*[st.integers(1, 6)] * 3),
    spare=st.integers(0, 1),
    bos=st.booleans(),
    separator=st.booleans(),
)
def test_packing_is_that_of_a_token_by_token_reference(
    model: Path,
    make_spec: MakeSpec,
    tmp_path_factory: pytest.TempPathFactory,
    lengths: list[int],
    lengths_of: tuple[int, ...],
    contexts: tuple[int, ...],
    spare: int,
    bos: bool,
    separator: bool,
) -> None:
    folder = tmp_path_factory.mktemp("packed")
    alphabet = "abcdefghijklmnopqrstuvwxyz"
    texts = ["".join(alphabet[(number + place) % 26] for place in range(size)) for number, size in enumerate(lengths)]
    sizes = zip(SPLIT_ORDER, contexts, lengths_of, strict=True)
    splits = {split: {"tokens": count * context + spare, "context": context} for split, count, context in sizes}
    spec = make_spec(splits=splits, bos=bos, separator="<|endoftext|>" if separator else None)
    tokenizer = load_tokenizer(model)
    ids = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
    expected = reference(ids, splits, bos=bos, separator=separator)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "documents", lambda *_: Counted(texts))
        if expected is None:
            with pytest.raises(UserError, match="the text ended"):
                make_tokens(spec, model, folder)
            assert [path.name for path in folder.iterdir()] == [PARTIAL]
            return
        make_tokens(spec, model, folder)
    facts = read_manifest(folder)
    for split, (rows, numbers) in expected.items():
        store = read_tokens_numpy(folder, split)
        np.testing.assert_array_equal(store.tokens, rows)
        np.testing.assert_array_equal(store.documents, numbers)
        assert facts["splits"][split] == {
            "contexts": len(rows),
            "context": splits[split]["context"],
            "documents": len(np.unique(numbers)),
        }


def test_no_document_is_in_two_splits(model: Path, make_spec: MakeSpec, tmp_path: Path) -> None:
    path = write_documents(tmp_path / "a.jsonl", [f"document {number}" for number in range(40)])
    make_tokens(make_spec(files=[str(path)]), model, tmp_path / "out")
    sets = [set(read_tokens_numpy(tmp_path / "out", split).documents.ravel().tolist()) for split in SPLIT_ORDER]
    assert all(sets)
    assert not (sets[0] & sets[1] | sets[1] & sets[2] | sets[0] & sets[2])


def test_more_training_text_changes_nothing_in_the_other_splits(model: Path, make_spec: MakeSpec, tmp_path: Path) -> None:
    path = write_documents(tmp_path / "a.jsonl", [f"document {number}" for number in range(60)])
    make_tokens(make_spec(files=[str(path)]), model, tmp_path / "a")
    spec = make_spec(files=[str(path)])
    more = spec.model_dump()["splits"] | {"train": {"tokens": 160, "context": 16}}
    make_tokens(make_spec(files=[str(path)], splits=more), model, tmp_path / "b")
    for split in ("evaluation", "interpretation"):
        assert (tmp_path / "a" / f"{split}.safetensors").read_bytes() == (tmp_path / "b" / f"{split}.safetensors").read_bytes()


def test_text_is_never_parsed_into_special_tokens(model: Path, make_spec: MakeSpec) -> None:
    text = "a<|im_start|>b<|endoftext|>"
    (ids,) = Encoder(make_spec(separator=None), model, VOCABULARY)([text])
    assert len(ids) == len(text)
    assert ids.min() >= FIRST_BYTE
    assert load_tokenizer(model).decode(ids.tolist()) == text


def test_the_separator_follows_every_document(model: Path, make_spec: MakeSpec) -> None:
    encoder = Encoder(make_spec(), model, VOCABULARY)
    found = [ids for batch in batches(["ab", "", "c" * 3_000_000, "d"]) for ids in encoder(batch)]
    assert [len(ids) for ids in found] == [3, 3_000_001, 2]
    assert all(ids[-1] == END and ids[:-1].min() >= FIRST_BYTE for ids in found)


def test_a_batch_ends_with_the_document_that_fills_it_and_none_is_read_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BATCH", 4)
    source = Counted(["a", "", "bcd", "", "efghi", "j", ""])
    assert [(batch, source.position["documents"]) for batch in batches(source)] == [
        (["a", "bcd"], 3),
        (["efghi"], 5),
        (["j"], 7),
    ]


@pytest.mark.parametrize("separator", ["<|nothing|>", "ab", ""])
def test_a_separator_that_is_not_one_token_is_refused(model: Path, make_spec: MakeSpec, tmp_path: Path, separator: str) -> None:
    path = write_documents(tmp_path / "a.jsonl", ["text"] * 9)
    with pytest.raises(UserError, match=r"corpus\.separator: .*not one token"):
        make_tokens(make_spec(files=[str(path)], separator=separator), model, tmp_path / "out")


def test_too_little_text_names_the_split_and_both_numbers(model: Path, make_spec: MakeSpec, tmp_path: Path) -> None:
    path = write_documents(tmp_path / "a.jsonl", ["x" * 99, "x" * 99, "x" * 42])
    with pytest.raises(UserError, match=r"corpus\.splits\.train: the text ended after 40 of the 80 tokens of split `train`"):
        make_tokens(make_spec(files=[str(path)]), model, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == [PARTIAL]


def test_too_little_text_is_not_tokenised_again_for_fewer_tokens(
    model: Path, make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_documents(tmp_path / "a.jsonl", ["x" * 99, "x" * 99, "x" * 42])
    with pytest.raises(UserError, match="set `tokens` to 40 or fewer: what was made is kept") as raised:
        make_tokens(make_spec(files=[str(path)]), model, tmp_path / "out")
    assert str(tmp_path / "out" / PARTIAL) in str(raised.value)
    splits = make_spec().model_dump()["splits"]
    fewer = make_spec(files=[str(path)], splits={**splits, "train": {"tokens": 40, "context": 8}})
    make_tokens(fewer, model, tmp_path / "whole")
    monkeypatch.setattr(module, "batches", lambda _: pytest.fail("text is read"))
    make_tokens(fewer, model, tmp_path / "out")
    for file in (tmp_path / "whole").iterdir():
        assert (tmp_path / "out" / file.name).read_bytes() == file.read_bytes()


def test_a_failed_run_over_an_older_one_leaves_no_manifest(model: Path, make_spec: MakeSpec, tmp_path: Path) -> None:
    path = write_documents(tmp_path / "a.jsonl", ["text"] * 99)
    make_tokens(make_spec(files=[str(path)]), model, tmp_path / "out")
    write_documents(path, ["text"])
    with pytest.raises(UserError):
        make_tokens(make_spec(files=[str(path)]), model, tmp_path / "out")
    assert not (tmp_path / "out/manifest.json").exists()


def test_a_vocabulary_larger_than_the_embedding_is_refused(
    model: Path, make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "read_manifest", lambda *_, **__: {"vocabulary": 9, "source": "test"})
    with pytest.raises(UserError, match="ids up to 257 and its embedding 9 rows"):
        make_tokens(make_spec(), model, tmp_path / "out")


STREAM = """
import resource, sys
from pathlib import Path
from bsc.corpus import tokens
from bsc.corpus.documents import Counted
from bsc.stages import TokensSpec

spec, model, output = TokensSpec.model_validate_json(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
tokens.documents = lambda *_: Counted("some words " * 3_000 for _ in iter(int, 1))
tokens.make_tokens(spec, model, output)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_tokens(model: Path, make_spec: MakeSpec, tmp_path: Path) -> None:
    peaks = []
    for train in (2_000_000, 20_000_000):
        sizes = {"train": train, "evaluation": 1_000, "interpretation": 1_000}
        spec = make_spec(splits={split: {"tokens": tokens, "context": 1_000} for split, tokens in sizes.items()})
        command = [sys.executable, "-c", STREAM, spec.json_text, str(model), str(tmp_path / str(train))]
        peaks.append(int(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    assert peaks[1] - peaks[0] < 30_000, "18 M more tokens are 144 MB more on disk, and may not be in memory"


def test_contexts_that_the_model_does_not_know_are_refused(model: Path, make_spec: MakeSpec, tmp_path: Path) -> None:
    longer = make_spec(splits={key: {"tokens": 2_002, "context": 1_001} for key in SPLIT_ORDER})
    with pytest.raises(UserError, match=r"corpus\.splits\.\w+\.context: contexts of 1001 tokens are longer than the 1000"):
        make_tokens(longer, model, tmp_path / "out")
