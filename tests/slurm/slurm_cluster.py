"""A Slurm that the tests started, and throw-away workflows to run on it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

SYSTEM_PATH = f"{os.environ['PATH']}:/usr/sbin"
PATIENCE_SECONDS = 120


def wait_for(what: Callable[[], object], seconds: float = PATIENCE_SECONDS) -> None:
    """Wait until `what()` is true."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.2)


@dataclass
class Cluster:
    """The test's Slurm: two nodes, gpu1 and gpu2, and two partitions, gpu and urgent."""

    state: Path

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "PATH": SYSTEM_PATH, "SLURM_CONF": str(self.state / "slurm.conf")}

    def call(self, *command: str) -> str:
        return subprocess.run(command, env=self.environment, check=True, capture_output=True, text=True).stdout

    def jobs(self, *states: str) -> list[str]:
        """Ids of all queued and running jobs, or of those in these states."""
        lines = self.call("squeue", "-h", "--array", "--format=%i|%T").split()
        return [line.split("|")[0] for line in lines if not states or line.split("|")[1] in states]

    def pid(self, daemon: str) -> int:
        return int((self.state / f"{daemon}.pid").read_text())

    def start(self, daemon: str) -> None:
        program, _, node = daemon.partition(".")
        self.call(f"/usr/sbin/{program}", "-f", str(self.state / "slurm.conf"), *(["-N", node] if node else []))

    def stop(self, daemon: str, number: signal.Signals) -> None:
        pid = self.pid(daemon)
        os.kill(pid, number)
        wait_for(lambda: not Path(f"/proc/{pid}").exists())

    def hasten(self) -> None:
        """Let requeued jobs start now instead of in two minutes."""
        for line in self.call("squeue", "-h", "--states=PENDING", "--format=%i|%r").split():
            if line.endswith("|BeginTime"):
                subprocess.run(["scontrol", "update", f"JobId={line.split('|')[0]}", "StartTime=now"], env=self.environment)

    def idle(self) -> bool:
        try:
            return set(self.call("sinfo", "-h", "-N", "-p", "gpu", "-o", "%T").split()) == {"idle"}
        except subprocess.CalledProcessError:
            return False


@dataclass
class Workflow:
    """A Snakefile in a folder of its own, and ways to run it on the cluster."""

    folder: Path
    cluster: Cluster
    environment: dict[str, str] = field(default_factory=dict)
    running: list[subprocess.Popen[str]] = field(default_factory=list)

    def write(self, snakefile: str, **files: str) -> None:
        (self.folder / "Snakefile").write_text(snakefile)
        for name, text in files.items():
            (self.folder / name.replace("__", ".")).write_text(text)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        common = ["--executor", "submitit", "-j", "64", "--seconds-between-status-checks", "2", "--latency-wait", "10"]
        resources = ["--default-resources", "runtime=10", "mem_mb=600"]
        process = subprocess.Popen(
            [sys.executable, "-m", "snakemake", *resources, *common, *arguments],
            cwd=self.folder,
            env={**self.cluster.environment, **self.environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.running.append(process)
        return process

    def run(self, *arguments: str) -> tuple[int, str]:
        """Snakemake's exit code and what it said."""
        return self.finish(self.start(*arguments))

    def finish(self, process: subprocess.Popen[str], seconds: float = 240) -> tuple[int, str]:
        """Wait for a run, hastening what is requeued meanwhile; its exit code and what it said."""
        end = time.monotonic() + seconds
        while True:
            try:
                output, _ = process.communicate(timeout=2)
                return process.returncode, output
            except subprocess.TimeoutExpired:
                assert time.monotonic() < end, "the run does not end"
                self.cluster.hasten()

    def read(self, name: str) -> str:
        return (self.folder / name).read_text()

    def has(self, name: str) -> bool:
        return (self.folder / name).exists()
