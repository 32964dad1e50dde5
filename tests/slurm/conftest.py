"""A real Slurm for the session, and a folder of its own for each test's workflow."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_cluster import SYSTEM_PATH, Cluster, Workflow, wait_for

HERE = Path(__file__).parent
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "munged")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.slurm)


@pytest.fixture(scope="session")
def _daemons(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    absent = [program for program in PROGRAMS if shutil.which(program, path=SYSTEM_PATH) is None]
    if absent or os.geteuid() != 0:
        reason = f"needs root and Debian's slurmctld, slurmd, slurm-client and munge (no {', '.join(absent) or 'root'})"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    state = tmp_path_factory.mktemp("slurm")
    started = subprocess.run([HERE / "up.sh", state], capture_output=True, text=True)
    try:
        assert started.returncode == 0, started.stderr
        yield Cluster(state)
    finally:
        subprocess.run([HERE / "down.sh", state], check=True)


@pytest.fixture
def cluster(_daemons: Cluster) -> Iterator[Cluster]:
    """An idle cluster; what a test leaves in its queue is cancelled."""
    yield _daemons
    subprocess.run(["scancel", "--user=root"], env=_daemons.environment, check=True)
    wait_for(_daemons.idle)


@pytest.fixture
def workflow(tmp_path: Path, cluster: Cluster) -> Iterator[Workflow]:
    made = Workflow(tmp_path, cluster)
    yield made
    for process in made.running:
        if process.poll() is None:
            process.kill()
            process.wait()
