"""The part that runs on the node, through submitit's local backend."""

import ctypes
import os
import pickle
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import submitit

from snakemake_executor_plugin_submitit import launch
from snakemake_executor_plugin_submitit.launch import EARLY
from snakemake_executor_plugin_submitit.record import ExitRecord, read_record, record_path
from snakemake_executor_plugin_submitit.submission import PYTHON
from snakemake_executor_plugin_submitit.task import Task

SAVER = """
import pathlib, signal, sys, time
state = pathlib.Path("state")
def save(number, frame):
    state.write_text(signal.Signals(number).name)
    sys.exit(1)
for number in (signal.SIGUSR2, signal.SIGTERM):
    signal.signal(number, save)
pathlib.Path("ready").touch()
if state.exists():
    sys.exit(0)
time.sleep(30)
"""


def wait_for(what: Callable[[], object]) -> None:
    end = time.monotonic() + 20
    while not what():
        assert time.monotonic() < end
        time.sleep(0.02)


def submit(folder: Path, command: str) -> "submitit.Job[Any]":
    executor = submitit.AutoExecutor(folder=folder, cluster="local")
    executor.update_parameters(timeout_min=5)
    return executor.submit(Task(f"cd '{folder}'\n{command}", "token", folder))


def process_of(job: "submitit.Job[Any]") -> int:
    """The process that runs the task: the controller's child."""
    (pid,) = Path(f"/proc/{job.job_id}/task/{job.job_id}/children").read_text().split()
    return int(pid)


def record_of(job: "submitit.Job[Any]") -> ExitRecord:
    wait_for(job.done)
    record = read_record(record_path(job.paths.folder, job.job_id), "token")
    assert record is not None
    return record


def saved_and_finished(folder: Path, command: str, started: str) -> ExitRecord:
    """The record of a job that is warned once the file `started` is there, saves its state, and in its second go finishes."""
    job = submit(folder, f"{command} && touch finished")
    wait_for((folder / started).exists)
    os.kill(process_of(job), signal.SIGUSR2)
    record = record_of(job)
    assert (folder / "state").read_text() == "SIGUSR2"
    assert (folder / "finished").exists()
    return record


def test_nothing_heavy_is_imported_before_the_command() -> None:
    check = (
        "import sys, snakemake_executor_plugin_submitit.task; "
        "print(sorted({name.split('.')[0] for name in sys.modules} & {'torch', 'bsc', 'snakemake', 'pandas', 'transformers', "
        "'snakemake_interface_executor_plugins'}))"
    )
    assert subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_pickle_holds_nothing_of_a_run(tmp_path: Path) -> None:
    """Another version of the module may have other things to note of one."""
    task = pickle.loads(pickle.dumps(Task("exit 0", "token", tmp_path)))
    assert set(vars(task)) == {"command", "token", "folder", "passes_on"}
    assert task.checkpoint() is not None  # a signal before the command is started


def test_what_a_job_leaves(tmp_path: Path) -> None:
    good, bad, killed = submit(tmp_path, "sleep 0.2"), submit(tmp_path, "echo it hurts; exit 3"), submit(tmp_path, "kill -9 $$")
    record = record_of(good)
    assert (record.exit_code, record.killed_by, record.warned_by, record.requeues) == (0, None, None, 0)
    assert 0.2 <= record.seconds < 20
    assert record.node == os.uname().nodename
    assert record_of(bad).exit_code == 3
    assert "it hurts" in (bad.stdout() or "")
    assert (record_of(killed).exit_code, record_of(killed).killed_by) == (137, "SIGKILL")


def test_a_program_that_saves_is_put_back_and_goes_on(tmp_path: Path) -> None:
    (tmp_path / "saver.py").write_text(SAVER)
    record = saved_and_finished(tmp_path, f"{sys.executable} saver.py", "ready")
    assert (record.exit_code, record.warned_by) == (0, None)  # of the second go


def test_a_signal_that_another_thread_takes_is_heeded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two signals in a row, as SIGCONT and SIGUSR2 from Slurm, Linux may hand the second to a thread of numpy's."""
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "2")
    (tmp_path / "saver.py").write_text(SAVER)
    job = submit(tmp_path, f"{sys.executable} saver.py && touch finished")
    wait_for((tmp_path / "ready").exists)
    process = process_of(job)
    other = max(int(thread.name) for thread in Path(f"/proc/{process}/task").iterdir())
    assert other != process
    assert ctypes.CDLL(None).tgkill(process, other, signal.SIGUSR2) == 0
    wait_for((tmp_path / "state").exists)
    assert record_of(job).exit_code == 0
    assert (tmp_path / "finished").exists()


