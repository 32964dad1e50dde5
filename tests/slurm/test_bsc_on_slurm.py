"""This repository's own workflow on the real Slurm: every stage through its profile, and a coder that was preempted."""

import subprocess
import sys

import pytest
from checkouts import ROOT, Checkout, copy
from slurm_cluster import Cluster, wait_for

pytestmark = pytest.mark.slow

MODEL = "smollm2-135m-instruct"
CODER = f"coders/{MODEL}/layers.0.mlp/skip-transcoder-gumbel-k16/seed1"
FEW = ["results/smoke/figures/fig3.pdf", "results/smoke/tables/coders.csv"]
"""Behind them is every stage."""
SAE = """  - hookpoints: [layers.0.mlp]
    architectures: [sae]
    binarisers: [binary-topk]
    k: [16]
"""
PROFILE = ["--profile", "profiles/slurm", "--configfile", "config/smoke.yaml", "-j", "64"]
SOONER = ["--seconds-between-status-checks", "2", "--submitit-longest-interval", "4", "--latency-wait", "20"]


def start(made: Checkout, cluster: Cluster, *arguments: str) -> subprocess.Popen[str]:
    """Snakemake through profiles/slurm, with questions to Slurm at shorter intervals than on a real cluster."""
    return subprocess.Popen(
        [sys.executable, "-m", "snakemake", *PROFILE, *SOONER, *arguments],
        cwd=made.folder,
        env={**made.environment, "SLURM_CONF": cluster.environment["SLURM_CONF"]},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str], cluster: Cluster) -> str:
    """Wait for a run, hastening what is requeued; returns what it said, and fails with it when it failed."""
    while True:
        try:
            output, _ = process.communicate(timeout=2)
            assert process.returncode == 0, output[-8000:]
            return output
        except subprocess.TimeoutExpired:
            cluster.hasten()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """Nothing built yet, and two coders to build: every stage, and few jobs of each."""
    copied = copy(ROOT, tmp_path_factory.mktemp("cluster"), results=False)
    copied.edit("config/smoke.yaml", "hookpoints: [layers.0.mlp, layers.1.mlp]", "hookpoints: [layers.0.mlp]")
    copied.edit("config/smoke.yaml", SAE, "")
    return copied


def test_every_stage_through_the_profile(made: Checkout, cluster: Cluster) -> None:
    finish(start(made, cluster, *FEW), cluster)
    results = made.folder / "results" / "smoke"
    assert (results / "figures" / "fig3.pdf").stat().st_size > 0
    assert (results / "tables" / "coders.csv").stat().st_size > 0
    logs = {path.name for path in (made.folder / "logs" / "slurm").iterdir()}
    assert {"model", "tokens", "train", "evaluate", "latents", "explain", "score"} <= logs
    local = subprocess.run(
        [sys.executable, "-m", "snakemake", "--configfile", "config/smoke.yaml", "-c1", "--dry-run", *FEW],
        cwd=made.folder,
        env=made.environment,
        capture_output=True,
        text=True,
    )
    assert "Nothing to be done" in local.stdout + local.stderr


def test_a_cohort_on_two_gpus_writes_the_bits_of_jobs_on_one(made: Checkout, cluster: Cluster) -> None:
    """Through torchrun: a rank a GPU, each with a coder of its own."""
    results, keys = made.folder / "results" / "smoke", "\ncohort: 2\ngpus: 2\n"
    coders = [CODER, CODER.replace("gumbel", "topk")]
    files = [results / coder / "coder.safetensors" for coder in coders]
    alone = [file.read_bytes() for file in files]
    for file in files:
        for path in file.parent.iterdir():
            path.unlink()
    made.edit("config/smoke.yaml", "\nactivations:\n", f"{keys}\nactivations:\n")
    finish(start(made, cluster, *(str(file.relative_to(made.folder)) for file in files)), cluster)
    assert [file.read_bytes() for file in files] == alone
    logs = sorted(path.name for path in (results / "logs" / "cohorts").rglob("*.log"))
    assert [name for name in logs if name.endswith(".1.log")], f"no second rank wrote a log: {logs}"
    made.edit("config/smoke.yaml", keys, "")


def test_a_preempted_coder_is_bit_for_bit_the_one_that_was_not(made: Checkout, cluster: Cluster) -> None:
    made.edit("config/smoke.yaml", "tokens: 10240", "tokens: 512000")
    folder = made.folder / "results" / "smoke" / CODER
    target = f"results/smoke/{CODER}/coder.safetensors"
    finish(start(made, cluster, target), cluster)
    whole = (folder / "coder.safetensors").read_bytes()

    for path in folder.iterdir():
        path.unlink()
    process = start(made, cluster, target, "--config", "checkpoint_minutes=0.02")
    wait_for(lambda: list(folder.glob("checkpoint/step-*.json")), 240)
    urgent = ["--partition=urgent", "--nodes=2", "--ntasks-per-node=8", "--output=/dev/null", "--wrap=sleep 3"]
    cluster.call("sbatch", *urgent)
    finish(process, cluster)
    log = (made.folder / "results" / "smoke" / "logs" / f"{CODER}.log").read_text()
    assert "going on from the checkpoint" in log
    assert (folder / "coder.safetensors").read_bytes() == whole
    assert not (folder / "checkpoint").exists()
