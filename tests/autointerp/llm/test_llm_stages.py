"""Explaining and scoring by a language model, end to end, against a server on loopback that answers by a rule."""

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest
from autointerp_world import World, windows_spec
from loopback import Loopback, completion, say, send, served

from bsc.autointerp.explain import explain
from bsc.autointerp.prompts import digests
from bsc.autointerp.score import score
from bsc.errors import UserError
from bsc.stages import ExplainSpec, ScoreSpec

LATENTS = 6
KEY = "sk-not-to-be-seen-42"
_EXCERPT = re.compile(r"^Excerpt \d+: (.*)$", re.MULTILINE)


def options(**changes) -> dict:
    values = {
        "kind": "llm",
        "llm": "one",
        "model": "m",
        "temperature": 0.0,
        "explanation_tokens": 50,
        "answer_tokens": 20,
        "structured": False,
        "logprobs": False,
        "show_activations": False,
        "prompts": digests(),
    }
    return {**values, **changes}


def settings(server: Loopback, **changes) -> str:
    values = {"model": "m", "endpoint": server.endpoint, "concurrency": 4, "timeout": 10, "key": "SOME_KEY"}
    return json.dumps({"one": {**values, **changes}})


def specs(scoring: dict | None = None, **changes) -> tuple[ExplainSpec, ScoreSpec]:
    held, asked = windows_spec(), options(**changes)
    judged = {"windows": held, "scorers": ["detection", "fuzzing"], "marks": "fair", "windows_a_prompt": 5, "shuffled": True}
    judged = {**judged, "resamples": 100, **(scoring or {})}
    return ExplainSpec(windows=held, explainer=asked), ScoreSpec(**judged, explainer=asked)


def run(world: World, llms: str, scoring: dict | None = None, **changes) -> dict:
    first, second = specs(scoring, **changes)
    root = world.root
    explain(first, root / "latents", root / "tokens", root / "model", root / "explanations", llms, root / "answers")
    inputs = root / "latents", root / "explanations", root / "tokens", root / "scores"
    score(second, *inputs, model=root / "model", llms=llms, answers=root / "answers")
    return json.loads((root / "scores" / "summary.json").read_text())


def by_rule(said: str) -> str:
    """What a model that understands would say: the most marked token explains; excerpts fit that hold (or mark) it."""
    excerpts = _EXCERPT.findall(said)
    if not said.startswith("Description:"):
        marked = Counter(re.findall(r"<<(w\d+)", said))
        return f"[EXPLANATION]: the token {marked.most_common(1)[0][0]}"
    word = re.search(r"the token (w\d+)", said)[1]
    marked = any("<<" in excerpt for excerpt in excerpts)
    kept = [" ".join(re.findall(r"<<(.*?)>>", excerpt)) if marked else excerpt for excerpt in excerpts]
    return str([int(word in re.findall(r"w\d+", text)) for text in kept])


def rule(server, body, attempt, handler) -> None:
    say(handler, by_rule(body["messages"][-1]["content"]))