def test_a_signal_at_the_very_end_of_the_command_hangs_nothing(tmp_path: Path) -> None:
    """The handler's turn comes right after the call that saw the command's end."""
    program = """
import sys
from pathlib import Path
from snakemake_executor_plugin_submitit.task import Task

def handler(frame, event, called):
    if event == "c_return" and not Path(f"/proc/{task._pid}").exists():
        sys.setprofile(None)
        print("put back:", task.checkpoint() is not None)

task = Task("exit 0", "token", Path())
task._start()
sys.setprofile(handler)
print("exit code:", task._wait())
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=20, cwd=tmp_path, check=True)
    assert ran.stdout == "put back: False\nexit code: 0\n"


def test_a_signal_after_the_end_of_the_command_loses_no_record(tmp_path: Path) -> None:
    """submitit's handler, which raises where it does not requeue, has its turn at each step from the end to the record."""
    program = """
import os, signal, sys
from pathlib import Path
from submitit import JobEnvironment
from submitit.core.utils import DelayedSubmission, JobPaths
from snakemake_executor_plugin_submitit import task as module
from snakemake_executor_plugin_submitit.record import read_record

module.POLL_SECONDS = 0.01
for step in range(40):
    os.environ.update(SUBMITIT_EXECUTOR="local", SUBMITIT_LOCAL_JOB_ID=str(step))
    task = module.Task("exit 3", "token", Path())
    JobEnvironment()._handle_signals(JobPaths(".", str(step)), DelayedSubmission(task))
    steps = 0
    def handler(frame, event, called):
        global steps
        if task._pid and not Path(f"/proc/{task._pid}").exists():
            steps += 1
            if steps > step:
                sys.setprofile(None)
                os.kill(os.getpid(), signal.SIGUSR2)
    sys.setprofile(handler)
    task()
    sys.setprofile(None)
    record = read_record(Path(f"{step}_exit.json"), "token")
    assert (record.exit_code, record.warned_by) == (3, None), step
"""
    subprocess.run([sys.executable, "-c", program], timeout=60, cwd=tmp_path, check=True)


def test_a_signal_waits_for_a_program_that_is_still_starting(tmp_path: Path) -> None:
    (tmp_path / "saver.py").write_text(SAVER.replace("state = ", "pathlib.Path('starting').touch(); time.sleep(2); state = "))
    record = saved_and_finished(tmp_path, f"{sys.executable} saver.py", "starting")
    assert (record.exit_code, record.warned_by) == (0, None)


def test_a_program_that_waits_for_the_signal_gets_it_if_it_has_a_handler_too(tmp_path: Path) -> None:
    program = """
import pathlib, signal, sys
if pathlib.Path("state").exists():
    sys.exit(0)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
signal.signal(signal.SIGUSR2, lambda number, frame: None)
pathlib.Path("ready").touch()
pathlib.Path("state").write_text(signal.sigwait({signal.SIGUSR2}).name)
sys.exit(1)
"""
    (tmp_path / "waiter.py").write_text(program)
    assert saved_and_finished(tmp_path, f"{sys.executable} waiter.py", "ready").exit_code == 0


def test_handlers_are_looked_for_ever_more_rarely_and_the_end_all_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = Task("sleep 30", "token", tmp_path)
    task._start()
    now, looks = 0.0, []

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds
        if now > 14:
            os.killpg(task._pid, signal.SIGKILL)
            os.waitid(os.P_PID, task._pid, os.WEXITED | os.WNOWAIT)

    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(task, "_has_handler", lambda: looks.append(now))
    assert task.checkpoint() is None
    assert looks == pytest.approx([0, 0.5, 1.5, 3.5, 7.5, 11.5], abs=0.6)
    assert now < 14.2


def test_a_name_that_is_cut_inside_of_a_letter_disturbs_nothing(tmp_path: Path) -> None:
    """Linux cuts a process's name after 15 bytes."""
    named = tmp_path / "aaaaaaaaaaaaaa\u00e9"
    named.symlink_to("/bin/sleep")
    (tmp_path / "saver.py").write_text(SAVER)
    command = f"touch started; '{named}' 2; {sys.executable} saver.py"
    assert saved_and_finished(tmp_path, command, "started").exit_code == 0


def test_a_command_that_fails_without_a_handler_is_not_put_back(tmp_path: Path) -> None:
    job = submit(tmp_path, "echo >> ready; sleep 1; exit 3")
    wait_for((tmp_path / "ready").exists)
    os.kill(process_of(job), signal.SIGUSR2)
    record = record_of(job)
    assert (record.exit_code, record.warned_by) == (3, "SIGUSR2")
    assert (tmp_path / "ready").read_text() == "\n"


