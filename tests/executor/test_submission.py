from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import pytest

from snakemake_executor_plugin_submitit.ledger import Ledger
from snakemake_executor_plugin_submitit.settings import ExecutorSettings
from snakemake_executor_plugin_submitit.slurm import Answer
from snakemake_executor_plugin_submitit.submission import SubmissionError, Submitter


class Queue:
    """A scheduler with the jobs of some marks in its queue, which take two looks to go away once cancelled."""

    max_array_size = 100
    signals_all = False

    def __init__(self) -> None:
        self.ghosts: dict[str, int] = {}
        self.cancelled: list[str] = []

    def remember(self, job: Any) -> None: ...

    def ask(self, ids: Collection[str]) -> Answer:
        return Answer({}, frozenset(ids))

    def cancel(self, ids: Sequence[str]) -> None:
        self.cancelled += ids

    def marked(self, marks: Collection[str]) -> list[str]:
        there = [mark for mark in marks if self.ghosts.get(mark, 0) > 0]
        for mark in there:
            self.ghosts[mark] -= len(self.cancelled)
        return [f"job of {mark}" for mark in there]


class Tried(Submitter):
    """A submitter of which submitit's part fails with these errors, one a try, and then works."""

    def __init__(self, tmp_path: Path, *errors: str, arrived: bool = False) -> None:
        self.pauses: list[float] = []
        super().__init__(Queue(), ExecutorSettings(array_size=50), Ledger(tmp_path), self.pauses.append)
        self.errors, self.arrived = list(errors), arrived

    def _send(self, folder: Path, asked: Any, tasks: Any) -> list[Any]:
        if self.errors:
            if self.arrived:
                self.backend.ghosts[asked["slurm_comment"]] = 1
            raise RuntimeError(self.errors.pop(0))
        return [*tasks]


def test_a_submission_stays_unsettled_until_its_jobs_are_written_down(tmp_path: Path) -> None:
    submitter = Tried(tmp_path)
    mark, jobs = submitter.submit(tmp_path, {}, ["a", "b"])
    assert jobs == ["a", "b"]
    assert submitter.ledger.unsettled == {mark}
    submitter.ledger.settle(mark)
    assert Ledger(tmp_path).unsettled == set()


def test_a_busy_controller_is_tried_again(tmp_path: Path) -> None:
    submitter = Tried(tmp_path, "Unable to contact slurm controller (connect failure)", "Socket timed out on send/recv")
    assert submitter.submit(tmp_path, {}, ["a"])[1] == ["a"]
    assert submitter.pauses == [2, 5]


def test_what_arrived_after_all_is_cancelled_before_the_next_try(tmp_path: Path) -> None:
    submitter = Tried(tmp_path, "Socket timed out on send/recv operation", arrived=True)
    mark, _ = submitter.submit(tmp_path, {}, ["a"])
    assert submitter.backend.cancelled == [f"job of {mark}"]
    assert submitter.pauses == [2, 1]  # the second is the wait for the ghost to go


def test_what_an_earlier_run_did_not_note_is_cleared_once(tmp_path: Path) -> None:
    Ledger(tmp_path).intend("lost")
    submitter = Tried(tmp_path)
    submitter.backend.ghosts["lost"] = 1
    submitter.clear_earlier()
    assert submitter.backend.cancelled == ["job of lost"]
    assert Ledger(tmp_path).unsettled == set()


def test_a_refusal_is_final(tmp_path: Path) -> None:
    submitter = Tried(tmp_path, "Invalid partition name specified")
    with pytest.raises(SubmissionError, match="Invalid partition"):
        submitter.submit(tmp_path, {}, ["a"])
    assert submitter.pauses == []
    assert submitter.ledger.unsettled == set()


def test_a_controller_that_stays_away_is_given_up(tmp_path: Path) -> None:
    submitter = Tried(tmp_path, *["Connection refused"] * 9)
    with pytest.raises(SubmissionError, match="refused"):
        submitter.submit(tmp_path, {}, ["a"])
    assert submitter.pauses == [2, 5, 15, 30]


def test_arrays_heed_both_limits(tmp_path: Path) -> None:
    assert Tried(tmp_path).at_once == 50
    assert Submitter(Queue(), ExecutorSettings(array_size=1000), Ledger(tmp_path)).at_once == 100
