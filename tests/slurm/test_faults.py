"""Things that break in the night: nodes, controllers, Snakemake itself, time limits and preemption."""

import os
import re
import signal
import textwrap
from contextlib import suppress
from pathlib import Path

import pytest
from slurm_cluster import Workflow, wait_for

NAP = """
rule nap:
    output: "nap.txt"
    params: text="{text}"
    shell: "echo {{params.text}} >> ran; sleep {seconds}; echo {{params.text}} > {{output}}"
"""

# Adds up the numbers below 400, slowly; on a signal it saves what it has and leaves. The sum tells whether a number was lost or
# counted twice, and `starts` how often it was begun.
COUNTER = textwrap.dedent(
    """
    import json, pathlib, signal, sys, time

    state = pathlib.Path("counter.json")
    number, total = json.loads(state.read_text()) if state.exists() else (0, 0)
    with open("starts", "a") as starts:
        print(number, file=starts)
    leave = []
    for name in (signal.SIGUSR2, signal.SIGTERM):
        signal.signal(name, lambda received, frame: leave.append(received))
    while number < 400:
        if leave:
            state.with_suffix(".new").write_text(json.dumps([number, total]))
            state.with_suffix(".new").rename(state)
            print("saved at", number, "on", signal.Signals(leave[0]).name)
            sys.exit(1)
        total, number = total + number, number + 1
        time.sleep(SECONDS)
    pathlib.Path(sys.argv[1]).write_text(str(total))
    """
)
COUNT = 'rule count:\n    output: "sum.txt"\n    resources: runtime={minutes}\n    shell: "python3 counter.py {{output}}"\n'
SUM = str(sum(range(400)))


def program(seconds: float) -> str:
    return COUNTER.replace("SECONDS", str(seconds))


def counter(workflow: Workflow, seconds: float, minutes: int = 10) -> None:
    workflow.write(COUNT.format(minutes=minutes), counter__py=program(seconds))


def warn(workflow: Workflow) -> str:
    """Send the one running job the signal that Slurm sends ahead of the time limit; its id."""
    (job,) = workflow.cluster.jobs("RUNNING")
    workflow.cluster.call("scancel", "--batch", "--signal=USR2", job)
    return job


def test_the_controller_is_restarted(workflow: Workflow) -> None:
    workflow.write(NAP.format(text="x", seconds=8))
    process = workflow.start()
    wait_for(lambda: workflow.has("ran"))
    workflow.cluster.stop("slurmctld", signal.SIGTERM)
    try:
        wait_for(lambda: workflow.has("nap.txt"), 60)
    finally:
        workflow.cluster.start("slurmctld")
    code, output = workflow.finish(process)
    assert code == 0, output
    assert workflow.read("ran") == "x\n"


def test_the_controller_is_away_while_jobs_become_ready(workflow: Workflow) -> None:
    workflow.write(
        NAP.format(text="x", seconds=6)
        + 'rule then:\n    input: "nap.txt"\n    output: "then.txt"\n    shell: "cp {input} {output}"\n'
    )
    process = workflow.start("then.txt")
    wait_for(lambda: workflow.has("ran"))
    workflow.cluster.stop("slurmctld", signal.SIGTERM)
    try:
        wait_for(lambda: workflow.has("logs/slurm/then"), 60)  # being submitted, in vain
    finally:
        workflow.cluster.start("slurmctld")
    code, output = workflow.finish(process)
    assert code == 0, output
    assert workflow.read("then.txt") == "x\n"


