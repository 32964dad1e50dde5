"""Jobs that fail, each in its own way: the user reads which, where and why, and the other jobs go on."""

import re

import pytest
from slurm_cluster import Workflow, wait_for

ONE = """
rule all:
    input: "bad.txt", "good.txt"
rule good:
    output: "good.txt"
    shell: "touch {{output}}"
rule bad:
    output: "{{name}}.txt"
    wildcard_constraints: name="bad"
    resources: {resources}
    shell: {shell!r}
"""


def failing(workflow: Workflow, shell: str, resources: str = "runtime=10", *arguments: str) -> str:
    """Run a workflow in which rule `bad` fails and rule `good` does not; the failure's block in Snakemake's output."""
    workflow.write(ONE.format(shell=shell, resources=resources))
    code, output = workflow.run("--keep-going", *arguments)
    assert code == 1, output
    assert workflow.has("good.txt"), output
    blocks = re.findall(r"^Error in rule bad:\n(?:    .*\n)+", output, re.MULTILINE)
    assert len(blocks) == 1, output
    return blocks[0]


def test_a_command_that_fails(workflow: Workflow) -> None:
    block = failing(workflow, "seq 100; echo the reason >&2; exit 3")
    assert re.search(r"rule bad \(name=bad\): slurm job \d+ on gpu[12] failed: exit code 1\.", block)
    assert len(re.findall(r"^ {8}the reason$", block, re.MULTILINE)) == 1
    log = re.search(r"the last lines of (\S+):\n((?: {8}.*\n)+)", block)
    assert log is not None
    assert log[1].startswith(str(workflow.folder / "logs/slurm/bad"))
    assert 5 < len(log[2].splitlines()) <= 20


def test_the_rules_own_log_is_shown_where_there_is_one(workflow: Workflow) -> None:
    workflow.write(
        'rule bad:\n    output: "bad.txt"\n    log: "bad.log"\n    shell: "(seq 50; echo the reason; exit 3) > {log} 2>&1"\n'
    )
    code, output = workflow.run()
    assert code == 1
    shown = re.search(r"the last lines of bad.log:\n((?: {8}.*\n)+)", output)
    assert shown is not None
    assert shown[1].split() == [*map(str, range(32, 51)), "the", "reason"]


def test_a_job_over_its_memory(workflow: Workflow) -> None:
    block = failing(workflow, 'python3 -c "x = bytearray(10 ** 9); import time; time.sleep(60)"')
    assert "failed: OUT_OF_MEMORY" in block


def test_a_retry_asks_for_more(workflow: Workflow) -> None:
    workflow.write(
        """
rule big:
    output: "big.txt"
    retries: 1
    resources: mem_mb=lambda wildcards, attempt: 400 * attempt ** 2, runtime=lambda wildcards, attempt: 5 * attempt
    shell: "python3 -c 'x = bytearray(5 * 10 ** 8); import time; time.sleep(3)'; scontrol show job $SLURM_JOB_ID > {output}"
"""
    )
    code, output = workflow.run()
    assert code == 0, output
    assert output.count("OUT_OF_MEMORY") == 1
    assert "TimeLimit=00:10:00" in workflow.read("big.txt")


def test_scancel_from_outside(workflow: Workflow) -> None:
    workflow.write('rule long:\n    output: "x.txt"\n    shell: "touch started; sleep 300"\n')
    process = workflow.start()
    wait_for(lambda: workflow.has("started"))
    (job,) = workflow.cluster.jobs("RUNNING")
    workflow.cluster.call("scancel", job)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert re.search(rf"slurm job {job} on gpu[12] failed: CANCELLED", output), output


def test_scancel_of_a_queued_job(workflow: Workflow) -> None:
    workflow.write(
        'rule all:\n    input: "a.txt", "b.txt"\n'
        'rule long:\n    output: "{x}.txt"\n    threads: 8\n'
        '    resources: slurm_extra="--nodelist=gpu1"\n    shell: "sleep 300"\n'
    )
    process = workflow.start("--keep-going")
    wait_for(lambda: workflow.cluster.jobs("RUNNING") and workflow.cluster.jobs("PENDING"))
    workflow.cluster.call("scancel", "--state=PENDING", "--user=root")
    wait_for(lambda: not workflow.cluster.jobs("PENDING"))
    workflow.cluster.call("scancel", "--user=root")
    output, _ = process.communicate(timeout=60)
    assert output.count("failed: CANCELLED") == 2, output


@pytest.mark.parametrize(
    ("resources", "complaint"),
    [
        ('slurm_partition="nowhere"', "Invalid partition name specified"),
        ("gpus=9", "Requested node configuration is not available"),
        ('slurm_extra="--output=x"', "slurm_extra: --output is set by the plugin"),
        ("runtime=0", "no runtime"),
    ],
)
def test_a_job_that_cannot_be_submitted(workflow: Workflow, resources: str, complaint: str) -> None:
    """It fails with the reason; its slot is free again, else `-j 1` would never get to the other job."""
    block = failing(workflow, "touch {output}", resources, "-j", "1", "--rerun-triggers", "mtime")
    assert "rule bad (name=bad) was not submitted: " in block
    assert complaint in block
