"""What the submitit executor costs, beside the plugins it replaces, on the Slurm that the tests start (tests/slurm).

    python benchmarks/executor.py [--jobs 500] [--peers FOLDER]

Three measurements: how fast 200 ready jobs of one shape are submitted, and by how many calls; how long a remote job takes from
its submission to its rule's command, on an idle node; how long a DAG of three layers takes to its end, with this plugin, with
snakemake-executor-plugin-slurm and with cluster-generic, and whether each job ran once. FOLDER holds the other two:
`pip install --no-deps --target FOLDER snakemake-executor-plugin-slurm snakemake-executor-plugin-slurm-jobstep
snakemake-executor-plugin-cluster-generic`; without it they are left out. Needs what the tests in tests/slurm need, and no Slurm
in /etc/slurm. Writes benchmarks/results/executor.json and prints it; `--only` measures a part anew. A shim in the PATH counts
calls of Slurm's programs.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RECIPE = HERE.parent / "tests/slurm"
RESULTS = HERE / "results/executor.json"
PROGRAMS = ("sbatch", "squeue", "sacct", "scontrol", "srun", "scancel")
INTERVAL = ["--seconds-between-status-checks", "10"]
SUBMITIT = ["--executor", "submitit", *INTERVAL]

READY = """
rule all:
    input: expand("{i}.txt", i=range(200))
rule one:
    output: "{i}.txt"
    shell: "touch {output}"
"""
SINGLE = 'rule one:\n    output: "one.txt"\n    shell: "date +%s.%N > {output}"\n'
LAYERS = """
N = COUNT // 5
rule all:
    input: expand("c/{i}.txt", i=range(N))
rule first:
    output: "a/{i}.txt"
    shell: "echo first {wildcards.i} >> runs; touch {output}"
rule second:
    input: "a/{i}.txt"
    output: "b/{i}.txt"
    shell: "echo second {wildcards.i} >> runs; touch {output}"
rule third:
    input: lambda w: [f"b/{2 * int(w.i) + half}.txt" for half in range(2)]
    output: "c/{i}.txt"
    shell: "echo third {wildcards.i} >> runs; touch {output}"
"""
STATUS = """#!/bin/sh
case $(squeue -h -t all -j "$1" -o %T) in
    COMPLETED) echo success ;;
    PENDING|RUNNING|COMPLETING|CONFIGURING) echo running ;;
    *) echo failed ;;
esac
"""


def peers_arguments(peers: Path) -> dict[str, list[str]]:
    """Snakemake's arguments for the other plugins, as alike as they allow."""
    status = peers / "status.sh"
    status.write_text(STATUS)
    status.chmod(0o755)
    slurm = ["--executor", "slurm", *INTERVAL, "--slurm-init-seconds-before-status-checks", "10"]
    slurm += ["--slurm-no-account", "--slurm-status-command", "squeue"]
    submit = "sbatch --parsable --mem=800M --time=60 --output=/dev/null"
    generic = ["--executor", "cluster-generic", *INTERVAL, "--max-status-checks-per-second", "100"]
    return {
        "slurm": slurm,
        "slurm, arrays": [*slurm, "--slurm-array-jobs", "all"],
        "cluster-generic": [*generic, "--cluster-generic-submit-cmd", submit, "--cluster-generic-status-cmd", str(status)],
    }


@dataclass
class Run:
    """A workflow's run: its folder, its lines of output with the second at which each came, and calls of Slurm's programs."""

    folder: Path
    code: int | None
    seconds: float
    lines: list[tuple[float, str]] = field(default_factory=list)

    @property
    def calls(self) -> Counter[str]:
        """How often each of Slurm's programs was called."""
        return Counter((self.folder / "calls").read_text().split())

    def moment(self, pattern: str, which: int = 0) -> float:
        """The second at which a line that matches was said: the first, or which."""
        return [moment for moment, line in self.lines if re.search(pattern, line)][which]


