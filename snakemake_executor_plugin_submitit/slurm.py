"""The few questions that the plugin asks Slurm: one squeue for all jobs, one sacct for those it has forgotten, one scancel.

submitit's own job states are not used: they come from sacct alone, and stay UNKNOWN where there is no accounting.
"""

import os
import re
import subprocess
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

SECONDS = 60  # a controller under load answers late, and the next question is better asked later than never
CANCEL_AT_ONCE = 500
ENDED = {
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "REVOKED",
    "TIMEOUT",
}


class SlurmError(RuntimeError):
    """A Slurm command failed; the text is what it said."""


@dataclass(frozen=True)
class State:
    """What the scheduler says of a job: its state's name, Slurm's reason for it, and the node (or "")."""

    name: str
    reason: str = ""
    node: str = ""

    @property
    def ended(self) -> bool:
        """Whether the job will not run (again)."""
        return self.name in ENDED


@dataclass(frozen=True)
class Answer:
    """States of the jobs asked for, and those the scheduler no longer knows. A job in neither was not asked for."""

    states: dict[str, State]
    missing: frozenset[str]


def call(command: Sequence[str]) -> str:
    """Standard output of a Slurm command; SlurmError with its complaint if it fails or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=True)
    except subprocess.CalledProcessError as error:
        raise SlurmError(f"{command[0]}: {error.stderr.strip() or error.returncode}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SlurmError(f"{command[0]}: {error}") from error
    return done.stdout


class Slurm:
    """A cluster; asks `scontrol` once for its limits. Raises SlurmError where no controller answers."""

    def __init__(self) -> None:
        config = call(["scontrol", "show", "config"])
        size = re.search(r"^MaxArraySize\s*=\s*(\d+)", config, re.MULTILINE)
        storage = re.search(r"^AccountingStorageType\s*=\s*(\S+)", config, re.MULTILINE)
        self.max_array_size = int(size[1]) if size else 1
        self.accounting = storage is not None and not storage[1].endswith("none") and storage[1] != "(null)"
        # Slurm sends SIGTERM to all processes of a job where it finds them in /proc, to the first alone where it uses cgroups.
        self.signals_all = re.search(r"^ProctrackType\s*=\s*proctrack/(linuxproc|pgid)", config, re.MULTILINE) is not None
        self._forgotten: frozenset[str] = frozenset()

    def remember(self, job: object) -> None:
        """Nothing to note: Slurm remembers its jobs."""

    def ask(self, ids: Collection[str]) -> Answer:
        """States of these jobs, by one call: squeue, or sacct for those that the squeue before this one did not know."""
        forgotten = self._forgotten & frozenset(ids)
        if forgotten and self.accounting:
            self._forgotten = frozenset()
            states = parse_sacct(
                call(["sacct", "-X", "-n", "-P", "-o", "JobID,State,NodeList", "-j", ",".join(sorted(forgotten))])
            )
            asked: Iterable[str] = forgotten
        else:
            states = parse_squeue(call(["squeue", "--me", "--array", "--noheader", "--states=all", "--format=%i|%T|%r|%N"]))
            asked = ids
        self._forgotten = frozenset(asked) - states.keys()
        return Answer({job: states[job] for job in asked if job in states}, frozenset(self._forgotten))

    def cancel(self, ids: Sequence[str]) -> None:
        """Cancel these jobs, and do not mind those that are over. Raises SlurmError."""
        for first in range(0, len(ids), CANCEL_AT_ONCE):
            call(["scancel", "--quiet", *ids[first : first + CANCEL_AT_ONCE]])

    def marked(self, marks: Collection[str]) -> list[str]:
        """Ids of the queued and running jobs (or whole arrays) that carry one of these marks as their comment."""
        lines = call(["squeue", "--me", "--noheader", "--format=%F|%k"]).splitlines()
        return sorted({job for job, _, mark in (line.partition("|") for line in lines) if mark in marks})


def parse_squeue(text: str) -> dict[str, State]:
    """States by job id from lines of `%i|%T|%r|%N`."""
    rows = (line.split("|") for line in text.splitlines() if line.count("|") == 3)
    return {job.strip(): State(name, reason, node) for job, name, reason, node in rows}


def parse_sacct(text: str) -> dict[str, State]:
    """States by job id from lines of `JobID|State|NodeList`; "CANCELLED by 0" is CANCELLED."""
    rows = (line.split("|") for line in text.splitlines() if line.count("|") == 2)
    return {job: State(name.split(" ")[0], node="" if node == "None assigned" else node) for job, name, node in rows}


def leave_enclosing_job() -> bool:
    """Forget the Slurm job that this process runs in, if it does: its variables would leak into the jobs submitted from it."""
    if "SLURM_JOB_ID" not in os.environ:
        return False
    for name in [name for name in os.environ if name.startswith(("SLURM_", "SLURMD_", "SUBMITIT_")) and name != "SLURM_CONF"]:
        del os.environ[name]
    return True