def test_a_node_dies_under_a_job(workflow: Workflow) -> None:
    """slurmd and all it started are killed: Slurm requeues the job once the node counts as down, and it runs on the other."""
    workflow.write(NAP.format(text="$SLURMD_NODENAME", seconds=8))
    process = workflow.start()
    wait_for(lambda: workflow.has("ran"))
    node = workflow.read("ran").strip()
    (job,) = workflow.cluster.jobs("RUNNING")
    steps = [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/cmdline") if f"slurmstepd: [{job}." in _text(path)]
    workflow.cluster.stop(f"slurmd.{node}", signal.SIGKILL)
    try:
        for pid in [*steps, *(child for step in steps for child in _descendants(step))]:
            _kill(pid)
        code, output = workflow.finish(process)
    finally:
        workflow.cluster.start(f"slurmd.{node}")
    assert code == 0, output
    assert workflow.read("ran").split()[0] == node
    assert workflow.read("nap.txt").strip() in ("gpu1", "gpu2")


def test_a_slurmd_dies_and_its_job_lives(workflow: Workflow) -> None:
    workflow.write(NAP.format(text="$SLURMD_NODENAME", seconds=8))
    process = workflow.start()
    wait_for(lambda: workflow.has("ran"))
    node = workflow.read("ran").strip()
    workflow.cluster.stop(f"slurmd.{node}", signal.SIGKILL)
    wait_for(lambda: workflow.has("nap.txt"), 30)
    workflow.cluster.start(f"slurmd.{node}")
    code, output = workflow.finish(process)
    assert code == 0, output
    assert workflow.read("ran") == f"{node}\n"


def test_ctrl_c_cancels_what_runs(workflow: Workflow) -> None:
    workflow.write(NAP.format(text="x", seconds=300))
    process = workflow.start()
    wait_for(lambda: workflow.has("ran"))
    process.send_signal(signal.SIGINT)
    code, output = workflow.finish(process, 30)
    assert code != 0
    wait_for(lambda: not workflow.cluster.jobs("RUNNING", "PENDING"), 5)
    assert "Terminating" in output


def test_ctrl_c_leaves_what_runs_if_told_to_and_the_next_run_adopts_it(workflow: Workflow) -> None:
    workflow.write(NAP.format(text="x", seconds=12))
    process = workflow.start("--submitit-leave-jobs")
    wait_for(lambda: workflow.has("ran"))
    process.send_signal(signal.SIGINT)
    _, output = workflow.finish(process, 30)
    assert "Leaving 1 jobs" in output
    assert len(workflow.cluster.jobs("RUNNING")) == 1
    code, output = workflow.run("--rerun-incomplete")
    assert code == 0, output
    assert "Adopted job" in output
    assert workflow.read("ran") == "x\n"


def killed(workflow: Workflow, text: str, seconds: int) -> None:
    """A run whose Snakemake was killed while its job ran."""
    workflow.write(NAP.format(text=text, seconds=seconds))
    process = workflow.start()
    wait_for(lambda: workflow.has("ran"))
    process.kill()
    process.wait()


def test_a_killed_snakemakes_job_is_adopted(workflow: Workflow) -> None:
    killed(workflow, "x", 12)
    code, output = workflow.run("--rerun-incomplete", "--nolock")
    assert code == 0, output
    assert "Adopted job" in output
    assert workflow.read("ran") == "x\n"


def test_queued_jobs_are_adopted_too(workflow: Workflow) -> None:
    workflow.write(
        """
rule all:
    input: expand("{i}.txt", i=range(3))
rule nap:
    output: "{i}.txt"
    threads: 8
    resources: slurm_extra="--nodelist=gpu1"
    shell: "echo {wildcards.i} >> ran; sleep 5; touch {output}"
"""
    )
    process = workflow.start()
    wait_for(lambda: workflow.has("ran"))
    process.kill()
    process.wait()
    assert len(workflow.cluster.jobs("PENDING")) == 2
    code, output = workflow.run("--rerun-incomplete", "--nolock")
    assert code == 0, output
    assert output.count("Adopted job") == 3
    assert sorted(workflow.read("ran").split()) == ["0", "1", "2"]


def test_a_job_that_runs_something_else_by_now_is_replaced(workflow: Workflow) -> None:
    killed(workflow, "old", 300)
    workflow.write(NAP.format(text="new", seconds=1))
    code, output = workflow.run("--rerun-incomplete", "--nolock")
    assert code == 0, output
    assert workflow.read("ran") == "old\nnew\n"
    assert workflow.read("nap.txt") == "new\n"


def test_a_submission_that_was_never_written_down_is_cleared(workflow: Workflow) -> None:
    """Killed between sbatch and its note: what carries the mark is cancelled before anything is submitted anew."""
    workflow.write(NAP.format(text="x", seconds=1))
    ledger = workflow.folder / ".snakemake/submitit"
    ledger.mkdir(parents=True)
    (ledger / "snakemake-lost.mark").touch()
    workflow.cluster.call("sbatch", "--comment=snakemake-lost", "--output=/dev/null", "--wrap=sleep 300")
    code, output = workflow.run()
    assert code == 0, output
    assert workflow.cluster.jobs() == []
    assert list(ledger.iterdir()) == []


def test_preemption_by_requeue(workflow: Workflow) -> None:
    """A job of a partition that may preempt takes the whole cluster; the counter saves, waits, and goes on where it was."""
    counter(workflow, 0.08)
    process = workflow.start()
    wait_for(lambda: workflow.has("starts"))
    urgent = ["--partition=urgent", "--nodes=2", "--ntasks-per-node=8", "--output=/dev/null", "--wrap=sleep 5"]
    workflow.cluster.call("sbatch", *urgent)
    code, output = workflow.finish(process)
    assert code == 0, output
    assert workflow.read("sum.txt") == SUM
    starts = workflow.read("starts").split()
    assert starts[0] == "0"
    assert len(starts) == 2
    assert int(starts[1]) > 0


def test_requeue_by_an_administrator(workflow: Workflow) -> None:
    counter(workflow, 0.03)
    process = workflow.start()
    wait_for(lambda: workflow.has("starts"))
    (job,) = workflow.cluster.jobs("RUNNING")
    workflow.cluster.call("scontrol", "requeue", job)
    code, output = workflow.finish(process)
    assert code == 0, output
    assert workflow.read("sum.txt") == SUM
    assert len(workflow.read("starts").split()) == 2


def test_the_save_signal_requeues_a_job_that_saves(workflow: Workflow) -> None:
    """The signal that Slurm sends ahead of the time limit, sent by hand."""
    counter(workflow, 0.03)
    process = workflow.start()
    wait_for(lambda: workflow.has("starts"))
    job = warn(workflow)
    code, output = workflow.finish(process)
    assert code == 0, output
    assert workflow.read("sum.txt") == SUM
    starts = workflow.read("starts").split()
    assert len(starts) == 2
    assert int(starts[1]) > 0
    assert f"saved at {starts[1]} on SIGUSR2" in (workflow.folder / f"logs/slurm/count/{job}_0_log.out").read_text()


@pytest.mark.parametrize("late", ["batch script", "program"])
def test_the_save_signal_comes_while_the_job_starts(workflow: Workflow, late: str) -> None:
    counter(workflow, 0.02)
    if late == "program":
        starting = 'import time\nopen("starting", "w").close()\ntime.sleep(3)\n'
        (workflow.folder / "counter.py").write_text(starting + program(0.02))
    process = workflow.start(*(["--submitit-setup", "touch starting; sleep 3"] if late == "batch script" else []))
    wait_for(lambda: workflow.has("starting"))
    warn(workflow)
    code, output = workflow.finish(process)
    assert code == 0, output
    assert workflow.read("sum.txt") == SUM
    assert len(workflow.read("starts").split()) == 2


def test_the_save_signal_leaves_other_jobs_alone(workflow: Workflow) -> None:
    workflow.write(NAP.format(text="x", seconds=6))
    process = workflow.start()
    wait_for(lambda: workflow.has("ran"))
    warn(workflow)
    code, output = workflow.finish(process)
    assert code == 0, output
    assert workflow.read("ran") == "x\n"


@pytest.mark.slow
def test_time_limits(workflow: Workflow) -> None:
    """Of two jobs that need more than their time, the one that saves is done in the end, and the other is a TIMEOUT.

    Slurm may send its signal up to a minute early, so a job of one minute can be sent it while its program is still starting.
    """
    counter(workflow, 0.32, minutes=2)
    snakefile = (workflow.folder / "Snakefile").read_text()
    both = 'rule all:\n    input: "sum.txt", "never.txt"\n'
    never = 'rule never:\n    output: "never.txt"\n    resources: runtime=1\n    shell: "sleep 600"\n'
    workflow.write(both + snakefile + never)
    code, output = workflow.finish(workflow.start("--keep-going"), 400)
    assert code == 1
    assert re.search(r"rule never: slurm job \d+ on gpu[12] failed: TIMEOUT", output), output
    assert workflow.read("sum.txt") == SUM
    assert len(workflow.read("starts").split()) >= 2


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _descendants(pid: int) -> list[int]:
    children = [int(child) for task in Path(f"/proc/{pid}/task").glob("*/children") for child in _text(task).split()]
    return [*children, *(grandchild for child in children for grandchild in _descendants(child))]


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
