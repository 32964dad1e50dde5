"""A model in the process: whose answers the cache gives it, how its prompts are put, and what its folder may change."""

import json
import shutil
import signal
from pathlib import Path

import pytest
from autointerp_world import World
from test_llm_stages import run
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from bsc.autointerp.llm.answers import AnswerCache
from bsc.autointerp.llm.local import LocalModel
from bsc.autointerp.llm.messages import Failure, Reply, Request, Sampling
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


WORDS = "{% for message in messages %}{{ message.content }} {% endfor %}"
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + WORDS
DROPS_SYSTEM = "{% for message in messages if message.role == 'user' %}{{ message.content }} {% endfor %}"


@pytest.fixture
def speaks(tiny_model: Path, tmp_path: Path) -> Path:
    """The folder of the tiny model, with a tokenizer of words."""
    folder = tmp_path / "speaks"
    shutil.copytree(tiny_model, folder)
    backend = Tokenizer(models.WordLevel({f"w{token}": token for token in range(40)}, unk_token="w0"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="w1", eos_token="w2", chat_template=WORDS)
    tokenizer.save_pretrained(folder)
    return folder


def told(folder: Path, answers: Path, *requests: Request) -> list:
    with reached(Settings("one", "tiny", transformers=str(folder), concurrency=4), answers, answers / "log") as model:
        return list(model.ask(requests))


def with_template(folder: Path, template: str) -> Path:
    (folder / "chat_template.jinja").write_text(template)
    return folder


@pytest.mark.parametrize("template", [NO_SYSTEM, DROPS_SYSTEM])
def test_a_template_without_a_system_has_its_text_in_front_of_the_users(speaks, tmp_path, template) -> None:
    request = Request("w5 w6", "w7 w8 w9", Sampling(0.0, 8))
    (whole,) = told(with_template(speaks, WORDS), tmp_path / "whole", request)
    (put,) = told(with_template(speaks, template), tmp_path / "put", request)
    assert whole.prompt_tokens == 5
    assert put == whole


def test_a_template_that_takes_no_prompt_is_told(speaks, tmp_path) -> None:
    with_template(speaks, "{{ raise_exception('not today') }}")
    with pytest.raises(UserError, match=r"takes no prompt \(not today\)"):
        told(speaks, tmp_path / "answers", PROMPTS[0])


def test_a_prompt_beyond_the_context_is_refused_and_the_others_are_answered(speaks, tmp_path) -> None:
    short, long = (Request("w5", "w7 " * count, Sampling(0.0, 8)) for count in (3, 2048))
    first, refused, last = told(speaks, tmp_path / "answers", short, long, Request("w5", "w8", Sampling(0.0, 8)))
    reason = "the prompt has 2,049 tokens and the reply may have 8, and the model was made for 2,048"
    assert refused == Failure(reason, refused=True)
    assert (first.prompt_tokens, last.prompt_tokens) == (4, 2)
    with AnswerCache(tmp_path / "answers" / "one.sqlite") as cache:
        assert cache.totals().replies == 2
    assert isinstance(told(speaks, tmp_path / "answers", long)[0], Failure)


def test_a_stage_of_which_no_prompt_fits_fails(speaks, world: World) -> None:
    world.cache([lambda tokens, token=token: tokens == token for token in range(12)])
    llms = json.dumps({"one": {"model": "tiny", "transformers": str(speaks), "concurrency": 4}})
    with pytest.raises(UserError, match=r"none of 12 prompts .* the first failed: the prompt has"):
        run(world, llms, explanation_tokens=2000)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_penalties_of_the_folder_change_no_reply(speaks, tmp_path, temperature) -> None:
    texts = set()
    for number, changes in enumerate(({}, {"repetition_penalty": 5.0}, {"top_k": 1, "top_p": 0.1, "do_sample": True})):
        (speaks / "generation_config.json").write_text(json.dumps({"bos_token_id": 1, "eos_token_id": 2, **changes}))
        (reply,) = told(speaks, tmp_path / str(number), Request("w5", "w7 w8", Sampling(temperature, 12)))
        texts.add(reply.text)
    assert len(texts) == 1
