"""A real language model: SmolLM2-135M-Instruct behind transformers' own server, which the job starts, and in the process.

It is too small to explain well: what is tested is that every prompt gets there and every reply is read or counted.
"""

import itertools
import json
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from autointerp_world import World, windows_spec
from loopback import completion, cut, send, served
from smollm2 import Fetched
from test_llm_stages import options

from bsc.autointerp.explain import explain
from bsc.autointerp.llm.leaving import Leaving
from bsc.autointerp.llm.messages import Request, Sampling
from bsc.autointerp.llm.reach import reached
from bsc.autointerp.llm.serve import Server
from bsc.autointerp.llm.settings import Settings
from bsc.autointerp.score import score
from bsc.device import has_fast_bfloat16
from bsc.errors import UserError
from bsc.stages import ExplainSpec, ScoreSpec

pytestmark = pytest.mark.llm

DTYPE = "bfloat16" if has_fast_bfloat16(torch.device("cpu")) else "float32"  # elsewhere it is slow, or takes minutes
COMMAND = f"{Path(sys.executable).parent / 'transformers'} serve --device cpu --dtype {DTYPE} --port {{port}} {{model}}"
PROMPTS = 2 * 3
"""A latent: two scorers, fifteen windows, five to a prompt."""


@pytest.fixture
def smollm2(fetched: Fetched) -> Path:
    return fetched.folder


@pytest.fixture
def one(world: World) -> World:
    """With one latent, which fires on one token: a stage that asks of more, and can read no reply, fails."""
    world.cache([lambda tokens: tokens == 0])
    return world


def specs(model: str, **changes) -> tuple[ExplainSpec, ScoreSpec]:
    held = windows_spec(window=8, explanation_windows=10, test_firing=10, test_silent=5)
    asked = options(model=model, explanation_tokens=12, answer_tokens=20, **changes)
    judged = {"windows": held, "scorers": ["detection", "fuzzing"], "marks": "fair", "windows_a_prompt": 5, "shuffled": False}
    return ExplainSpec(windows=held, explainer=asked), ScoreSpec(**judged, explainer=asked, resamples=100)


def run(world: World, settings: dict, **changes) -> dict:
    """Explain and score; returns the summary."""
    root, llms = world.root, json.dumps({"one": settings})
    first, second = specs(settings["model"], **changes)
    explain(first, root / "latents", root / "tokens", root / "model", root / "explanations", llms, root / "answers")
    inputs = root / "latents", root / "explanations", root / "tokens", root / "scores"
    score(second, *inputs, model=root / "model", llms=llms, answers=root / "answers")
    return json.loads((root / "scores" / "summary.json").read_text())


def server(folder: Path, **changes) -> dict:
    serve = {"command": COMMAND, "health": "/health", "wait_seconds": 120, **changes}
    return {"model": str(folder), "serve": serve, "concurrency": 1, "timeout": 120}


