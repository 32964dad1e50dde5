"""What a workflow sees of a healthy cluster: arrays, GPUs, quoting, late files, and few questions to the scheduler."""

import stat
import threading
import time
from pathlib import Path

from slurm_cluster import Workflow, wait_for

MANY = """
rule all:
    input: expand("out/{i}.txt", i=range(12)), "sum.txt"
rule one:
    output: "out/{i}.txt"
    shell: "echo {wildcards.i} > {output}; echo $SLURM_ARRAY_JOB_ID >> arrays.txt"
rule sum:
    input: expand("out/{i}.txt", i=range(12))
    output: "sum.txt"
    shell: "cat {input} | sort -n > {output}"
"""


def submissions(workflow: Workflow, rule: str) -> list[Path]:
    return list((workflow.folder / "logs/slurm" / rule).glob("*_submission.sh"))


def test_ready_jobs_of_one_rule_are_one_array(workflow: Workflow) -> None:
    workflow.write(MANY)
    code, output = workflow.run()
    assert code == 0, output
    assert workflow.read("sum.txt").split() == [str(number) for number in range(12)]
    assert len(submissions(workflow, "one")) == 1
    assert len(set(workflow.read("arrays.txt").split())) == 1
    left = {path.name.split("_", 1)[1] for path in (workflow.folder / "logs/slurm/sum").iterdir() if "_" in path.name}
    assert left == {"0_log.out", "submission.sh"}  # no pickles, no records, once all is well
    assert "11" in (workflow.folder / "logs/slurm/one/i=11.log").resolve().read_text()
    assert list((workflow.folder / ".snakemake/submitit").iterdir()) == []


def test_arrays_are_split_at_the_configured_size(workflow: Workflow) -> None:
    workflow.write(MANY)
    code, output = workflow.run("--submitit-array-size", "5", "--until", "one")
    assert code == 0, output
    assert len(submissions(workflow, "one")) == 3


def test_gpus_names_and_constraints_reach_the_job(workflow: Workflow) -> None:
    workflow.write(
        """
rule all:
    input: "one.txt", "two.txt", "cpu.txt"
rule one:
    output: "one.txt"
    resources: gpus=1
    shell: "echo $CUDA_VISIBLE_DEVICES > {output}"
rule two:
    output: "two.txt"
    threads: 3
    resources: gres="gpu:2", slurm_partition="urgent", slurm_extra="--exclude=gpu1 --nice=5"
    shell: "echo $CUDA_VISIBLE_DEVICES $SLURM_JOB_PARTITION $SLURMD_NODENAME $SLURM_CPUS_PER_TASK > {output}"
rule cpu:
    output: "cpu.txt"
    shell: "echo none${{CUDA_VISIBLE_DEVICES:-}} $SLURM_JOB_NAME > {output}"
"""
    )
    code, output = workflow.run()
    assert code == 0, output
    assert workflow.read("one.txt").strip() in "0123"
    gpus, partition, node, cpus = workflow.read("two.txt").split()
    assert len(gpus.split(",")) == 2
    assert (partition, node, cpus) == ("urgent", "gpu2", "3")
    assert workflow.read("cpu.txt") == "none cpu\n"


def test_spaces_and_quotes_survive(workflow: Workflow) -> None:
    workflow.write(
        """
TEXT = "a 'b' \\"c\\" $HOME; `d` \\\\ é"
rule all:
    input: "out/it's $HOME.txt"
rule quoted:
    output: "out/{name}.txt"
    params: text=TEXT
    shell: "printf '%s' {params.text:q} > {output:q}"
"""
    )
    code, output = workflow.run()
    assert code == 0, output
    assert workflow.read("out/it's $HOME.txt") == "a 'b' \"c\" $HOME; `d` \\ é"


def test_an_output_that_appears_late(workflow: Workflow) -> None:
    workflow.write('rule late:\n    output: "late.txt"\n    shell: "touch started"\n')

    def deliver() -> None:
        wait_for(lambda: workflow.has("started"))
        time.sleep(3)
        (workflow.folder / "late.txt").touch()

    threading.Thread(target=deliver, daemon=True).start()
    code, output = workflow.run()
    assert code == 0, output


def test_one_question_an_interval_whatever_the_number_of_jobs(workflow: Workflow) -> None:
    """With an interval of 4 s and 40 jobs that run for 12 s, squeue is asked a handful of times, sacct and srun never."""
    tools = workflow.folder / "tools"
    tools.mkdir()
    for name in ("squeue", "sacct", "srun", "sbatch", "scontrol"):
        shim = tools / name
        shim.write_text(f'#!/bin/sh\necho {name} >> "{workflow.folder}/calls"\nexec /usr/bin/{name} "$@"\n')
        shim.chmod(shim.stat().st_mode | stat.S_IXUSR)
    workflow.environment["PATH"] = f"{tools}:{workflow.cluster.environment['PATH']}"
    workflow.write(
        """
rule all:
    input: expand("{i}.txt", i=range(16))
rule nap:
    output: "{i}.txt"
    shell: "sleep 12; touch {output}"
"""
    )
    begun = time.monotonic()
    code, output = workflow.run("--seconds-between-status-checks", "4")
    assert code == 0, output
    calls = workflow.read("calls").split()
    assert calls.count("sbatch") == 1
    assert 2 <= calls.count("squeue") <= (time.monotonic() - begun) / 4 + 1
    assert calls.count("scontrol") == 1  # the cluster's limits, at the start
    assert "sacct" not in calls
    assert "srun" not in calls