class Bench:
    """A started Slurm, and workflows to time on it."""

    def __init__(self, folder: Path, peers: Path | None) -> None:
        self.folder, self.peers = folder, peers
        self.tools = folder / "tools"
        self.tools.mkdir()
        for name in PROGRAMS:
            shim = self.tools / name
            shim.write_text(f'#!/bin/sh\necho {name} >> "$CALLS"\nexec /usr/bin/{name} "$@"\n')
            shim.chmod(0o755)
        self.state = folder / "slurm"
        self.links = [Path("/etc/slurm") / name for name in ("slurm.conf", "gres.conf")]

    def start(self) -> None:
        """Start a Slurm, where none is configured."""
        for link in self.links:  # the jobs of snakemake-executor-plugin-slurm forget SLURM_CONF
            link.parent.mkdir(exist_ok=True)
            link.symlink_to(self.state / link.name)
        ports = {**os.environ, "BASE_PORT": "26817"}  # beside the tests' own
        subprocess.run([RECIPE / "up.sh", self.state], env=ports, check=True, stdout=subprocess.DEVNULL)

    def stop(self) -> None:
        """Stop the Slurm."""
        for link in self.links:
            if link.is_symlink() and link.readlink().parent == self.state:
                link.unlink()
        subprocess.run([RECIPE / "down.sh", self.state], check=True)

    def run(self, name: str, snakefile: str, arguments: list[str], limit: float = 1500) -> Run:
        """Run the workflow in a folder of its own, for `limit` seconds at most."""
        place = self.folder / re.sub(r"\W+", "-", name)
        place.mkdir()
        (place / "Snakefile").write_text(snakefile)
        (place / "calls").touch()
        environment = {
            **os.environ,
            "PATH": f"{self.tools}:{os.environ['PATH']}:/usr/sbin",
            "SLURM_CONF": str(self.state / "slurm.conf"),
            "CALLS": str(place / "calls"),
        }
        if "submitit" not in arguments:  # Snakemake imports every plugin that it finds, and pays for it in each job
            environment["PYTHONPATH"] = str(self.peers)
        resources = ["--default-resources", "runtime=60", "mem_mb=800"]
        command = [sys.executable, "-m", "snakemake", *resources, "-j", "500", "--latency-wait", "20", *arguments]
        begun = time.monotonic()
        process = subprocess.Popen(
            ["timeout", str(limit), *command],
            cwd=place,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdout is not None
        lines = [(time.monotonic() - begun, line) for line in process.stdout]
        run = Run(place, process.wait(), round(time.monotonic() - begun, 1), lines)
        subprocess.run(["scancel", "--user=root"], env=environment, check=True)
        return run


def submission(bench: Bench) -> dict[str, Any]:
    """200 ready jobs, of which Snakemake hands over 100 a second: from its choice of the first to the last one submitted."""
    run = bench.run("ready", READY, SUBMITIT)
    assert run.code == 0, run.lines[-20:]
    questions = run.calls["squeue"] + run.calls["sacct"]
    return {
        "jobs": 200,
        "sbatch_calls": run.calls["sbatch"],
        "seconds_until_all_are_submitted": round(run.moment("Submitted .* jobs", -1) - run.moment("Execute 100 jobs"), 2),
        "status_calls": questions,
        "intervals_of_10_s": round(run.seconds / 10, 1),
    }


def overhead(bench: Bench, repeats: int = 5) -> dict[str, Any]:
    """Seconds from the writing of a job's script, just before sbatch, to the rule's command, one job at a time."""
    seconds = []
    for number in range(repeats):
        run = bench.run(f"single {number}", SINGLE, SUBMITIT)
        assert run.code == 0, run.lines[-20:]
        (script,) = (run.folder / "logs/slurm/one").glob("*_submission.sh")
        seconds.append(round(float((run.folder / "one.txt").read_text()) - script.stat().st_mtime, 2))
    return {"seconds": sorted(seconds), "median": sorted(seconds)[repeats // 2]}


def layers(bench: Bench, name: str, arguments: list[str], jobs: int) -> dict[str, Any]:
    """A DAG of three layers, two fifths, two fifths and one fifth of the jobs."""
    run = bench.run(f"layers {name}", LAYERS.replace("COUNT", str(jobs)), arguments)
    runs = run.folder / "runs"
    ran = Counter(runs.read_text().splitlines()) if runs.exists() else Counter()
    return {
        "seconds": run.seconds,
        "lost": jobs - len(ran),
        "twice": sum(count > 1 for count in ran.values()),
        "calls": dict(run.calls),
        **({} if run.code == 0 else {"failed": " ".join("".join(line for _, line in run.lines[-12:]).split())}),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=500, help="jobs of the layered DAG")
    parser.add_argument(
        "--only", nargs="+", choices=["submission", "overhead", "layers"], default=["submission", "overhead", "layers"]
    )
    parser.add_argument("--peers", type=Path, help="folder with the other plugins")
    settings = parser.parse_args()
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results["cpus_of_the_host"] = os.cpu_count()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), settings.peers and settings.peers.resolve())
        try:
            bench.start()
            if "submission" in settings.only:
                results["submission"] = submission(bench)
            if "overhead" in settings.only:
                results["overhead"] = overhead(bench)
            if "layers" in settings.only:
                plugins = {"submitit": SUBMITIT, **(peers_arguments(bench.peers) if bench.peers else {})}
                found = results.setdefault("layers", {})[f"{settings.jobs} jobs"] = {}
                for name, arguments in plugins.items():
                    found[name] = layers(bench, name, arguments, settings.jobs)
                    print(name, json.dumps(found[name]), file=sys.stderr, flush=True)
        finally:
            bench.stop()
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
