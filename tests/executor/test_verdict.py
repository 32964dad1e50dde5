from typing import Any

import pytest

from snakemake_executor_plugin_submitit.interval import Interval
from snakemake_executor_plugin_submitit.record import ExitRecord
from snakemake_executor_plugin_submitit.slurm import State
from snakemake_executor_plugin_submitit.verdict import Sight, Verdict, judge

OOM = "slurmstepd-gpu1: error: StepId=1.batch exceeded memory limit (358940672 > 314572800), being killed"


def record(**changes: Any) -> ExitRecord:
    facts = {"token": "t", "exit_code": 0, "killed_by": None, "warned_by": None, "node": "n1", "seconds": 1.0, "requeues": 0}
    return ExitRecord(**{**facts, **changes})


def sight(state: str = "", reason: str = "", **others: Any) -> Sight:
    return Sight(state=State(state, reason, "n2") if state else None, **others)


@pytest.mark.parametrize("state", ["", "PENDING", "RUNNING", "COMPLETING", "SUSPENDED", "REQUEUED"])
def test_a_job_that_is_not_over(state: str) -> None:
    assert judge(sight(state), "", 1e9, 0) is None
    assert judge(sight(state, record=record(exit_code=1, warned_by="SIGTERM")), "", 1e9, 0) is None  # being requeued
    assert judge(sight(state, record=record(exit_code=1)), "", 1e9, 0) is None  # its end is not seen yet


@pytest.mark.parametrize("state", ["", "RUNNING", "COMPLETED", "CANCELLED"])
def test_a_record_of_success_decides(state: str) -> None:
    assert judge(sight(state, record=record()), OOM, 0, 10) == Verdict(True, "", "n1")


@pytest.mark.parametrize(
    ("state", "left", "log", "reason"),
    [
        ("FAILED", record(exit_code=3), "", "exit code 3"),
        ("FAILED", record(exit_code=139, killed_by="SIGSEGV"), "", "ended by SIGSEGV"),
        ("FAILED", record(exit_code=143, warned_by="SIGTERM"), "", "ended by SIGTERM"),
        (
            "FAILED",
            record(exit_code=1, warned_by="SIGUSR2", requeues=20),
            "",
            "TIMEOUT: its time was up again, after 20 requeues",
        ),
        ("FAILED", record(exit_code=137, killed_by="SIGKILL"), OOM, "OUT_OF_MEMORY"),
        ("FAILED", None, OOM, "OUT_OF_MEMORY"),
        ("OUT_OF_MEMORY", None, "", "OUT_OF_MEMORY"),
        ("TIMEOUT", None, "", "TIMEOUT"),
        ("TIMEOUT", record(exit_code=143, warned_by="SIGTERM"), "", "TIMEOUT"),
        ("NODE_FAIL", None, "", "NODE_FAIL"),
        ("CANCELLED", record(exit_code=1), "", "CANCELLED"),
    ],
)
def test_why_a_job_failed(state: str, left: ExitRecord | None, log: str, reason: str) -> None:
    verdict = judge(sight(state, record=left), log, 0, 10)
    assert verdict == Verdict(False, reason, "n1" if left else "n2")


@pytest.mark.parametrize("seen", [sight("COMPLETED"), sight("FAILED"), sight("RUNNING", missing=True), sight(missing=True)])
def test_a_record_may_appear_late(seen: Sight) -> None:
    assert judge(seen, "", 100, 10) is None
    assert judge(seen, "", 109, 10) is None
    verdict = judge(seen, "", 110, 10)
    assert verdict is not None
    assert verdict.reason == "it left no exit record: killed, or its node died"
    seen.record = record()
    assert judge(seen, "", 111, 10) == Verdict(True, "", "n1")


def test_patience_begins_anew_when_the_job_is_back() -> None:
    seen = sight("RUNNING", missing=True)
    assert judge(seen, "", 0, 10) is None
    seen.update(State("PENDING"), missing=False)
    assert judge(seen, "", 20, 10) is None
    seen.update(None, missing=True)
    assert judge(seen, "", 25, 10) is None


def test_a_job_that_would_never_start() -> None:
    verdict = judge(sight("PENDING", "launch failed requeued held"), "", 0, 10)
    assert verdict is not None
    assert "never start" in verdict.reason


def test_an_answer_is_new_or_not() -> None:
    seen = Sight()
    assert not seen.update(None, missing=False)  # was not asked
    assert seen.update(State("RUNNING"), missing=False)
    assert not seen.update(State("RUNNING"), missing=False)
    assert seen.update(None, missing=True)
    assert seen.state == State("RUNNING")


def test_the_interval_grows_while_nothing_changes() -> None:
    now = 0.0
    interval = Interval(10, 30, lambda: now)
    assert not interval.due()
    waits = []
    for changed in (False, False, False, False, True):
        while not interval.due():
            now += 0.5
        waits.append(interval.seconds)
        interval.asked(changed=changed)
    assert waits == [10, 15, 22.5, 30, 30]
    assert interval.seconds == 10


def test_hurry_starts_with_the_first_interval() -> None:
    interval = Interval(10, 30, lambda: 0.0)
    interval.asked(changed=False)
    interval.hurry()
    assert interval.seconds == 10
    assert Interval(60, 30, lambda: 0.0).longest == 60
