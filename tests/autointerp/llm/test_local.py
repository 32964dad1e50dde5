"""Whose answers the cache gives a model in the process: its own, and no other model's of the same name."""

import json
from pathlib import Path

import pytest

from bsc.autointerp.llm.local import LocalModel
from bsc.autointerp.llm.messages import Reply, Request, Sampling
from bsc.autointerp.llm.reach import reached
from bsc.autointerp.llm.settings import Settings

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


def ask(tmp_path: Path, folder: Path) -> set[str]:
    settings = Settings("one", "smollm2", transformers=str(folder))
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
