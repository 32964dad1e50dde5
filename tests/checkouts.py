"""Copies of the repository, the real Snakemake in them, and ways to ask what is stale."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PARTS = ("Snakefile", "workflow", "config", "profiles", "bsc", "snakemake_executor_plugin_submitit", "pyproject.toml")
JOB = re.compile(r"^(?:local)?rule (?P<rule>[\w.-]+):\n(?P<body>(?:    .*\n)*)", re.MULTILINE)


@dataclass(frozen=True)
class Job:
    """A job of a dry run: its rule, and its wildcards as `name=value` text."""

    rule: str
    wildcards: str


@dataclass(frozen=True)
class Checkout:
    """A folder with the workflow in it, and Snakemake to run there."""

    folder: Path

    def snakemake(self, *arguments: str, config: str = "config/smoke.yaml") -> subprocess.CompletedProcess[str]:
        """Run the real Snakemake here; the package is the one in this folder."""
        command = [sys.executable, "-m", "snakemake", "--configfile", config, "-c2", *arguments]
        return subprocess.run(command, cwd=self.folder, capture_output=True, text=True, env=self.environment)

    @property
    def environment(self) -> dict[str, str]:
        """The environment that puts this folder's package first, compiled once and not by each of its many jobs."""
        environment = {**os.environ, "PYTHONPATH": str(self.folder)}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        return environment

    def run(self, *arguments: str) -> str:
        """Run Snakemake and return what it printed; fail with it when it fails."""
        finished = self.snakemake(*arguments)
        assert finished.returncode == 0, finished.stdout[-4000:] + finished.stderr[-8000:]
        return finished.stdout + finished.stderr

    def stale(self, *arguments: str) -> list[Job]:
        """The jobs that Snakemake would run now."""
        output = self.run("--dry-run", *arguments)
        found = []
        for match in JOB.finditer(output):
            wildcards = re.search(r"^    wildcards: (.*)$", match["body"], re.MULTILINE)
            found.append(Job(match["rule"], wildcards[1] if wildcards else ""))
        return [job for job in found if job.rule != "all"]

    def edit(self, file: str, old: str, new: str) -> None:
        """Replace the first `old` in a file."""
        path = self.folder / file
        text = path.read_text()
        assert old in text, f"{old!r} is not in {file}"
        path.write_text(text.replace(old, new, 1))


def copy(source: Path, target: Path, *, results: bool) -> Checkout:
    """Copy the workflow, times of files included; results are hard links, since every output is replaced and never edited."""
    target.mkdir(parents=True, exist_ok=True)
    for part in PARTS:
        if (source / part).is_dir():
            shutil.copytree(source / part, target / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source / part, target / part)
    if results:
        shutil.copytree(source / ".snakemake", target / ".snakemake", ignore=shutil.ignore_patterns("locks", "log"))
        shutil.copytree(source / "results", target / "results", copy_function=os.link)
    return Checkout(target)