@pytest.fixture
def planted(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """Latents that fire on one token each."""
    monkeypatch.setenv("SOME_KEY", KEY)
    world.cache([lambda tokens, token=token: tokens == token for token in range(LATENTS)])
    return world


@pytest.fixture
def many(planted: World) -> World:
    """Twelve of them."""
    planted.cache([lambda tokens, token=token: tokens == token for token in range(12)])
    return planted


def test_explanations_and_scores_of_a_model_that_understands(planted) -> None:
    with served(rule) as server:
        summary = run(planted, settings(server))
        table = pd.read_parquet(planted.root / "explanations" / "explanations.parquet")
        assert table["explanation"].tolist() == [f"the token w{token}" for token in range(LATENTS)]
        for scorer in ("detection", "fuzzing"):
            assert summary["scorers"][scorer]["none"]["unweighted"]["value"] == 1
            assert summary["scorers"][scorer]["shuffled"]["unweighted"]["value"] < 0.6
        prompts = LATENTS * 2 * 2 * 8
        assert summary["replies"] == {"read": prompts, "prompt_tokens": 100 * prompts, "completion_tokens": 10 * prompts}
        replies = pd.read_parquet(planted.root / "scores" / "replies.parquet")
        assert len(replies) == prompts
        assert set(replies["status"]) == {"read"}
        asked = sum(server.asked.values())
        assert asked == LATENTS + prompts
        run(planted, settings(server))
        assert sum(server.asked.values()) == asked


def test_a_changed_metric_sends_nothing_and_a_server_that_is_gone_is_not_missed(planted) -> None:
    with served(rule) as server:
        reached = settings(server)
        first = run(planted, reached)["scorers"]["fuzzing"]
    second = run(planted, reached, {"resamples": 200, "shuffled": False})["scorers"]["fuzzing"]
    assert second == {"none": first["none"]}


def test_structured_output_is_asked_for_and_read(planted) -> None:
    def structured(server, body, attempt, handler) -> None:
        said = by_rule(body["messages"][-1]["content"])
        if "response_format" in body:
            schema = body["response_format"]["json_schema"]["schema"]["properties"]["answers"]
            assert schema["minItems"] == schema["maxItems"] == len(json.loads(said))
            said = json.dumps({"answers": json.loads(said)})
        say(handler, said)

    with served(structured) as server:
        summary = run(planted, settings(server), structured=True)
        assert summary["scorers"]["fuzzing"]["none"]["unweighted"]["value"] == 1
        assert sum("response_format" in body for body in server.bodies) == len(server.bodies) - LATENTS


def test_answers_that_cannot_be_read_count_as_wrong_and_failures_are_told_apart(planted, capsys) -> None:
    def answer(server, body, attempt, handler) -> None:
        said = body["messages"][-1]["content"]
        if "the token w0\n" in said:
            say(handler, "I think that most of them fit quite well.")
        elif "the token w1\n" in said:
            say(handler, "[1, 0, 1]")
        elif "the token w2\n" in said:
            say(handler, "[1, 0, 1, 1, 0, 0, 1]")
        elif "the token w3\n" in said:
            say(handler, '{"answers": [1, 0,', finish="length")
        elif "the token w4\n" in said and "<<" in said and len(said) % 3 == 0:
            send(handler, 400, "refused")
        else:
            rule(server, body, attempt, handler)

    with served(answer) as server:
        run(planted, settings(server))
    scores = pd.read_parquet(planted.root / "scores" / "scores.parquet")
    own = scores[scores["control"] == "none"].set_index(["scorer", "latent"])
    for scorer in ("detection", "fuzzing"):
        for latent in range(4):
            row = own.loc[scorer, latent]
            assert (row["unparsed"], row["f1"], row["false_negative"], row["false_positive"]) == (40, 0, 20, 20)
        assert own.loc[scorer, 5]["f1"] == 1
    answers = pd.read_parquet(planted.root / "scores" / "answers.parquet")
    assert answers["answer"].isna().sum() == scores["unparsed"].sum()
    replies = pd.read_parquet(planted.root / "scores" / "replies.parquet")
    failed = replies[replies["status"] == "failed"]
    assert set(failed["reply"]) == {"HTTP 400: refused"}
    assert own.loc["fuzzing", 4]["unparsed"] == 5 * len(failed.query("latent == 4 and control == 'none'"))
    summary = json.loads((planted.root / "scores" / "summary.json").read_text())
    counts = summary["replies"]
    for scorer in ("detection", "fuzzing"):
        share = own.loc[scorer]["unparsed"].sum() / (LATENTS * 40)
        assert summary["scorers"][scorer]["none"]["unparsed_share"] == pytest.approx(share)
    assert summary["unexplained"] == 0
    assert counts["failed"] == len(failed)
    assert counts["unparsed"] == (replies["status"] == "unparsed").sum() == 4 * 2 * 2 * 8
    said = capsys.readouterr().err
    assert f"/explanations: 0 failed, 0 unparsed of {LATENTS} replies\n" in said
    assert f"/scores: {len(failed)} failed, {counts['unparsed']} unparsed of {LATENTS * 2 * 2 * 8} replies\n" in said


def test_a_latent_whose_explanation_failed_is_scored_as_wrong_and_costs_nothing(planted) -> None:
    def answer(server, body, attempt, handler) -> None:
        said = by_rule(body["messages"][-1]["content"])
        if said.endswith("the token w0"):
            send(handler, 400, "refused")
        elif said.endswith("the token w1"):
            say(handler, "[EXPLANATION]:  \n ")
        else:
            say(handler, said)

    with served(answer) as server:
        summary = run(planted, settings(server))
        asked = sum(server.asked.values())
    assert summary["unexplained"] == 2
    assert summary["scorers"]["detection"]["none"]["unparsed_share"] == pytest.approx(2 / LATENTS)
    replies = pd.read_parquet(planted.root / "explanations" / "replies.parquet")
    assert replies["status"].tolist() == ["failed", "unparsed", *["read"] * 4]
    scores = pd.read_parquet(planted.root / "scores" / "scores.parquet")
    own = scores[(scores["control"] == "none") & (scores["scorer"] == "fuzzing")].set_index("latent")
    assert own["f1"].tolist() == [0, 0, 1, 1, 1, 1]
    assert own["unparsed"].tolist() == [40, 40, 0, 0, 0, 0]
    assert asked == LATENTS + 4 * 2 * 2 * 8


def test_a_model_whose_explanations_are_cut_short_stops_the_stage_until_it_may_say_more(many) -> None:
    def thinks_first(server, body, attempt, handler) -> None:
        if body["max_tokens"] > 1000:
            rule(server, body, attempt, handler)
        else:
            whole = json.loads(completion("", finish="length"))
            whole["choices"][0]["message"] = {"role": "assistant", "content": None, "reasoning_content": "Okay, so the user"}
            send(handler, 200, json.dumps(whole))

    with served(thinks_first) as server:
        for _ in range(2):  # the second time all is kept
            with pytest.raises(UserError, match=r"none of 12 prompts .* the first ended by `length`: \(empty\)") as caught:
                run(many, settings(server))
            assert sum(server.asked.values()) == 12
        assert caught.value.where == "llms.one"
        assert "`explanation_tokens`" in caught.value.fix
        assert not (many.root / "explanations" / "manifest.json").exists()
        summary = run(many, settings(server), explanation_tokens=2000, answer_tokens=2000)
        assert sum(server.asked.values()) == 2 * 12 + 12 * 2 * 2 * 8
    assert summary["unexplained"] == 0
    assert summary["scorers"]["fuzzing"]["none"]["unweighted"]["value"] == 1
    assert summary["scorers"]["fuzzing"]["none"]["unparsed_share"] == 0
    replies = pd.read_parquet(many.root / "explanations" / "replies.parquet")
    assert set(replies["finish"]) == {"stop"}


def test_a_model_that_chats_stops_scoring_and_its_reply_is_safe_to_show(planted) -> None:
    def chats(server, body, attempt, handler) -> None:
        said = body["messages"][-1]["content"]
        say(handler, "Sure!\n\x1b[31mExcerpts 1 and 3 fit." if said.startswith("Description:") else by_rule(said))

    with served(chats) as server, pytest.raises(UserError, match=r"the first ended by `stop`: Sure! .*Excerpts") as caught:
        run(planted, settings(server))
    assert "`answer_tokens`" in caught.value.fix
    assert "\x1b" not in str(caught.value)
    assert not (planted.root / "scores" / "manifest.json").exists()


def test_few_replies_may_all_be_unreadable(planted) -> None:
    with served(lambda server, body, attempt, handler: say(handler, "")) as server:
        summary = run(planted, settings(server))
    assert summary["unexplained"] == LATENTS
    assert summary["scorers"]["fuzzing"]["none"]["unparsed_share"] == 1


def test_probabilities_give_an_auroc(planted) -> None:
    def answer(server, body, attempt, handler) -> None:
        said = by_rule(body["messages"][-1]["content"])
        response = json.loads(completion(said))
        if body.get("logprobs"):
            positions = []
            for character in said:
                other = {"0": "1", "1": "0"}.get(character)
                top = [{"token": character, "logprob": -0.1}, *([{"token": other, "logprob": -2.4}] if other else [])]
                positions.append({**top[0], "top_logprobs": top})
            response["choices"][0]["logprobs"] = {"content": positions}
        send(handler, 200, json.dumps(response))

    with served(answer) as server:
        run(planted, settings(server), logprobs=True)
    scores = pd.read_parquet(planted.root / "scores" / "scores.parquet")
    own = scores[scores["control"] == "none"]
    assert (own["auroc"] == 1).all()


def test_a_changed_prompt_is_noticed(planted) -> None:
    with served(rule) as server, pytest.raises(UserError, match="the prompt is not the one"):
        run(planted, settings(server), prompts={**digests(), "fuzzing": "0" * 64})


def command(world: World, llms: str, stage: str) -> list[str]:
    first, second = specs()
    spec = (first if stage == "explain" else second).json_text
    folders = {name: str(world.root / name) for name in ("latents", "tokens", "model", "answers", "explanations")}
    inputs = ["latents", "tokens", "model", "answers", *(["explanations"] if stage == "score" else [])]
    flags = [part for name in inputs for part in (f"--{name}", folders[name])]
    output = world.root / ("explanations" if stage == "explain" else "scores")
    log = world.root / f"{stage}.log"
    return [
        sys.executable,
        "-m",
        "bsc",
        stage,
        "--spec",
        spec,
        *flags,
        "--llms",
        llms,
        "--output",
        str(output),
        "--log",
        str(log),
    ]


def test_killed_in_mid_scoring_it_asks_nothing_twice(planted) -> None:
    def slow(server, body, attempt, handler) -> None:
        time.sleep(0.03)
        rule(server, body, attempt, handler)

    with served(slow) as server:
        reached = settings(server)
        subprocess.run(command(planted, reached, "explain"), check=True, capture_output=True)
        running = subprocess.Popen(command(planted, reached, "score"), stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 30
        while sum(server.asked.values()) < LATENTS + 60:
            assert running.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.005)
        running.send_signal(signal.SIGKILL)
        running.wait()
        time.sleep(0.2)  # what was under way is answered, to nobody
        at_kill = server.asked.copy()
        assert not (planted.root / "scores" / "manifest.json").exists()
        assert not list((planted.root / "scores").glob("*.parquet"))
        finished = subprocess.run(command(planted, reached, "score"), capture_output=True, text=True)
        assert finished.returncode == 0, finished.stderr
        twice = [prompt for prompt, count in server.asked.items() if count > 1]
        # Only what was not yet on the disk when it died: as many as are sent at a time, and as many on their way there.
        assert len(twice) <= 2 * 4
        assert set(server.asked.values()) <= {1, 2}
        assert sum(at_kill.values()) >= LATENTS + 60
        assert sum(server.asked.values()) - len(twice) == LATENTS * (1 + 2 * 2 * 8)
    summary = json.loads((planted.root / "scores" / "summary.json").read_text())
    assert summary["scorers"]["fuzzing"]["none"]["unweighted"]["value"] == 1


@pytest.mark.slow
def test_a_server_that_dies_in_the_middle_and_comes_back_is_asked_for_the_rest(planted) -> None:
    answers: Counter[str] = Counter()
    died = threading.Event()

    def answer(server, body, attempt, handler) -> None:
        answers[body["messages"][-1]["content"]] += 1
        rule(server, body, attempt, handler)

    def until_it_dies(server, body, attempt, handler) -> None:
        if answers.total() < LATENTS + 60:
            answer(server, body, attempt, handler)
        else:
            handler.close_connection = True
            died.set()

    with ThreadPoolExecutor() as pool:
        with served(until_it_dies) as first:
            running = pool.submit(run, planted, settings(first, attempts=10))
            assert died.wait(50)
        time.sleep(1)  # connections are refused
        assert not running.done()
        with served(answer, first.server_address[1]) as back:
            summary = running.result(50)
    assert sum(back.asked.values()) >= 100
    assert set(answers.values()) == {1}
    assert answers.total() == LATENTS * (1 + 2 * 2 * 8)
    assert set(summary["replies"]) == {"read", "prompt_tokens", "completion_tokens"}
    assert summary["scorers"]["fuzzing"]["none"]["unweighted"]["value"] == 1


@pytest.mark.slow
def test_prompts_whose_every_attempt_failed_are_counted_and_the_job_ends_well(planted) -> None:
    def answer(server, body, attempt, handler) -> None:
        if "the token w2\n" in body["messages"][-1]["content"]:
            send(handler, 503, "overloaded")
        else:
            rule(server, body, attempt, handler)

    with served(answer) as server:
        reached = settings(server, attempts=2)
        for stage in ("explain", "score"):
            subprocess.run(command(planted, reached, stage), check=True, capture_output=True)
        failed = [prompt for prompt in server.asked if "the token w2\n" in prompt]
        assert len(failed) == 2 * 2 * 8
        assert {server.asked[prompt] for prompt in failed} == {2}
    replies = pd.read_parquet(planted.root / "scores" / "replies.parquet").query("status != 'read'")
    assert set(replies["status"]) == {"failed"}
    assert set(replies["reply"]) == {"HTTP 503: overloaded (2 attempts)"}
    assert len(replies) == len(failed)
    scores = pd.read_parquet(planted.root / "scores" / "scores.parquet").query("control == 'none'")
    assert scores.set_index("latent").loc[2, "f1"].tolist() == [0, 0]
    assert (scores.query("latent != 2")["f1"] == 1).all()
    assert f": {len(failed)} failed, 0 unparsed of {LATENTS * 2 * 2 * 8} replies" in (planted.root / "score.log").read_text()


@pytest.mark.slow
def test_two_processes_share_a_cache(planted) -> None:
    with served(rule) as server:
        reached = settings(server)
        subprocess.run(command(planted, reached, "explain"), check=True, capture_output=True)
        commands = [command(planted, reached, "score") for _ in range(2)]
        commands[1][commands[1].index(str(planted.root / "scores"))] = str(planted.root / "others")
        running = [subprocess.Popen(line, stderr=subprocess.PIPE, text=True) for line in commands]
        for process in running:
            assert process.wait() == 0, process.stderr.read()
            process.stderr.close()
        for name in ("scores.parquet", "answers.parquet", "summary.json", "replies.parquet"):
            assert (planted.root / "scores" / name).read_bytes() == (planted.root / "others" / name).read_bytes()
        before = sum(server.asked.values())
        subprocess.run(commands[0], check=True, capture_output=True)
        assert sum(server.asked.values()) == before


def test_the_key_is_in_no_output_no_log_and_no_message(planted) -> None:
    def answer(server, body, attempt, handler) -> None:
        if len(server.bodies) > LATENTS + 20:
            send(handler, 401, f"wrong key {handler.headers['Authorization']}")
        else:
            rule(server, body, attempt, handler)

    with served(answer) as server:
        reached = settings(server)
        assert KEY not in reached
        finished = [subprocess.run(command(planted, reached, stage), capture_output=True) for stage in ("explain", "score")]
        assert set(server.keys) == {f"Bearer {KEY}"}
    assert [one.returncode for one in finished] == [0, 1]
    assert b"HTTP 401" in finished[1].stderr
    assert b"Traceback" not in finished[1].stderr
    printed = [part for one in finished for part in (one.stdout, one.stderr)]
    files = [path.read_bytes() for path in planted.root.rglob("*") if path.is_file()]
    assert len(files) > 8
    assert not any(KEY.encode() in content for content in [*printed, *files])


def test_without_its_key_a_stage_says_which_variable(planted) -> None:
    with served(rule) as server:
        environment = {name: value for name, value in os.environ.items() if name != "SOME_KEY"}
        line = command(planted, settings(server), "explain")
        finished = subprocess.run(line, capture_output=True, text=True, env=environment)
    assert finished.returncode == 1
    assert "`SOME_KEY` is not set" in finished.stderr


def test_no_torch_is_imported_for_a_server() -> None:
    code = "import sys, bsc.autointerp.explainers.llm, bsc.autointerp.llm.http; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"


def children(process: int) -> list[int]:
    """The processes that one started."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == process and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR2])
@pytest.mark.parametrize("ready", [False, True])
def test_on_a_signal_the_server_that_the_job_started_is_stopped(planted, number, ready) -> None:
    program = f"{sys.executable} {Path(__file__).parent / 'loopback.py'} {{port}}" if ready else "sh -c 'sleep 60 # {port}'"
    serve = {"command": program, "health": "/health", "wait_seconds": 50}
    llms = json.dumps({"one": {"model": "m", "serve": serve, "concurrency": 1}})
    running = subprocess.Popen(command(planted, llms, "explain"), stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 50
    answers = planted.root / "answers" / "one.sqlite"
    while not (started := children(running.pid)) or (ready and not answered(answers)):
        assert time.monotonic() < deadline
        assert running.poll() is None
        time.sleep(0.02)
    running.send_signal(number)
    assert running.wait(30) == 75, running.stderr.read()
    running.stderr.close()
    assert not any(Path(f"/proc/{one}").exists() for one in started)
    assert not (planted.root / "explanations" / "manifest.json").exists()


SAVES_LATE = (
    "import sys; from bsc.autointerp.llm import answers; answers._GATHER_SECONDS = 60; "
    "from bsc.cli import main; sys.exit(main(sys.argv[1:]))"
)
"""`bsc`, but that what arrived is not on the disk for a minute."""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR2])
def test_on_a_signal_what_an_endpoint_answered_is_kept(planted, number) -> None:
    done = threading.Event()

    def answer(server, body, attempt, handler) -> None:
        if by_rule(body["messages"][-1]["content"]).endswith(("the token w1", "the token w4")):
            done.wait(30)
        rule(server, body, attempt, handler)

    with served(answer) as server:
        line = command(planted, settings(server, concurrency=LATENTS), "explain")
        line[1:3] = ["-c", SAVES_LATE]
        running = subprocess.Popen(line, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 50
        while len(server.bodies) < LATENTS or server.under_way > 2:
            assert time.monotonic() < deadline
            assert running.poll() is None
            time.sleep(0.02)
        time.sleep(0.5)  # on their way from the server
        assert answered(planted.root / "answers" / "one.sqlite") == 0
        running.send_signal(number)
        assert running.wait(30) == 75, running.stderr.read()
        running.stderr.close()
        done.set()
    assert answered(planted.root / "answers" / "one.sqlite") == LATENTS - 2


TOLD_AS_A_THREAD_STARTS = """
import signal, sys, threading
from bsc.cli import main
start = threading.Thread.start
def started(thread):
    start(thread)
    if thread.name.startswith("asyncio"):
        signal.raise_signal(signal.SIGTERM)
threading.Thread.start = started
sys.exit(main(sys.argv[1:]))
"""
"""`bsc`, told to stop in the moment in which the thread that writes answers was started, and nothing knows of it yet."""


def test_a_signal_at_a_bad_moment_ends_the_stage_too(planted) -> None:
    with served(rule) as server:
        line = command(planted, settings(server, concurrency=1), "explain")
        line[1:3] = ["-c", TOLD_AS_A_THREAD_STARTS]
        left = subprocess.run(line, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert left.returncode == 75, left.stderr


def answered(path: Path) -> int:
    """How many answers a cache has, while another process writes it."""
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        return int(connection.execute("SELECT COUNT(*) FROM answers").fetchone()[0])
    except sqlite3.OperationalError:
        return 0
    finally:
        connection.close()
