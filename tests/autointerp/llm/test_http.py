"""The client against a server on loopback that misbehaves: how often it asks, what it keeps, when it stops."""

import contextlib
import json
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from loopback import completion, cut, say, send, served

from bsc.autointerp.llm import answers, http
from bsc.autointerp.llm.answers import AnswerCache
from bsc.autointerp.llm.messages import Failure, Reply, Request, Sampling
from bsc.autointerp.llm.reach import reached
from bsc.autointerp.llm.settings import Settings
from bsc.errors import CorruptFile, UserError

KEY = "sk-secret-0123456789"


@pytest.fixture(autouse=True)
def quick_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same backoff in hundredths of a second."""
    monkeypatch.setattr(http, "_FIRST_PAUSE", 0.005)
    monkeypatch.setattr(http, "_LONGEST_BACKOFF", 0.05)


def prompts(count: int) -> list[Request]:
    return [Request("system", f"prompt {number}", Sampling(0.0, 10)) for number in range(count)]


def settings(server, **changes) -> Settings:
    values = {"name": "one", "model": "m", "endpoint": server.endpoint, "concurrency": 8, "timeout": 5, "attempts": 4}
    return Settings(**{**values, **changes})


def ask(server, tmp_path: Path, requests: list[Request], **changes) -> list:
    with reached(settings(server, **changes), tmp_path / "answers", tmp_path / "server.log") as model:
        return list(model.ask(requests))


def echo(server, body, attempt, handler) -> None:
    say(handler, body["messages"][-1]["content"].upper())


def once(fault):
    """A server that does `fault` at the first attempt at each prompt, and answers at the next."""

    def answer(server, body, attempt, handler) -> None:
        if attempt == 0:
            fault(handler)
        else:
            echo(server, body, attempt, handler)

    return answer


def test_replies_come_in_order_and_a_second_time_nothing_is_sent(tmp_path) -> None:
    with served(echo) as server:
        first = ask(server, tmp_path, prompts(100))
        assert [reply.text for reply in first] == [f"PROMPT {number}" for number in range(100)]
        assert set(server.asked.values()) == {1}
        assert ask(server, tmp_path, prompts(100)) == first
        assert sum(server.asked.values()) == 100


def test_no_more_are_under_way_than_allowed(tmp_path) -> None:
    def slow(server, body, attempt, handler) -> None:
        time.sleep(0.02)
        echo(server, body, attempt, handler)

    with served(slow) as server:
        ask(server, tmp_path, prompts(60), concurrency=6)
        assert server.most_under_way == 6


def test_a_prompt_that_stands_twice_is_sent_once(tmp_path) -> None:
    with served(echo) as server:
        replies = ask(server, tmp_path, prompts(5) * 3)
        assert len(replies) == 15
        assert set(server.asked.values()) == {1}


def in_the_choice(error: dict) -> str:
    """A completion with an error in it."""
    response = json.loads(completion(""))
    response["choices"][0]["error"] = error
    return json.dumps(response)


FAULTS = {
    "500": lambda handler: send(handler, 500, "oh no"),
    "429": lambda handler: send(handler, 429, "slow down", Retry_After="0"),
    "cut": cut,
    "truncated": lambda handler: send(handler, 200, completion("half")[:40]),
    "not a completion": lambda handler: send(handler, 200, '{"choices": []}'),
    "a provider's error": lambda handler: say(handler, "", finish="error"),
    "a provider's error in the choice": lambda handler: send(handler, 200, in_the_choice({"code": 502})),
    "slow": lambda handler: time.sleep(0.6),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_may_pass_is_tried_again_once(tmp_path, fault) -> None:
    with served(once(FAULTS[fault])) as server:
        replies = ask(server, tmp_path, prompts(12), timeout=0.5)
        assert [reply.text for reply in replies] == [f"PROMPT {number}" for number in range(12)]
        assert set(server.asked.values()) == {2}


def test_retry_after_is_honoured(tmp_path) -> None:
    with served(once(lambda handler: send(handler, 429, "", Retry_After="1"))) as server:
        ask(server, tmp_path, prompts(1))
        first, second = server.times
        assert 1.0 <= second - first < 3


def test_those_that_are_told_to_wait_do_not_come_back_at_once(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(http, "_FIRST_PAUSE", 1.0)
    monkeypatch.setattr(http, "_LONGEST_BACKOFF", 1.0)
    with served(once(lambda handler: send(handler, 429, "", Retry_After="0.1"))) as server:
        ask(server, tmp_path, prompts(8))
        assert max(server.times) - min(server.times[8:]) > 0.2


@pytest.mark.parametrize(("header", "least", "most"), [("7", 7, 7), ("", 0, 0), ("soon", 0, 0), ("99999", 300, 300)])
def test_retry_after_in_seconds(header, least, most) -> None:
    assert least <= http._seconds(header) <= most


def test_retry_after_as_a_date() -> None:
    from datetime import UTC, datetime, timedelta
    from email.utils import format_datetime

    assert 25 < http._seconds(format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)) <= 30
    assert http._seconds(format_datetime(datetime.now(UTC) - timedelta(seconds=30), usegmt=True)) == 0


def test_a_refused_prompt_is_a_failure_that_is_not_tried_again_and_not_kept(tmp_path) -> None:
    def answer(server, body, attempt, handler) -> None:
        if body["messages"][-1]["content"].endswith(" 3"):
            send(handler, 400, "too long")
        else:
            echo(server, body, attempt, handler)

    with served(answer) as server:
        replies = ask(server, tmp_path, prompts(6))
        assert [isinstance(reply, Failure) for reply in replies] == [False, False, False, True, False, False]
        assert "HTTP 400: too long" in replies[3].reason
        assert server.asked["prompt 3"] == 1
        with AnswerCache(tmp_path / "answers" / "one.sqlite") as cache:
            assert cache.totals() == (5, 5 * 14, 500, 50)


def test_the_breaker_stops_before_all_is_asked_and_what_was_answered_stays(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(answers, "_GATHER_SECONDS", 0.5)
    path = tmp_path / "answers" / "one.sqlite"
    sent = threading.Semaphore(0)

    def answer(server, body, attempt, handler) -> None:
        number = int(body["messages"][-1]["content"].split()[1])
        if number < 20:
            echo(server, body, attempt, handler)
            sent.release()
        elif number < 25:  # five fail once the twenty are answered, and the rest once those are kept
            wait_for(lambda: sent._value == 20)
            send(handler, 503, "down")
        else:
            wait_for(lambda: kept(path) == 20)
            send(handler, 503, "down")

    with served(answer) as server:
        with pytest.raises(UserError, match="10 requests in a row failed, the last one with: HTTP 503: down"):
            ask(server, tmp_path, prompts(500), attempts=2, concurrency=4)
        failed = [prompt for prompt in server.asked if int(prompt.split()[1]) >= 20]
        assert len(failed) <= 10 + 3  # an answer counts when it comes, not when it is on the disk
        server.answer = echo
        before = dict(server.asked)
        ask(server, tmp_path, prompts(20))
        assert dict(server.asked) == before


def wait_for(fact) -> None:
    """Wait, for some seconds at most, until it is so."""
    for _ in range(200):
        if fact():
            break
        time.sleep(0.02)
    time.sleep(0.05)


def kept(path: Path) -> int:
    """Replies in an answer cache that another connection has open."""
    connection = sqlite3.connect(path)
    try:
        return int(connection.execute("SELECT COUNT(*) FROM answers").fetchone()[0])
    finally:
        connection.close()


@pytest.mark.parametrize("status", [401, 402, 404])
def test_a_wrong_key_or_model_stops_at_once(tmp_path, status) -> None:
    with (
        served(lambda server, body, attempt, handler: send(handler, status, "no")) as server,
        pytest.raises(UserError, match=f"HTTP {status}"),
    ):
        ask(server, tmp_path, prompts(100), concurrency=2)
    assert sum(server.asked.values()) <= 4


def test_a_prompt_that_was_flagged_is_a_failure_and_a_key_that_may_do_nothing_opens_the_breaker(tmp_path) -> None:
    """Both are answered with 403."""

    def flag(server, body, attempt, handler) -> None:
        if body["messages"][-1]["content"].endswith(" 3"):
            send(handler, 403, "flagged")
        else:
            echo(server, body, attempt, handler)

    with served(flag) as server:
        replies = ask(server, tmp_path, prompts(6))
        assert [number for number, reply in enumerate(replies) if isinstance(reply, Failure)] == [3]
        assert server.asked["prompt 3"] == 1
        server.answer = lambda server, body, attempt, handler: send(handler, 403, "no")
        with pytest.raises(UserError, match="100 requests in a row were refused, the last one with: HTTP 403: no"):
            ask(server, tmp_path, prompts(500)[6:], concurrency=2)


def test_a_latent_whose_every_prompt_is_refused_stops_nothing(tmp_path) -> None:
    """Its explanation stands in all of them, one after another; so it is when they are asked again."""

    def answer(server, body, attempt, handler) -> None:
        if 10 <= int(body["messages"][-1]["content"].split()[1]) < 50:
            send(handler, 400, "flagged")
        else:
            echo(server, body, attempt, handler)

    with served(answer) as server:
        for _ in range(2):
            replies = ask(server, tmp_path, prompts(60))
            assert [isinstance(reply, Failure) for reply in replies] == [False] * 10 + [True] * 40 + [False] * 10


@pytest.mark.parametrize("count", [1, 30])
def test_a_stage_of_which_nothing_was_answered_does_not_end_well(tmp_path, count) -> None:
    with served(lambda server, body, attempt, handler: send(handler, 400, "what is `max_tokens`?")) as server:
        if count == 1:  # one latent that is refused is recorded
            assert [reply.refused for reply in ask(server, tmp_path, prompts(count))] == [True]
            return
        with pytest.raises(UserError, match="none of 30 requests was answered, the last one failed with: HTTP 400: what is"):
            ask(server, tmp_path, prompts(count))


def test_a_server_without_structured_output_is_told_at_once(tmp_path) -> None:
    told = '{"error": {"message": "Unknown field: response_format"}}'
    asked = [Request("system", f"prompt {number}", Sampling(0.0, 10), {"type": "object"}) for number in range(50)]
    with (
        served(lambda server, body, attempt, handler: send(handler, 400, told)) as server,
        pytest.raises(UserError, match="no structured output: HTTP 400") as caught,
    ):
        ask(server, tmp_path, asked, concurrency=2)
    assert sum(server.asked.values()) <= 4
    assert "leave `structured` out" in caught.value.fix


def test_a_server_that_dies_and_comes_back(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(http, "_FIRST_PAUSE", 0.2)
    monkeypatch.setattr(http, "_LONGEST_BACKOFF", 2.0)
    with served(echo) as server:
        port = server.server_address[1]
    replies: list = []
    asking = threading.Thread(target=lambda: replies.extend(ask(server, tmp_path, prompts(10), attempts=8)))
    asking.start()
    time.sleep(0.3)
    with served(echo, port) as back:
        asking.join()
        assert [type(reply) for reply in replies] == [Reply] * 10
        assert sum(back.asked.values()) == 10


def test_the_key_is_sent_and_is_in_no_message_and_no_file(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SOME_KEY", KEY)

    def answer(server, body, attempt, handler) -> None:
        key = handler.headers["Authorization"]
        if body["messages"][-1]["content"] == "prompt 0":
            say(handler, f"you sent {key}")
        else:
            send(handler, 401, f"Incorrect API key provided: {key}")

    with served(answer) as server:
        assert ask(server, tmp_path, prompts(1), key="SOME_KEY")[0].text == "you sent Bearer [key]"
        assert server.keys == [f"Bearer {KEY}"]
        with pytest.raises(UserError) as caught:
            ask(server, tmp_path, prompts(2), key="SOME_KEY")
    chain = [caught.value, caught.value.__cause__, caught.value.__context__]
    assert not any(KEY in str(error) or KEY in repr(error) for error in chain)
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or KEY.encode() not in path.read_bytes()


def test_a_key_that_is_not_there_is_asked_for(tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("SOME_KEY", raising=False)
    with served(echo) as server, pytest.raises(UserError, match="`SOME_KEY` is not set"):
        ask(server, tmp_path, prompts(1), key="SOME_KEY")


def test_the_budget_stops_before_it_is_exceeded(tmp_path) -> None:
    def answer(server, body, attempt, handler) -> None:
        time.sleep(0.01)
        say(handler, "yes", tokens=(70, 10))

    prices = {"input": 1e6 / 70, "output": 1e5}  # 1 and 1 for a reply of 70 tokens in and 10 out
    with served(answer) as server:
        with pytest.raises(UserError, match="could take the cost over the budget"):
            ask(server, tmp_path, prompts(100), prices=prices, budget=25.0, concurrency=3)
        with AnswerCache(tmp_path / "answers" / "one.sqlite") as cache:
            replies = cache.totals().replies
            assert replies == sum(server.asked.values())
            assert 18.0 <= 2 * replies <= 25.0
        ask(server, tmp_path, prompts(100), prices=prices, budget=1000.0)
        assert set(server.asked.values()) == {1}


BILLED = {
    "no answer in time": (lambda handler: time.sleep(0.6), 6 + 8 + 64, 10),
    "cut in mid-answer": (cut, 6 + 8 + 64, 10),
    "no chat completion": (lambda handler: send(handler, 200, "[]"), 6 + 8 + 64, 10),
    "no choice, but a count in floats": (
        lambda handler: send(handler, 200, '{"choices": [], "usage": {"prompt_tokens": 7.0, "completion_tokens": 2.5}}'),
        *(7, 3),
    ),
    "no choice, but a count": (
        lambda handler: send(handler, 200, '{"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}'),
        *(7, 3),
    ),
}


@pytest.mark.parametrize("fault", BILLED)
def test_attempts_that_were_billed_and_gave_nothing_are_in_the_books(tmp_path, fault) -> None:
    spoil, tokens_in, tokens_out = BILLED[fault]
    with served(once(spoil)) as server:
        ask(server, tmp_path, prompts(1), timeout=0.5)
    with AnswerCache(tmp_path / "answers" / "one.sqlite") as cache:
        assert cache.totals() == (1, 14, 100, 10)  # of replies alone
        assert cache.billed() == (100 + tokens_in, 10 + tokens_out)


@pytest.mark.parametrize("status", [429, 503])
def test_what_a_server_turns_away_costs_nothing(tmp_path, status) -> None:
    with served(once(lambda handler: send(handler, status, ""))) as server:
        ask(server, tmp_path, prompts(1))
    with AnswerCache(tmp_path / "answers" / "one.sqlite") as cache:
        assert cache.billed() == (100, 10)


def test_a_host_that_takes_no_connection_costs_nothing(tmp_path) -> None:
    with socket.socket() as full, contextlib.ExitStack() as held:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):  # the first is waiting to be taken, and no more may wait
            other = held.enter_context(socket.socket())
            other.setblocking(False)
            other.connect_ex(full.getsockname())
        endpoint = f"http://127.0.0.1:{full.getsockname()[1]}/v1"
        settings = Settings("one", "m", endpoint=endpoint, timeout=1.0, attempts=1)
        with reached(settings, tmp_path / "answers", tmp_path / "server.log") as model:
            (outcome,) = model.ask(prompts(1))
    assert "the connection failed" in outcome.reason
    with AnswerCache(tmp_path / "answers" / "one.sqlite") as cache:
        assert cache.billed() == (0, 0)


def test_the_budget_counts_attempts_that_gave_nothing(tmp_path) -> None:
    prices = {"input": 0.0, "output": 1e6}  # a token out costs 1
    with served(lambda server, body, attempt, handler: send(handler, 200, "{}")) as server:
        with pytest.raises(UserError, match=r"over the budget: 30\.0000 of 35 are spent"):
            ask(server, tmp_path, prompts(9), concurrency=1, prices=prices, budget=35.0, attempts=6)
        assert sum(server.asked.values()) == 3


def test_the_reason_of_a_providers_error_is_told(tmp_path) -> None:
    def answer(server, body, attempt, handler) -> None:
        send(handler, 200, '{"error": {"code": 502, "message": "upstream \\ud83d"}}')

    with served(answer) as server:
        (reply,) = ask(server, tmp_path, prompts(1), attempts=2)
    assert "upstream" in reply.reason
    assert "(2 attempts)" in reply.reason
    assert reply.reason.encode()


@pytest.mark.parametrize(
    "usage",
    [
        "null",
        "{}",
        '{"prompt_tokens": 0, "completion_tokens": 0}',
        '{"prompt_tokens": 70}',
        '{"prompt_tokens": 1e999, "completion_tokens": 1}',
        '{"prompt_tokens": 70, "completion_tokens": 99999999999999999999}',
        '{"prompt_tokens": -1000000, "completion_tokens": 1}',
        '{"prompt_tokens": 70, "completion_tokens": "many"}',
        '{"prompt_tokens": true, "completion_tokens": true}',
        '{"prompt_tokens": NaN, "completion_tokens": 1}',
        "[70, 1]",
    ],
)
def test_where_the_server_counts_nothing_or_nonsense_the_budget_counts_the_most(tmp_path, usage) -> None:
    def answer(server, body, attempt, handler) -> None:
        send(handler, 200, json.dumps({**json.loads(completion("yes")), "usage": "?"}).replace('"?"', usage))

    most = prompts(1)[0].most_tokens
    prices = {"input": 1e6 / most, "output": 1e5}  # 1 and 1 at the most
    with served(answer) as server:
        with pytest.raises(UserError, match="could take the cost over the budget"):
            ask(server, tmp_path, prompts(9), prices=prices, budget=9.0, concurrency=1)
        assert sum(server.asked.values()) == 4
    with AnswerCache(tmp_path / "answers" / "one.sqlite") as cache:
        assert cache.totals()[2:] == (4 * most, 4 * 10)


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({}, ""),
        ({"content": None}, ""),
        ({"content": [{"type": "text", "text": "one "}, {"type": "image"}, {"type": "text", "text": "two"}]}, "one two"),
    ],
)
def test_contents_of_other_kinds(message, text) -> None:
    body = {"choices": [{"message": message, "finish_reason": "stop"}], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}
    assert http.reply_of(json.dumps(body), prompts(1)[0]).text == text


def test_brackets_without_end_are_no_chat_completion(tmp_path) -> None:
    with served(once(lambda handler: send(handler, 200, "[" * 100_000))) as server:
        assert isinstance(ask(server, tmp_path, prompts(1))[0], Reply)


@pytest.mark.parametrize(
    ("endpoint", "passes", "proxy"),
    [
        ("http://127.0.0.1:8123/v1", "", None),
        ("http://localhost:8123/v1", "", None),
        ("http://[::1]:8123/v1", "", None),
        ("http://gpu7:8000/v1", "", "http://proxy:3128"),
        ("http://gpu7:8000/v1", "gpu7", None),
        ("http://gpu7:8000/v1", "gpu7:8000", None),
        ("http://gpu7:8000/v1", "gpu7:8001", "http://proxy:3128"),
        ("https://api.some.org/v1", "", None),
    ],
)
def test_which_proxy_is_taken(endpoint, passes, proxy, monkeypatch) -> None:
    monkeypatch.setenv("http_proxy", "http://proxy:3128")
    for name in ("https_proxy", "HTTPS_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", passes)
    assert http._proxy(endpoint) == proxy


def test_half_a_character_is_replaced(tmp_path) -> None:
    def answer(server, body, attempt, handler) -> None:
        response = json.loads(completion("half \ud83d"))
        position = {"token": "\ud83d", "logprob": -0.1, "top_logprobs": [{"token": "\ud83d", "logprob": -0.1}]}
        response["choices"][0]["logprobs"] = {"content": [position]}
        send(handler, 200, json.dumps(response))

    with served(answer) as server:
        (reply,) = ask(server, tmp_path, prompts(1))
    assert reply.text == "half ?"
    assert reply.logprobs == ((("?", -0.1), ("?", -0.1)),)


def test_nothing_else_is_taken_for_a_cache(tmp_path) -> None:
    path = tmp_path / "answers" / "one.sqlite"
    path.parent.mkdir()
    path.write_bytes(b"no database at all" * 100)
    with pytest.raises(UserError, match="not an answer cache"), served(echo) as server:
        ask(server, tmp_path, prompts(1))


def test_a_cache_that_takes_no_answer_stops_the_stage(tmp_path, monkeypatch) -> None:
    """Whatever the reason is: nobody waits for ever for what is never kept."""

    def broken(cache) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(AnswerCache, "flush", broken)
    with served(echo) as server, pytest.raises(RuntimeError, match="new thread"):
        ask(server, tmp_path, prompts(3))


def test_a_damaged_cache_is_told(tmp_path) -> None:
    path = tmp_path / "answers" / "one.sqlite"
    with AnswerCache(path) as cache:
        cache.put([(f"{number:064}", Reply("yes", "stop", 1, 1)) for number in range(2_000)])
    whole = path.read_bytes()
    path.write_bytes(whole[:4096] + b"\xff" * (len(whole) - 4096))
    with pytest.raises(CorruptFile, match="not an answer cache"), AnswerCache(path) as cache:
        cache.get([f"{number:064}" for number in range(2_000)])


def test_processes_that_begin_a_cache_together(tmp_path) -> None:
    for number in range(4):
        line = f"""
