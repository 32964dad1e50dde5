from pathlib import Path
from types import SimpleNamespace
from typing import Any

from snakemake_executor_plugin_submitit.ledger import Entry, Ledger, fingerprint, job_key
from snakemake_executor_plugin_submitit.record import ExitRecord, read_record, record_path, write_record
from snakemake_executor_plugin_submitit.report import failure, log_name, tail
from snakemake_executor_plugin_submitit.verdict import Verdict

ENTRY = Entry("7_1", "token", "print", "/logs")


class Params(list[Any]):
    def items(self) -> list[tuple[str, Any]]:
        return [("k", self[0])]


def job(**changes: Any) -> Any:
    facts: dict[str, Any] = {
        "name": "train",
        "output": ["b", "a"],
        "wildcards_dict": {"model": "x y/z", "k": "32"},
        "shellcmd": "bsc train",
        "params": Params([1]),
        "log": [],
        "jobid": 3,
    }
    return SimpleNamespace(**{**facts, **changes}, is_group=lambda: False)


def test_what_one_run_writes_the_next_one_reads(tmp_path: Path) -> None:
    first = Ledger(tmp_path / "ledger")
    first.write("key", ENTRY)
    first.write("gone", ENTRY)
    first.forget("gone")
    first.intend("mark")
    first.intend("settled")
    first.settle("settled")
    second = Ledger(tmp_path / "ledger")
    assert first.earlier == {}
    assert second.earlier == {"key": ENTRY}
    assert second.unsettled == {"mark"}


def test_a_broken_entry_is_no_entry(tmp_path: Path) -> None:
    (tmp_path / "key.json").write_text('{"id": ')
    (tmp_path / "other.json").write_text('{"number": 1}')
    assert Ledger(tmp_path).earlier == {}


def test_keys_and_fingerprints() -> None:
    assert job_key(job()) == job_key(job(output=["a", "b"], shellcmd="other"))
    assert job_key(job()) != job_key(job(output=["a"]))
    assert job_key(job(output=[])) != job_key(job(output=[], wildcards_dict={}))
    assert fingerprint(job()) == fingerprint(job(jobid=9))
    assert fingerprint(job()) != fingerprint(job(shellcmd="other"))
    assert fingerprint(job()) != fingerprint(job(params=Params([2])))


def test_a_record_belongs_to_one_job(tmp_path: Path) -> None:
    path = record_path(tmp_path, "7_1")
    record = ExitRecord("mine", 0, None, None, "n", 1.5, 0)
    assert read_record(path, "mine") is None
    write_record(path, record)
    assert read_record(path, "mine") == record
    assert read_record(path, "other") is None
    path.write_text("{")
    assert read_record(path, "mine") is None


def test_the_end_of_a_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert tail(log) == ""
    log.write_bytes(b"\xff\n" + b"".join(b"%d\n" % number for number in range(100_000)))
    assert tail(log).split() == [str(number) for number in range(99_980, 100_000)]


def test_the_message_of_a_failure(tmp_path: Path) -> None:
    log = tmp_path / "7_1_0_log.out"
    log.write_text("first\nlast\n")
    text = failure(job(), "7_1", "slurm", Verdict(False, "TIMEOUT", "gpu1"), log)
    assert text.startswith("rule train (model=x y/z, k=32): slurm job 7_1 on gpu1 failed: TIMEOUT. Its log is ")
    assert text.endswith("the last lines of " + str(log) + ":\n        first\n        last")
    own = tmp_path / "own.log"
    own.write_text("the rule's own\n")
    assert "the rule's own" in failure(job(log=[str(own)]), "7_1", "slurm", Verdict(False, "x"), log)
    assert failure(job(), "7", "slurm", Verdict(False, "x"), tmp_path / "none").endswith("(empty)")


def test_log_names_hold_no_slashes_or_spaces() -> None:
    assert log_name(job()) == "model=x_y_z_k=32.log"
    assert log_name(job(wildcards_dict={})) == "train.log"
    assert len(log_name(job(wildcards_dict={"x": "y" * 1000}))) < 255
