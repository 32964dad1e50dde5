"""Whether a job is over, and how it ended: the exit record decides, and the scheduler explains what left none."""

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
UNEXPLAINED = {"COMPLETED", "FAILED", ""}
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
        """Whether the record settles how the job went."""
        return self.record is not None and self.record.decides

    @property
    def doubtful(self) -> bool:
        """Whether the end of the log is worth a look."""
        failed = self.record is not None and not self.record.succeeded
        return failed or self.missing or (self.state is not None and self.state.ended)

    def update(self, state: State | None, missing: bool) -> bool:
        """Take in an answer of the scheduler; whether it says something new. Neither state nor missing: it was not asked."""
        if state is None and not missing:
            return False
        new = missing != self.missing or (state is not None and state != self.state)
        self.state, self.missing = state or self.state, missing
        return new


def judge(sight: Sight, log: str, now: float, patience: float) -> Verdict | None:
    """How the job ended; None while it is queued, runs, or may yet leave a record.

    log: the end of its log. now: seconds, monotonic. patience: seconds to wait for a record on a slow filesystem.
    """
    record, state = sight.record, sight.state
    if record is not None and sight.decided:
        return _from_record(record, log)
    if state is not None and not sight.missing and not state.ended:
        sight.unexplained_since = None
        return Verdict(False, f"it would never start: {state.reason}") if state.reason in NEVER_STARTS else None
    name = state.name if state is not None and state.ended else ""
    if name in UNEXPLAINED and any(line in log for line in MEMORY_LINES):
        name = "OUT_OF_MEMORY"
    if state is None and not sight.missing:
        return None
    if name in UNEXPLAINED and record is None:
        sight.unexplained_since = now if sight.unexplained_since is None else sight.unexplained_since
        if now - sight.unexplained_since < patience:
            return None
    return _from_state(name, state, record)


def _from_record(record: ExitRecord, log: str) -> Verdict:
    if record.succeeded:
        return Verdict(True, node=record.node)
    if record.killed_by == "SIGKILL" or any(line in log for line in MEMORY_LINES):
        memory = any(line in log for line in MEMORY_LINES)
        return Verdict(False, "OUT_OF_MEMORY" if memory else "killed by SIGKILL", record.node)
    how = f"killed by {record.killed_by}" if record.killed_by else f"exit code {record.exit_code}"
    return Verdict(False, how, record.node)


def _from_state(name: str, state: State | None, record: ExitRecord | None) -> Verdict:
    node = record.node if record is not None else state.node if state is not None else ""
    if record is not None and record.warned_by == "SIGUSR2":
        return Verdict(False, f"TIMEOUT: it saved its state, but was requeued {record.requeues} times already", node)
    if name in UNEXPLAINED and record is not None:
        return Verdict(False, f"ended by {record.warned_by}", node)
    if name == "":
        return Verdict(False, "it left the queue and no exit record: cancelled, or its node died", node)
    detail = state.reason if state is not None and state.reason not in ("", "None", name) and name == state.name else ""
    return Verdict(False, f"{name} ({detail})" if detail else name, node)
