"""The executor that Snakemake drives: submits what is ready, watches what runs, reports what ends."""

import asyncio
import shlex
import time
import uuid
from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snakemake_interface_common.exceptions import WorkflowError
from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor
from snakemake_interface_executor_plugins.utils import encode_target_jobs_cli_args, format_cli_arg

from .backends import backend
from .interval import Interval
from .ledger import Entry, Ledger, fingerprint, job_key
from .record import ExitRecord, read_record, record_path
from .report import failure, log_name, tail, wildcards_text
from .shape import parameters, shape
from .slurm import SlurmError, leave_enclosing_job
from .submission import Submitter
from .verdict import Sight, Verdict, judge

if TYPE_CHECKING:
    from .task import Task

TICK_SECONDS = 1.0  # between two looks at the exit records, which cost the scheduler nothing
LEAST_PATIENCE_SECONDS = 5.0


@dataclass
class Order:
    """A Snakemake job on its way: what it makes and runs (see `ledger`), and what it asks for."""

    job: Any
    key: str
    fingerprint: str
    token: str
    folder: Path
    asked: dict[str, Any]


@dataclass
class Tracked:
    """A submitted job and what has been seen of it."""

    job: Any
    key: str
    entry: Entry
    sight: Sight = field(default_factory=Sight)

    @property
    def log(self) -> Path:
        """What the scheduler wrote of it."""
        return Path(self.entry.folder) / f"{self.entry.id}_0_log.out"

    def record(self) -> ExitRecord | None:
        """What the job left, if it did."""
        return read_record(record_path(Path(self.entry.folder), self.entry.id), self.entry.token)


