"""What runs on the node: the command of one job, its signals, and its exit record.

submitit unpickles a `Task` and calls it; no other module of this package is imported there but `record`. Two signals matter:

- SIGUSR2, ahead of the job's end (`--signal=B:USR2@N`), is handled by submitit, which calls `checkpoint`. The command is
  started with SIGUSR2 ignored, so that Snakemake and shells live on; a program that saves its state on SIGUSR2 installs a
  handler, saves, and exits with a code other than 0. Then submitit requeues the job. A program that knows nothing of the signal
  goes on to its end. Slurm sends it up to a minute early, to a short job perhaps while it starts: one that comes during the
  job's setup or the imports is kept (see `launch`), and it is passed on once a program has its handler.
- SIGTERM comes from scancel, from preemption and at the end of the time limit. Some clusters send it to all of a job's
  processes, some to this one alone: it is passed on where need be (not twice, for Snakemake may hang on a second one), and what
  the command started is waited for.
"""

import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import FrameType

from submitit import JobEnvironment
from submitit.core.utils import DelayedSubmission, UncompletedJobError

from .launch import EARLY, IGNORE, SAVE
from .record import ExitRecord, record_path, write_record

POLL_SECONDS = 0.1
HANDLER_POLL_SECONDS = 0.5  # at first
LONGEST_HANDLER_POLL_SECONDS = 4.0  # a look at a job of 200 processes takes 13 ms
INTERRUPT_SECONDS = 0.5


