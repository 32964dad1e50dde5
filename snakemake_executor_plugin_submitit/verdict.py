"""Whether a job is over, and how it ended, from what it left and what the scheduler says."""

from dataclasses import dataclass

from .record import ExitRecord
from .slurm import State

NEVER_STARTS = {
    "AssocMaxWallDurationPerJobLimit",
    "BadConstraints",
    "DependencyNeverSatisfied",
    "JobHoldMaxRequeue",
    "PartitionNodeLimit",
    "PartitionTimeLimit",
    "QOSMaxWallDurationPerJobLimit",
    "launch failed requeued held",
}
UNEXPLAINED = {"COMPLETED", "FAILED"}  # states that say less than a record does
MEMORY_LINES = ("oom-kill", "oom_kill", "exceeded memory limit", "Exceeded job memory limit", "Out Of Memory")


@dataclass(frozen=True)
class Verdict:
    """A job that is over: whether it succeeded; if not, why, and on which node."""

    succeeded: bool
    reason: str = ""
    node: str = ""


@dataclass
class Sight:
    """What has been seen of a job so far.

    record: what the job left. state: the scheduler's last word. missing: whether it no longer knows the job. unexplained_since:
    the second (monotonic) since which it says that the job is over, or unknown, while no record tells how it went.
    """

    record: ExitRecord | None = None
    state: State | None = None
    missing: bool = False
    unexplained_since: float | None = None

    @property
    def decided(self) -> bool:
        """Whether the scheduler need not be asked."""
        return self.record is not None and self.record.succeeded

    @property
    def alive(self) -> bool:
        """Whether the scheduler still has the job."""
        return self.state is not None and not self.state.ended and not self.missing

    @property
    def doubtful(self) -> bool:
        """Whether the end of the log is worth a look."""
        return not self.decided and (self.missing or (self.state is not None and self.state.ended))

    def update(self, state: State | None, missing: bool) -> bool:
        """Take in an answer of the scheduler; whether it says something new. Neither state nor missing: it was not asked."""
        if state is None and not missing:
            return False
        new = missing != self.missing or (state is not None and state != self.state)
        self.state, self.missing = state or self.state, missing
        return new


def judge(sight: Sight, log: str, now: float, patience: float) -> Verdict | None:
    """How the job ended; None while it is queued, runs, or may yet leave a record.

    A record of success is enough. One of failure is not: whoever ended the command may have requeued the job, or cancelled it,
    and only the scheduler knows. log: the end of the job's log. now: seconds, monotonic. patience: seconds to wait for a record
    on a slow filesystem.
    """
    record, state = sight.record, sight.state
    if record is not None and record.succeeded:
        return Verdict(True, node=record.node)
    if not sight.missing:
        if state is None:
            return None
        if not state.ended:
            sight.unexplained_since = None
            return Verdict(False, f"it would never start: {state.reason}") if state.reason in NEVER_STARTS else None
    node = record.node if record is not None else state.node if state is not None else ""
    reason = _reason(record, state, log)
    if not reason:
        sight.unexplained_since = now if sight.unexplained_since is None else sight.unexplained_since
        if now - sight.unexplained_since < patience:
            return None
        reason = "it left no exit record: killed, or its node died"
    return Verdict(False, reason, node)


def _reason(record: ExitRecord | None, state: State | None, log: str) -> str:
    """Why a job that is over failed, as far as the scheduler, its log and its record tell; "" if they do not."""
    if state is not None and state.ended and state.name not in UNEXPLAINED:
        return state.name
    if any(line in log for line in MEMORY_LINES):
        return "OUT_OF_MEMORY"
    if record is None:
        return ""
    if record.warned_by == "SIGUSR2":
        return f"TIMEOUT: its time was up again, after {record.requeues} requeues"
    ender = record.killed_by or record.warned_by
    return f"ended by {ender}" if ender else f"exit code {record.exit_code}"