class Executor(RemoteExecutor):
    """Runs each Snakemake job as a submitit job."""

    def __init__(self, workflow: Any, logger: Any) -> None:
        # RemoteExecutor starts to poll inside its constructor: what polling needs is there before.
        self._settings = workflow.executor_settings
        if leave_enclosing_job():
            logger.warning("Snakemake itself runs inside a Slurm job; its variables are not handed on to the jobs it submits.")
        try:
            self._backend = backend(self._settings.cluster)
        except SlurmError as error:
            raise WorkflowError(
                f"no Slurm controller answers here; on a machine without Slurm set submitit-cluster: local ({error})"
            ) from error
        self._ledger = Ledger(Path(workflow.persistence.path) / "submitit")
        self._submitter = Submitter(self._backend, self._settings, self._ledger)
        first = workflow.remote_execution_settings.seconds_between_status_checks
        if self._settings.cluster != "slurm":
            first = TICK_SECONDS  # asking costs nothing there
        self._interval = Interval(first, max(first, self._settings.longest_interval), time.monotonic)
        self._patience = max(LEAST_PATIENCE_SECONDS, workflow.execution_settings.latency_wait)
        self._tracked: dict[str, Tracked] = {}
        self._silent = False
        super().__init__(workflow, logger)

    # -- submission, in Snakemake's main thread

    def run_job(self, job: Any) -> None:
        """Submit one job."""
        self.run_jobs([job])

    def run_jobs(self, jobs: list[Any]) -> None:
        """Submit jobs, those of one rule and the same resources as arrays; a job that cannot be submitted fails by itself."""
        batches: dict[str, list[Order]] = {}
        for job in jobs:
            try:
                self.run_job_pre(job)
                order = self._order(job)
                if not self._adopt(order):
                    batches.setdefault(shape(job.name, order.asked), []).append(order)
            except Exception as error:
                self._refuse(job, error)
        for orders in batches.values():
            for first in range(0, len(orders), self._submitter.at_once):
                self._submit(orders[first : first + self._submitter.at_once])

    def get_job_exec_prefix(self, job: Any) -> str:
        """The job's command starts in the workflow's folder."""
        return f"cd {shlex.quote(str(self.workflow.workdir_init))}"

    def get_job_args(self, job: Any) -> str:
        """Snakemake's arguments of the job, with what may hold quotes and dollars quoted for a shell instead of for Python."""
        text = str(super().get_job_args(job))
        targets = encode_target_jobs_cli_args(job.get_target_spec())
        files = [self.tmpdir, *job.get_wait_for_files()]
        unneeded = list(self.workflow.dag.get_unneeded_temp_files(job))
        for flag, values in (("--target-jobs", targets), ("--wait-for-files", files), ("--unneeded-temp-files", unneeded)):
            if values:
                text = text.replace(format_cli_arg(flag, values), f"{flag} {shlex.join(map(str, values))}")
        return text

    def _order(self, job: Any) -> Order:
        setup = self._settings.setup.splitlines()
        asked = parameters(job.name, job.threads, job.resources, self._settings, setup)
        folder = Path(self._settings.logs).expanduser().absolute() / asked["name"]
        return Order(job, job_key(job), fingerprint(job), uuid.uuid4().hex, folder, asked)

    def _submit(self, orders: list[Order]) -> None:
        folder = orders[0].folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._submitter.clear_earlier()
            tasks = [self._task(order) for order in orders]
            mark, jobs = self._submitter.submit(folder, orders[0].asked, tasks)
        except Exception as error:
            for order in orders:
                self._refuse(order.job, error)
            return
        for order, submitted in zip(orders, jobs, strict=True):
            self._backend.remember(submitted)
            self._track(order, Entry(submitted.job_id, order.token, order.fingerprint, str(folder)))
        self._ledger.settle(mark)
        ids = jobs[0].job_id if len(jobs) == 1 else f"{jobs[0].job_id} to {jobs[-1].job_id}"
        self.logger.info(f"Submitted {len(jobs)} job{'s' * (len(jobs) > 1)} of rule {orders[0].job.name} as {ids}.")

    def _task(self, order: Order) -> "Task":
        from .task import Task  # imports submitit, which Snakemake on the nodes need not

        return Task(self.format_job_exec(order.job), order.token, order.folder, passes_on=not self._backend.signals_all)

    def _track(self, order: Order, entry: Entry) -> None:
        self._ledger.write(order.key, entry)
        tracked = self._tracked[order.token] = Tracked(order.job, order.key, entry)
        link = order.folder / log_name(order.job)
        link.unlink(missing_ok=True)
        link.symlink_to(tracked.log.name)
        self._interval.hurry()
        self.report_job_submission(SubmittedJobInfo(order.job, external_jobid=entry.id, aux={"token": order.token}))

    def _refuse(self, job: Any, error: Exception) -> None:
        wildcards = wildcards_text(job)
        which = f"rule {job.name} ({wildcards})" if wildcards else f"rule {job.name}"
        reason = "; ".join(str(error).splitlines())
        self.report_job_error(SubmittedJobInfo(job), msg=f"{which} was not submitted: {reason}")

    # -- jobs of a Snakemake that was killed

    def _adopt(self, order: Order) -> bool:
        """Take over an earlier run's job that does the same, if there is one; one that does another thing has to go first."""
        entry = self._ledger.earlier.pop(order.key, None)
        if entry is None:
            return False
        same = entry.fingerprint == order.fingerprint and not entry.cancelled
        record = Tracked(order.job, order.key, entry).record()
        if record is not None and record.succeeded:
            adopted = same and _fresh(order.job)
        elif (state := self._backend.ask([entry.id]).states.get(entry.id)) is None or state.ended:
            adopted = False
        elif not (adopted := same):
            self._backend.cancel([entry.id])
            order.asked["slurm_dependency"] = f"afterany:{entry.id}"
        if adopted:
            self.logger.info(f"Adopted job {entry.id} of an earlier run.")
            order.token = entry.token
            self._track(order, entry)
        return adopted

    # -- watching, in a thread of its own

    async def sleep(self) -> None:
        """Between two looks at the exit records."""
        await asyncio.sleep(TICK_SECONDS)

    async def check_active_jobs(self, active_jobs: list[SubmittedJobInfo]) -> AsyncGenerator[SubmittedJobInfo, None]:
        """Report the jobs that ended; yield those that did not."""
        pairs = [(info, self._tracked[info.aux["token"]]) for info in active_jobs if info.aux["token"] in self._tracked]
        self._look([tracked for _, tracked in pairs])
        for info, tracked in pairs:
            log = tail(tracked.log) if tracked.sight.doubtful else ""
            verdict = judge(tracked.sight, log, time.monotonic(), self._patience)
            if verdict is None:
                yield info
            else:
                self._end(info, tracked, verdict)

    def _look(self, jobs: Sequence[Tracked]) -> None:
        if _read_records(jobs):
            self._interval.hurry()
        open_jobs = {tracked.entry.id: tracked.sight for tracked in jobs if not tracked.sight.decided}
        if not open_jobs or not self._interval.due():
            return
        try:
            answer = self._backend.ask(open_jobs)
        except SlurmError as error:
            self._complain(error)
            self._interval.asked(changed=False)
            return
        self._silent = False
        changes = [sight.update(answer.states.get(job), job in answer.missing) for job, sight in open_jobs.items()]
        self._interval.asked(changed=any(changes))

    def _complain(self, error: SlurmError) -> None:
        if not self._silent:
            self.logger.warning(f"Slurm does not answer; what runs goes on, and is asked for again later ({error}).")
        self._silent = True

    def _end(self, info: SubmittedJobInfo, tracked: Tracked, verdict: Verdict) -> None:
        del self._tracked[tracked.entry.token]
        self._ledger.forget(tracked.key)
        if verdict.succeeded:
            _tidy(tracked)
            self.report_job_success(info)
            return
        if tracked.sight.alive:
            self._tell_to_go([tracked.entry.id])
        self.report_job_error(info, msg=failure(tracked.job, tracked.entry.id, self._settings.cluster, verdict, tracked.log))

    def print_job_error(self, job_info: SubmittedJobInfo, msg: str | None = None, **kwargs: Any) -> None:
        """Snakemake's error block, with the message and the cluster's id of the job."""
        if job_info.external_jobid is not None:
            kwargs["external_jobid"] = job_info.external_jobid
        job_info.job.log_error(msg, **kwargs)

    # -- the end

    def cancel(self) -> None:
        """On Ctrl-C: cancel what runs, or leave it to the next run."""
        self.cancel_jobs([])
        self.shutdown()

    def cancel_jobs(self, active_jobs: list[SubmittedJobInfo]) -> None:
        """Cancel (or leave) every job that has not ended; `active_jobs` lacks those that the poll holds, so it is not used."""
        jobs = list(self._tracked.values())
        if self._settings.leave_jobs:
            self.logger.info(f"Leaving {len(jobs)} jobs to run; the next run of this workflow adopts them.")
            return
        self._cancel(jobs)
        self._tracked.clear()

    def shutdown(self) -> None:
        """Stop watching. What jobs that still run were told to wait for is kept."""
        if not self._tracked:
            super().shutdown()
            return
        with self.lock:
            self.wait = False
        self.wait_thread.join()

    def _cancel(self, jobs: Sequence[Tracked]) -> None:
        self._tell_to_go([tracked.entry.id for tracked in jobs])
        for tracked in jobs:
            self._ledger.write(tracked.key, replace(tracked.entry, cancelled=True))

    def _tell_to_go(self, ids: list[str]) -> None:
        try:
            ghosts = self._backend.marked(self._ledger.unsettled) if self._ledger.unsettled else []
            self._backend.cancel([*ids, *ghosts])
        except SlurmError as error:
            self.logger.warning(f"Some jobs may not have been cancelled: {error}")


