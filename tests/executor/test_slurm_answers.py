from collections.abc import Sequence

import pytest

from snakemake_executor_plugin_submitit import slurm
from snakemake_executor_plugin_submitit.slurm import Slurm, SlurmError, State, parse_sacct, parse_squeue

CONFIG = "MaxArraySize            = 1001\nAccountingStorageType   = accounting_storage/{}\n"


class Commands:
    """Stands for Slurm's programs; remembers what was called."""

    def __init__(self, accounting: str, **answers: str) -> None:
        self.answers = {"scontrol": CONFIG.format(accounting), **answers}
        self.calls: list[Sequence[str]] = []

    def __call__(self, command: Sequence[str]) -> str:
        self.calls.append(command)
        return self.answers[command[0]]

    @property
    def names(self) -> list[str]:
        return [command[0] for command in self.calls]


def commands(monkeypatch: pytest.MonkeyPatch, accounting: str, **answers: str) -> Commands:
    made = Commands(accounting, **answers)
    monkeypatch.setattr(slurm, "call", made)
    return made


def test_squeue_is_read() -> None:
    text = "7_0|PENDING|Resources|\n7_1|RUNNING|None|gpu1\n8|TIMEOUT|TimeLimit|gpu2\n"
    assert parse_squeue(text) == {
        "7_0": State("PENDING", "Resources", ""),
        "7_1": State("RUNNING", "None", "gpu1"),
        "8": State("TIMEOUT", "TimeLimit", "gpu2"),
    }
    assert [state.ended for state in parse_squeue(text).values()] == [False, False, True]


def test_sacct_is_read() -> None:
    assert parse_sacct("7_1|CANCELLED by 0|gpu1\n8|PENDING|None assigned\n") == {
        "7_1": State("CANCELLED", node="gpu1"),
        "8": State("PENDING"),
    }


def test_limits_come_from_the_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    commands(monkeypatch, "none")
    assert Slurm().max_array_size == 1001
    assert not Slurm().accounting


def test_without_accounting_only_squeue_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    made = commands(monkeypatch, "none", squeue="1|RUNNING|None|gpu1\n9|RUNNING|None|gpu1\n")
    cluster = Slurm()
    for _ in range(3):
        answer = cluster.ask(["1", "2"])
        assert answer.states == {"1": State("RUNNING", "None", "gpu1")}
        assert answer.missing == {"2"}
    assert made.names == ["scontrol", "squeue", "squeue", "squeue"]


def test_accounting_is_asked_for_what_squeue_forgot_and_instead_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    made = commands(monkeypatch, "slurmdbd", squeue="1|RUNNING|None|gpu1\n", sacct="2|NODE_FAIL|gpu2\n")
    cluster = Slurm()
    cluster.ask(["1", "2", "3"])
    answer = cluster.ask(["1", "2", "3"])
    assert answer.states == {"2": State("NODE_FAIL", node="gpu2")}
    assert answer.missing == {"3"}  # of "1" nothing is said: it was not asked for
    assert made.names == ["scontrol", "squeue", "sacct"]
    assert made.calls[-1][-1] == "2,3"


def test_one_call_whatever_the_number_of_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    made = commands(monkeypatch, "none", squeue="".join(f"5_{task}|RUNNING|None|n\n" for task in range(5000)))
    answer = Slurm().ask([f"5_{task}" for task in range(5000)])
    assert len(answer.states) == 5000
    assert made.names == ["scontrol", "squeue"]


def test_marked_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    commands(monkeypatch, "none", squeue="5|mine\n5|mine\n6|(null)\n7|other\n")
    assert Slurm().marked({"mine"}) == ["5"]


def test_a_command_that_fails_or_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SlurmError, match="sh: no queue here"):
        slurm.call(["sh", "-c", "echo no queue here >&2; exit 1"])
    with pytest.raises(SlurmError, match="no-such-program"):
        slurm.call(["no-such-program"])


def test_the_enclosing_job_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_TASK_ID", "SUBMITIT_FOLDER", "SLURM_CONF", "SBATCH_ACCOUNT"):
        monkeypatch.setenv(name, "x")
    assert slurm.leave_enclosing_job()
    import os

    assert [name for name in os.environ if name.startswith(("SLURM", "SUBMITIT"))] == ["SLURM_CONF"]
    assert os.environ["SBATCH_ACCOUNT"] == "x"
    assert not slurm.leave_enclosing_job()
