"""Snakemake itself with the plugin, on submitit's backends that need no cluster."""

import subprocess
import sys
from pathlib import Path

import pytest

SNAKEFILE = """
rule all:
    input: "0.txt", "bad.txt"
rule good:
    output: "{i}.txt"
    wildcard_constraints: i="[0-9]+"
    params: text="it's $5"
    shell: "echo {params.text:q} > {output}"
rule bad:
    output: "bad.txt"
    shell: "echo the reason >&2; exit 3"
"""


@pytest.mark.parametrize("cluster", ["local", pytest.param("debug", marks=pytest.mark.slow)])
def test_a_workflow(tmp_path: Path, cluster: str) -> None:
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    arguments = ["--executor", "submitit", "--submitit-cluster", cluster, "-j", "2", "--keep-going"]
    done = subprocess.run([sys.executable, "-m", "snakemake", *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert (tmp_path / "0.txt").read_text() == "it's $5\n"
    assert f"message: rule bad: {cluster} job " in done.stderr
    assert "failed: exit code 1." in done.stderr
    assert not list((tmp_path / ".snakemake/submitit").iterdir())
    assert (tmp_path / "logs/slurm/bad/bad.log").is_symlink()


def test_without_slurm_the_slurm_backend_says_so(tmp_path: Path) -> None:
    (tmp_path / "Snakefile").write_text('rule all:\n    output: "x"\n    shell: "touch x"\n')
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--executor", "submitit", "-j", "1"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={"PATH": str(Path(sys.executable).parent), "HOME": str(tmp_path)},
    )
    assert done.returncode == 1
    assert "submitit-cluster: local" in done.stderr
