"""Whose answers the cache gives a model in the process: its own, and no other model's of the same name."""

import json
import signal
from pathlib import Path

import pytest

from bsc.autointerp.llm.answers import AnswerCache
from bsc.autointerp.llm.local import LocalModel
from bsc.autointerp.llm.messages import Reply, Request, Sampling
from bsc.autointerp.llm.reach import reached
from bsc.autointerp.llm.settings import Settings
from bsc.errors import UserError

PROMPTS = [Request("system", f"prompt {number}", Sampling(0.0, 10)) for number in range(3)]


@pytest.fixture
def generated(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was asked of a model itself. It answers with the text of the file that tells its folder from others."""
    asked = []

    def generate(model: LocalModel, requests: list[Request], sampling: Sampling, keys: list[str]) -> list[Reply]:
        folder = Path(model._settings.transformers)
        asked.extend(request.user for request in requests)
        return [Reply(next(folder.iterdir()).read_text(), "stop", 1, 1) for _ in requests]

    monkeypatch.setattr(LocalModel, "_generate", generate)
    return asked


def ask(tmp_path: Path, folder: Path, **changes) -> set[str]:
    settings = Settings("one", "smollm2", transformers=str(folder), **changes)
    with reached(settings, tmp_path / "answers", tmp_path / "server.log") as model:
        return {outcome.text for outcome in model.ask(PROMPTS)}


@pytest.mark.parametrize("file", ["manifest.json", "config.json"])
def test_another_model_of_the_same_name_gives_its_own_answers(tmp_path, generated, file) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for revision in ("old", "new"):
        (folder / file).write_text(json.dumps({"revision": revision}))
        assert revision in ask(tmp_path, folder).pop()
    assert len(generated) == 6


def test_the_same_model_in_another_folder_is_asked_nothing(tmp_path, generated) -> None:
    for folder in (tmp_path / "here", tmp_path / "there"):
        folder.mkdir()
        (folder / "manifest.json").write_text("{}")
        ask(tmp_path, folder)
    assert len(generated) == 3


def test_on_a_signal_it_leaves_with_what_was_answered(tmp_path, monkeypatch) -> None:
    def generate(model: LocalModel, requests: list[Request], sampling: Sampling, keys: list[str]) -> list[Reply]:
        if requests == PROMPTS[2:]:
            signal.raise_signal(signal.SIGUSR2)
        return [Reply("yes", "stop", 1, 1) for _ in requests]

    monkeypatch.setattr(LocalModel, "_generate", generate)
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR2)]
    with pytest.raises(SystemExit) as left:
        ask(tmp_path, tmp_path, concurrency=2)
    assert left.value.code == 75
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR2)] == before
    with AnswerCache(tmp_path / "answers" / "one.sqlite") as cache:
        assert cache.totals().replies == 2


def test_code_that_a_model_brings_is_not_run_nor_asked_for(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("builtins.input", lambda _: pytest.fail("transformers asks whether to run code"))
    (tmp_path / "model").mkdir()
    said = {"model_type": "evil", "auto_map": {"AutoConfig": "modeling.C", "AutoModelForCausalLM": "modeling.M"}}
    (tmp_path / "model/config.json").write_text(json.dumps(said))
    (tmp_path / "model/tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": ["modeling.T", null]}}')
    with pytest.raises(UserError, match=r"no model loads from .*: it needs code of its own, which is not run"):
        ask(tmp_path, tmp_path / "model")
