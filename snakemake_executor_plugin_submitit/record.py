"""The exit record: what a job leaves beside its log, and what decides whether it succeeded.

Imports the standard library alone: jobs import it on the node.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

SUFFIX = "_exit.json"


@dataclass(frozen=True)
class ExitRecord:
    """How a job's command ended.

    token: whose record this is; Slurm's ids begin anew one day. exit_code: 0 to 255, 128 + n when signal n ended the command.
    killed_by: that signal's name. warned_by: the signal that the job itself was sent before its command ended.
    node: where it ran. seconds: how long, by the monotonic clock. requeues: how often Slurm had started it before.
    """

    token: str
    exit_code: int
    killed_by: str | None
    warned_by: str | None
    node: str
    seconds: float
    requeues: int

    @property
    def succeeded(self) -> bool:
        """Whether the command ended well."""
        return self.exit_code == 0


def record_path(folder: Path, job_id: str) -> Path:
    """Where the job `job_id` with logs in `folder` leaves its record."""
    return folder / f"{job_id}{SUFFIX}"


def write_record(path: Path, record: ExitRecord) -> None:
    """Write the record whole or not at all."""
    beside = path.with_suffix(".tmp")
    with beside.open("w") as file:
        json.dump(asdict(record), file)
        file.flush()
        os.fsync(file.fileno())
    beside.rename(path)


def read_record(path: Path, token: str) -> ExitRecord | None:
    """The record that the job with this token left; None when there is none (yet), or another job's."""
    try:
        record = ExitRecord(**json.loads(path.read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None
    return record if record.token == token else None