class Task:
    """A shell command to run as a job; pickled by submitit on the one side and called on the other."""

    # What changes while it runs is not in the pickle, which another version of this module may have written.
    _pid = 0  # of the command's shell, which leads a process group; 0 before it starts
    _warned_by: str | None = None

    def __init__(self, command: str, token: str, folder: Path, *, passes_on: bool = True) -> None:
        self.command, self.token, self.folder, self.passes_on = command, token, folder, passes_on

    def __call__(self) -> int:
        """Run the command and leave its exit record; on Slurm, end this process with the command's exit code."""
        path = record_path(self.folder, JobEnvironment().job_id)
        path.unlink(missing_ok=True)
        begun = time.monotonic()
        early = bool(os.environ.pop(EARLY, ""))
        self._start()
        outcome = self._outcome(early)
        record = self._record(outcome, time.monotonic() - begun)
        write_record(path, record)
        if os.environ.get("SUBMITIT_EXECUTOR") == "slurm":
            raise SystemExit(record.exit_code)
        return record.exit_code

    def checkpoint(self) -> DelayedSubmission | None:
        """Let the command save its state and leave; what to run once the job is requeued.

        None, for no requeue, if the command got done, if it ended before anything in it had a handler, or if it was still there
        when its time was up or the job was cancelled.
        """
        if self._pid and not self._save():
            return None
        return DelayedSubmission(Task(self.command, self.token, self.folder, passes_on=self.passes_on))

    def _start(self) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._on_terminate)
            signal.signal(signal.SIGINT, self._on_interrupt)
            if callable(handler := signal.getsignal(SAVE)):
                signal.signal(SAVE, partial(self._on_save, handler))
        self._waited = deque([(0, 0)], maxlen=1)  # waitpid's last answer: process and status, 0 and 0 while the command runs
        # A group of its own: signals reach the command and what it started, and not this process. The shell outlives SIGTERM,
        # lest what it started become an orphan that a cluster without cgroups never finds again.
        shell = ["/bin/sh", "-c", f"{IGNORE}\ntrap : TERM\n{self.command}"]
        self._pid = os.posix_spawn(shell[0], shell, os.environ, setpgroup=0, setsigmask=[], setsigdef=[signal.SIGPIPE])

    def _outcome(self, early: bool) -> int:
        """The command's exit code, negative if a signal ended it. The handler for SIGUSR2 may run inside.

        early: whether SIGUSR2 came before Python.
        """
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {SAVE})
        if early:
            os.kill(os.getpid(), SAVE)
        outcome = self._wait()
        if threading.current_thread() is threading.main_thread():
            signal.signal(SAVE, signal.SIG_IGN)
        return outcome

    def _save(self) -> bool:
        """Pass SAVE on once something in the command has a handler, and wait; whether the command is to be put back for it."""
        if self._runs():
            self._warned_by = SAVE.name
        pause, look = HANDLER_POLL_SECONDS, 0.0
        while self._runs():
            if time.monotonic() >= look:
                if self._has_handler():
                    self._pass_on(SAVE)
                    return self._wait() != 0 and self._warned_by == SAVE.name
                look, pause = time.monotonic() + pause, min(2 * pause, LONGEST_HANDLER_POLL_SECONDS)
            time.sleep(POLL_SECONDS)
        return False

    def _wait(self) -> int:
        """Wait for the command, and after a signal for all it started too; safe to call inside itself, from a handler.

        It asks again and again: a signal that another thread of the process took (numpy brings some) does not end a call that
        blocks, and Python would run its handler only after that.
        """
        while self._runs() or (self._warned_by and self._group_lives()):
            time.sleep(POLL_SECONDS)
        return os.waitstatus_to_exitcode(self._waited[0][1])

    def _runs(self) -> bool:
        """Whether the command, which was started, is not over."""
        if self._waited[0] == (0, 0):
            # In one call, without a gap for a handler between the child's end and the note of it. The handler's wait may have
            # seen the end meanwhile.
            with suppress(ChildProcessError):
                self._waited.extend(map(os.waitpid, [self._pid], [os.WNOHANG]))
        return self._waited[0] == (0, 0)

    def _has_handler(self) -> bool:
        """Whether a process of the command's group has a handler for SAVE; true where there is no /proc to tell."""
        if not Path("/proc/self/stat").exists():
            return True
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it has ended
                if os.getpgid(int(process.name)) != self._pid:
                    continue
                caught = re.search(rb"^SigCgt:\s*([0-9a-f]+)$", (process / "status").read_bytes(), re.MULTILINE)
                if caught and int(caught[1], 16) >> (SAVE - 1) & 1:
                    return True
        return False

    def _group_lives(self) -> bool:
        try:
            os.killpg(self._pid, 0)
        except ProcessLookupError:
            return False
        return True

    def _pass_on(self, number: signal.Signals) -> None:
        if self._pid:
            with suppress(ProcessLookupError):
                os.killpg(self._pid, number)

    def _on_save(self, handler: Callable[[int, FrameType | None], object], number: int, frame: FrameType | None) -> None:
        """Call submitit's handler, which raises where it does not requeue: what it interrupts has to go on, to the record."""
        try:
            handler(number, frame)
        except (UncompletedJobError, subprocess.SubprocessError, OSError) as error:
            print(f"not requeued: {error}", flush=True)

    def _on_terminate(self, number: int, frame: FrameType | None) -> None:
        self._warned_by = signal.Signals(number).name
        if self.passes_on:
            self._pass_on(signal.SIGTERM)

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:
        """The local backend cancels with SIGINT, and SIGKILL a second later, which would not reach the command."""
        self._on_terminate(number, frame)
        time.sleep(INTERRUPT_SECONDS)
        self._pass_on(signal.SIGKILL)

    def _record(self, outcome: int, seconds: float) -> ExitRecord:
        return ExitRecord(
            token=self.token,
            exit_code=outcome if outcome >= 0 else 128 - outcome,
            killed_by=signal.Signals(-outcome).name if outcome < 0 else None,
            warned_by=self._warned_by,
            node=os.environ.get("SLURMD_NODENAME") or socket.gethostname(),
            seconds=round(seconds, 3),
            requeues=int(os.environ.get("SLURM_RESTART_COUNT", 0)),
        )
