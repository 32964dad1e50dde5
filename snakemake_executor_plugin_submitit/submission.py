"""Submitting jobs through submitit: one array for jobs of one shape, and a second try where the controller was busy."""

import shlex
import sys
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import launch
from .backends import Backend
from .ledger import Ledger
from .settings import ExecutorSettings

if TYPE_CHECKING:
    from submitit import Job

    from .task import Task

RETRY_AFTER_SECONDS = (2, 5, 15, 30)
GONE_SECONDS = 120
BUSY = (
    "Unable to contact slurm controller",
    "Socket timed out",
    "Connection refused",
    "Communication connection failure",
    "Zero Bytes were transmitted",
    "Resource temporarily unavailable",
    "Transport endpoint is not connected",
)

_PYTHON = shlex.quote(sys.executable)
# Lines of the batch script. Python takes the place of its shell, so that Slurm's signal reaches it; the trap ends there.
_BLOCK = f"""block=(env --block-signal={launch.SAVE.name})
"${{block[@]}}" true 2> /dev/null || block=({_PYTHON} -I -S {shlex.quote(launch.__file__)})"""
PYTHON = f"""{_BLOCK}
{launch.IGNORE}
exec "${{block[@]}}" {_PYTHON}"""


class SubmissionError(RuntimeError):
    """Jobs were not submitted; the text is the scheduler's."""


class Submitter:
    """Hands tasks to submitit, and knows how to clean up after a submission that may or may not have arrived."""

    def __init__(
        self, backend: Backend, settings: ExecutorSettings, ledger: Ledger, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self.backend, self.settings, self.ledger, self._sleep = backend, settings, ledger, sleep

    @property
    def at_once(self) -> int:
        """Most jobs in one submission."""
        return max(1, min(self.settings.array_size, self.backend.max_array_size))

    def submit(self, folder: Path, asked: Mapping[str, Any], tasks: Sequence["Task"]) -> tuple[str, list["Job[int]"]]:
        """Submit tasks of one shape together; the submission's mark, to be settled once the jobs are noted, and the jobs.

        Raises SubmissionError, or SlurmError if it cannot be told what became of it.
        """
        mark = f"snakemake-{uuid.uuid4().hex}"
        self.ledger.intend(mark)
        pauses = list(RETRY_AFTER_SECONDS)
        while True:
            try:
                return mark, self._send(folder, {**asked, "slurm_comment": mark}, tasks)
            except Exception as error:
                if not pauses or not any(sign in str(error) for sign in BUSY):
                    self.ledger.settle(mark)
                    raise SubmissionError(str(error).strip() or repr(error)) from error
            self._sleep(pauses.pop(0))
            self.clear({mark})  # the controller may have taken it and failed to say so

    def clear(self, marks: Collection[str]) -> None:
        """Cancel what carries one of these marks, and wait until it is gone. Raises SlurmError."""
        if not marks or not (ghosts := self.backend.marked(marks)):
            return
        self.backend.cancel(ghosts)
        for _ in range(GONE_SECONDS):
            if not self.backend.marked(marks):
                return
            self._sleep(1)

    def clear_earlier(self) -> None:
        """Clear what a Snakemake that was killed submitted and had no time to note. Raises SlurmError."""
        marks = list(self.ledger.unsettled)
        self.clear(marks)
        for mark in marks:
            self.ledger.settle(mark)

    def _send(self, folder: Path, asked: Mapping[str, Any], tasks: Sequence["Task"]) -> list["Job[int]"]:
        import submitit

        executor = submitit.AutoExecutor(
            folder=folder,
            cluster=self.settings.cluster,
            slurm_python=PYTHON,
            slurm_max_num_timeout=self.settings.requeues,
            local_max_num_timeout=self.settings.requeues,
        )
        executor.update_parameters(**asked)
        with executor.batch():
            jobs = [executor.submit(task) for task in tasks]
        for link in folder.glob(".submission_file_*.sh"):
            link.unlink(missing_ok=True)
        return jobs
