"""submitit's local and debug backends behind the questions that `slurm.Slurm` answers for a cluster."""

import sys
from collections.abc import Collection, Sequence
from typing import Any, Protocol

from .slurm import Answer, Slurm, State


class Backend(Protocol):
    """Where jobs run."""

    max_array_size: int
    signals_all: bool  # whether a job's SIGTERM reaches all its processes, or the first alone

    def remember(self, job: Any) -> None:
        """Take note of a job that submitit made."""

    def ask(self, ids: Collection[str]) -> Answer:
        """States of these jobs."""

    def cancel(self, ids: Sequence[str]) -> None:
        """End these jobs."""

    def marked(self, marks: Collection[str]) -> list[str]:
        """Ids of the jobs whose submission carried one of these marks."""


class InProcess:
    """Jobs of this machine that end with this Snakemake: submitit's `local` (processes) and `debug` (in this very process)."""

    max_array_size = sys.maxsize
    signals_all = False

    def __init__(self) -> None:
        self.jobs: dict[str, Any] = {}

    def remember(self, job: Any) -> None:
        """Its process is asked through submitit's handle."""
        self.jobs[job.job_id] = job

    def ask(self, ids: Collection[str]) -> Answer:
        """Which of these run; a debug job runs now, to its end."""
        running = {job for job in ids if job in self.jobs and not self.jobs[job].done()}
        return Answer({job: State("RUNNING") for job in running}, frozenset(ids) - running)

    def cancel(self, ids: Sequence[str]) -> None:
        """Interrupt these processes."""
        for job in ids:
            self.jobs[job].cancel(check=False)

    def marked(self, marks: Collection[str]) -> list[str]:
        """None: no job outlives its Snakemake by design."""
        return []


def backend(cluster: str) -> Backend:
    """The backend of this name. Raises SlurmError if no Slurm controller answers."""
    return Slurm() if cluster == "slurm" else InProcess()