import sys; from pathlib import Path; from bsc.autointerp.llm.answers import AnswerCache
sys.stdin.readline()
with AnswerCache(Path({str(tmp_path / f"{number}.sqlite")!r})) as cache:
    print(cache.totals().replies)
"""
        command = [sys.executable, "-c", line]
        running = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(8)]
        for process in running:
            process.stdin.write("go\n")
            process.stdin.flush()
        assert [process.communicate()[0] for process in running] == ["0\n"] * 8


def test_a_cache_that_waiting_does_not_open_is_told_at_once(tmp_path, monkeypatch) -> None:
    def only_read(path: Path) -> sqlite3.Connection:
        return sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)

    def waited(seconds: float) -> None:
        raise AssertionError("it waits")

    (tmp_path / "one.sqlite").touch()
    monkeypatch.setattr(answers, "_connected", only_read)
    monkeypatch.setattr(time, "sleep", waited)
    with pytest.raises(UserError, match=r"does not open .*readonly"):
        AnswerCache(tmp_path / "one.sqlite")


@pytest.mark.parametrize("kind", [sqlite3.InterfaceError, sqlite3.ProgrammingError, sqlite3.OperationalError])
def test_only_a_file_that_is_damaged_is_to_be_moved_away(tmp_path, kind) -> None:
    with pytest.raises(UserError) as caught, answers._faults(tmp_path, "takes no answer"):
        raise kind("why")
    assert type(caught.value) is UserError
    assert "takes no answer (why)" in str(caught.value)


def test_the_journal_is_of_the_kind_that_is_safe_where_the_file_is(tmp_path, monkeypatch) -> None:
    mounts = tmp_path / "mounts"
    lines = [f"a / {kind} rw 0 0" for kind in ("rootfs", "ext4")]
    lines += [f"b {tmp_path}/far wekafs rw 0 0", f"c {tmp_path}/far/near tmpfs rw 0 0", f"d {tmp_path}/a\\040b nfs4 rw 0 0"]
    mounts.write_text("\n".join(lines))
    monkeypatch.setattr(answers, "_MOUNTS", mounts)
    folders = [tmp_path / name for name in ("here", "far/x", "far/near/x", "a b/x")]
    assert [answers.is_local(folder) for folder in folders] == [True, False, True, False]


def test_what_is_on_its_way_to_the_disk_is_kept_when_the_loop_is_left(tmp_path, monkeypatch) -> None:
    async def begun(*arguments) -> None:
        """A thread that has not begun yet when the signal comes."""
        raise SystemExit(75)

    monkeypatch.setattr(answers.asyncio, "to_thread", begun)
    with served(echo) as server:
        with pytest.raises(SystemExit):
            ask(server, tmp_path, prompts(1))
        with AnswerCache(tmp_path / "answers" / "one.sqlite") as cache:
            assert cache.totals().replies == 1


def test_the_cache_is_whole_after_two_threads_of_writers(tmp_path) -> None:
    with served(echo) as server:
        threads = [threading.Thread(target=ask, args=(server, tmp_path, prompts(200))) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    connection = sqlite3.connect(tmp_path / "answers" / "one.sqlite")
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert connection.execute("SELECT COUNT(*) FROM answers").fetchone() == (200,)
    connection.close()