def test_a_signal_in_the_batch_script_is_as_one_that_comes_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "saver.py").write_text(SAVER)
    monkeypatch.setenv(EARLY, "1")
    job = submit(tmp_path, f"echo ${EARLY} >> early; {sys.executable} saver.py && touch finished")
    wait_for((tmp_path / "state").exists)
    job.cancel()  # the local backend starts it anew with the same environment, and it would save for ever
    assert (tmp_path / "state").read_text() == "SIGUSR2"
    assert set((tmp_path / "early").read_text()) == {"\n"}


@pytest.mark.parametrize("late", ["interpreter", "imports", "imports, with an old env"])
def test_a_signal_waits_for_a_python_that_is_still_starting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: str) -> None:
    program = """
import signal, sys, time
print("starting", flush=True)
sys.stdin.readline()
signal.signal(signal.SIGUSR2, lambda number, frame: print("saved"))
print("ready")
signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR2})
"""
    script = f"{launch.KEEP}\n{PYTHON} -c {shlex.quote(program)}"
    if late == "interpreter":
        if subprocess.run(["env", "--block-signal=USR2", "true"]).returncode != 0:
            pytest.skip("this env blocks no signals")
        slow = tmp_path / "python"
        slow.write_text(f'#!/bin/sh\necho starting; read line; exec {shlex.quote(sys.executable)} "$@"\n')
        script = script.replace(shlex.quote(sys.executable), str(slow))
    elif late == "imports, with an old env":
        (tmp_path / "env").write_text("#!/bin/sh\nexit 125\n")
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    for made in tmp_path.iterdir():
        made.chmod(0o755)
    with subprocess.Popen(["bash", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "starting\n"
        process.send_signal(signal.SIGUSR2)
        output, _ = process.communicate("\n\n", timeout=20)
    assert process.returncode == 0
    assert output.removeprefix("starting\n") == "ready\nsaved\n"


def test_a_program_that_knows_no_signal_goes_on_to_its_end(tmp_path: Path) -> None:
    job = submit(tmp_path, "touch ready; sleep 1; touch finished")
    wait_for((tmp_path / "ready").exists)
    os.kill(process_of(job), signal.SIGUSR2)
    record = record_of(job)
    assert (tmp_path / "finished").exists()
    assert (record.exit_code, record.warned_by) == (0, "SIGUSR2")


def test_a_program_that_is_cancelled_after_the_signal_is_not_put_back(tmp_path: Path) -> None:
    job = submit(tmp_path, "echo >> ready; sleep 30")
    wait_for((tmp_path / "ready").exists)
    task = process_of(job)
    os.kill(task, signal.SIGUSR2)
    wait_for(lambda: "Calling checkpoint method" in (job.stdout() or ""))
    os.kill(task, signal.SIGTERM)
    record = record_of(job)
    assert (record.exit_code, record.warned_by) == (143, "SIGTERM")
    assert (tmp_path / "ready").read_text() == "\n"


def test_sigterm_is_passed_on_and_waited_for(tmp_path: Path) -> None:
    """A shell between dies of SIGTERM at once; the record is written when the program below it has saved and left."""
    (tmp_path / "saver.py").write_text(SAVER.replace("state.write_text", "time.sleep(1); state.write_text"))
    job = submit(tmp_path, f"bash -c '{sys.executable} saver.py; exit 4'")
    wait_for((tmp_path / "ready").exists)
    os.kill(process_of(job), signal.SIGTERM)
    record = record_of(job)
    assert record.warned_by == "SIGTERM"
    assert record.exit_code == 143
    assert record.seconds >= 1
    assert (tmp_path / "state").read_text() == "SIGTERM"


def test_a_cancelled_local_job_leaves_no_process(tmp_path: Path) -> None:
    job = submit(tmp_path, "echo $$ > pid; trap '' TERM; sleep 30; sleep 30")
    wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    shell = int((tmp_path / "pid").read_text())
    job.cancel()
    wait_for(job.done)
    wait_for(lambda: not Path(f"/proc/{shell}").exists())


def test_a_debug_job_runs_here(tmp_path: Path) -> None:
    executor = submitit.AutoExecutor(folder=tmp_path, cluster="debug")
    job = executor.submit(Task("exit 7", "token", tmp_path))
    assert job.result() == 7
    assert record_of(job).exit_code == 7


@pytest.mark.parametrize("code", [0, 5])
def test_on_slurm_the_process_ends_with_the_commands_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setenv("SLURMD_NODENAME", "node7")
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)}
    try:
        with pytest.raises(SystemExit) as ended:
            Task(f"exit {code}", "token", tmp_path)()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert ended.value.code == code
    record = read_record(tmp_path / "12_exit.json", "token")
    assert record is not None
    assert (record.exit_code, record.node) == (code, "node7")