def listeners(folder: Path) -> list[int]:
    """Processes that serve the model of a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if str(folder).encode() in line and b"serve" in line:
            found.append(int(path.parent.name))
    return found


def whole(world: World, summary: dict) -> None:
    """Every latent is explained and scored, and every prompt is accounted for."""
    explanations = pd.read_parquet(world.root / "explanations" / "replies.parquet")
    latents = len(explanations)
    assert set(explanations["status"]) == {"read"}
    table = pd.read_parquet(world.root / "explanations" / "explanations.parquet")
    assert (table["explanation"].str.len() > 3).all()
    scores = pd.read_parquet(world.root / "scores" / "scores.parquet")
    assert len(scores) == 2 * latents
    counts = summary["replies"]
    assert sum(counts.get(status, 0) for status in ("read", "unparsed", "failed")) == latents * PROMPTS
    assert counts.get("failed", 0) == 0
    assert counts["prompt_tokens"] > 100 * latents * PROMPTS
    replies = pd.read_parquet(world.root / "scores" / "replies.parquet")
    answers = pd.read_parquet(world.root / "scores" / "answers.parquet")
    assert answers["answer"].isna().sum() == 5 * (replies["status"] == "unparsed").sum()


def test_a_server_that_the_job_starts(one: World, smollm2: Path) -> None:
    summaries = {}
    for structured in (False, True):
        summaries[structured] = run(one, server(smollm2), structured=structured)
        whole(one, summaries[structured])
        assert started(one) == (["explanations", "scores"] if not structured else ["scores"])  # the explanation was kept
        assert not listeners(smollm2)
    # All is in the cache now: no server is started, let alone asked.
    for structured, summary in summaries.items():
        assert run(one, server(smollm2, command="false {port}"), structured=structured) == summary
    assert started(one) == []


def test_through_a_proxy_that_injects_faults(one: World, smollm2: Path) -> None:
    """Every prompt meets one on its way to the real server: it is asked once more, and its reply is read or counted."""
    faults = itertools.cycle(
        [
            lambda handler: send(handler, 429, "slow down", Retry_After="0.1"),
            lambda handler: send(handler, 500, "oh no"),
            cut,
            lambda handler: send(handler, 200, completion("half")[:40]),
        ]
    )
    settings = Settings("one", str(smollm2), serve=server(smollm2)["serve"])
    with Server(settings, one.root / "real.log", Leaving()) as real:
        url = f"{real.endpoint()}/chat/completions"

        def answer(proxy, body, attempt, handler) -> None:
            if attempt == 0:
                next(faults)(handler)
                return
            passed = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(passed, timeout=120) as reply:
                send(handler, 200, reply.read().decode())

        with served(answer) as proxy:
            reached = {"model": str(smollm2), "endpoint": proxy.endpoint, "concurrency": 1, "timeout": 240, "attempts": 4}
            whole(one, run(one, reached))
            assert len(proxy.asked) == 1 + PROMPTS
            assert set(proxy.asked.values()) == {2}


def started(world: World) -> list[str]:
    """The stages that started a server since this was asked last."""
    logs = [world.root / stage / "server.log" for stage in ("explanations", "scores")]
    found = [log for log in logs if log.exists()]
    for log in found:
        assert log.read_text().startswith("$ ")
        log.unlink()
    return [log.parent.name for log in found]


def test_on_a_signal_the_server_is_stopped_too(one: World, smollm2: Path) -> None:
    root, spec = one.root, specs(str(smollm2))[0]
    folders = [part for name in ("latents", "tokens", "model", "answers") for part in (f"--{name}", str(root / name))]
    line = [sys.executable, "-m", "bsc", "explain", "--spec", spec.json_text, *folders, "--output", str(root / "explanations")]
    running = subprocess.Popen([*line, "--llms", json.dumps({"one": server(smollm2)})], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not listeners(smollm2):
        assert time.monotonic() < deadline
        assert running.poll() is None
        time.sleep(0.05)
    time.sleep(1)
    running.send_signal(signal.SIGTERM)
    assert running.wait(40) == 75
    assert not listeners(smollm2)


def test_killed_outright_the_job_takes_its_server_along(one: World, smollm2: Path) -> None:
    root, spec = one.root, specs(str(smollm2))[0]
    folders = [part for name in ("latents", "tokens", "model", "answers") for part in (f"--{name}", str(root / name))]
    line = [sys.executable, "-m", "bsc", "explain", "--spec", spec.json_text, *folders, "--output", str(root / "explanations")]
    running = subprocess.Popen([*line, "--llms", json.dumps({"one": server(smollm2)})], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not listeners(smollm2):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    running.kill()
    running.wait()
    while listeners(smollm2):
        assert time.monotonic() < deadline + 30
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("command", "message"),
    [("false {port}", "ended with exit code 1"), ("no-such-server {port}", "does not start"), ("sleep 60 {port}", "not ready")],
)
def test_a_server_that_does_not_come_up_is_named_with_its_log(one: World, smollm2: Path, command: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        run(one, server(smollm2, command=command, wait_seconds=1))
    assert "server.log" in caught.value.fix


def test_in_the_process_with_probabilities(one: World, smollm2: Path) -> None:
    settings = {"model": "smollm2", "transformers": str(smollm2), "concurrency": 4}
    summary = run(one, settings, logprobs=True)
    whole(one, summary)
    # All is in the cache now: no weights are loaded, of which a copy without them has none.
    bare = one.root / "bare"
    bare.mkdir()
    shutil.copy(smollm2 / "manifest.json", bare)
    assert run(one, {**settings, "transformers": str(bare)}, logprobs=True) == summary


def test_log_probabilities_are_those_of_the_model(smollm2: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    request = Request("You are brief.", "Say a colour.", Sampling(0.0, 4, logprobs=True))
    settings = Settings("one", "smollm2", transformers=str(smollm2))
    with reached(settings, tmp_path, tmp_path / "server.log") as model:
        (reply,) = model.ask([request])
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    chat = [{"role": "system", "content": request.system}, {"role": "user", "content": request.user}]
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)["input_ids"]
    reference = AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float64)
    text = ""
    for position in reply.logprobs:
        logprobs = torch.log_softmax(reference(prompt).logits[0, -1], 0)
        token = int(logprobs.argmax())
        assert position[0][1] == pytest.approx(float(logprobs[token].detach()), abs=0.15)  # bfloat16 where it is fast
        text += tokenizer.decode([token])
        prompt = torch.cat([prompt, torch.tensor([[token]])], 1)
    assert reply.text == text
    assert np.isfinite([value for position in reply.logprobs for _, value in position]).all()


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    settings = Settings("one", "m", transformers=str(tmp_path / "nowhere"))
    with reached(settings, tmp_path, tmp_path / "log") as model, pytest.raises(UserError, match="no model loads"):
        list(model.ask([Request("a", "b", Sampling(0.0, 4))]))