def _read_records(jobs: Iterable[Tracked]) -> bool:
    """Look for exit records, by one listing a folder; whether one tells of a failure, which the scheduler has to explain."""
    listings: dict[str, set[str]] = {}
    failed = False
    for tracked in jobs:
        folder = tracked.entry.folder
        if folder not in listings:
            listings[folder] = {path.name for path in Path(folder).iterdir()}
        if not tracked.sight.decided:
            there = record_path(Path(folder), tracked.entry.id).name in listings[folder]
            before, tracked.sight.record = tracked.sight.record, tracked.record() if there else None
            failed |= before is None and tracked.sight.record is not None and not tracked.sight.decided
    return failed


def _fresh(job: Any) -> bool:
    """Whether all outputs are there, and none is older than an input."""
    try:
        made = [Path(path).stat().st_mtime_ns for path in job.output]
        read = [Path(path).stat().st_mtime_ns for path in job.input]
    except OSError:
        return False
    return not made or not read or min(made) >= max(read)


def _tidy(tracked: Tracked) -> None:
    """Of a job that went well, keep the log alone."""
    folder, job = Path(tracked.entry.folder), tracked.entry.id
    for name in (f"{job}_submitted.pkl", f"{job}_0_result.pkl", record_path(folder, job).name):
        (folder / name).unlink(missing_ok=True)
