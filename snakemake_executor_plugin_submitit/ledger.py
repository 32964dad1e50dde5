"""Which jobs were submitted and have not been seen to end: what a Snakemake that was killed leaves to the next one.

Snakemake's own record of external ids does not serve: the job on the node overwrites it when it starts. The folder holds one
file a job, named by what the job makes, and one `.mark` file for each submission of which the outcome was never written down.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Entry:
    """A submitted job. fingerprint: of what it runs. cancelled: it was told to go, and may still be going."""

    id: str
    token: str
    fingerprint: str
    folder: str
    cancelled: bool = False


class Ledger:
    """The folder of entries, and those that an earlier run left, by key."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.earlier = {path.stem: entry for path in folder.glob("*.json") if (entry := _read(path)) is not None}
        self.unsettled = {path.stem for path in folder.glob("*.mark")}

    def intend(self, mark: str) -> None:
        """Note that a submission with this mark is about to be made."""
        (self.folder / f"{mark}.mark").touch()
        self.unsettled.add(mark)

    def settle(self, mark: str) -> None:
        """Note that the submission failed for good, or that its jobs are written down."""
        (self.folder / f"{mark}.mark").unlink(missing_ok=True)
        self.unsettled.discard(mark)

    def write(self, key: str, entry: Entry) -> None:
        """Write the job down, whole or not at all."""
        beside = self.folder / f"{key}.tmp"
        beside.write_text(json.dumps(asdict(entry)))
        beside.rename(self.folder / f"{key}.json")

    def forget(self, key: str) -> None:
        """The job was seen to end."""
        (self.folder / f"{key}.json").unlink(missing_ok=True)


def job_key(job: Any) -> str:
    """What a Snakemake job makes, the same in every run: its outputs, or its rule and wildcards if it has none."""
    made = sorted(str(path) for path in job.output) or [job.name, repr(getattr(job, "wildcards_dict", job.jobid))]
    return _digest(made)


def fingerprint(job: Any) -> str:
    """What a Snakemake job runs: the commands and params of its rules. Differs when the workflow or its config changed it."""
    parts = job.jobs if job.is_group() else [job]
    return _digest(
        sorted([part.name, str(part.shellcmd), repr(list(part.params.items())), repr(list(part.params))] for part in parts)
    )


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]


def _read(path: Path) -> Entry | None:
    try:
        return Entry(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None
