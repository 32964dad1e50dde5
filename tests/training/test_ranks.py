"""Training in several processes, which torchrun starts: two on the CPU, as several GPUs of a node would be."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from specs import coder_spec

from bsc.activations.recipe import write_recipe
from bsc.io import read_json, read_parquet, read_tensors
from bsc.stages import CohortSpec, RecipeSpec
from bsc.training.loop import CHECKPOINTS
from bsc.training.train import train

pytestmark = pytest.mark.slow

WIDTH, STEPS = 32, 15
RANKS = ["--standalone", "--nproc-per-node=2", "--signals-to-handle=SIGTERM,SIGINT,SIGUSR2", "--shutdown-timeout=60"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", *RANKS, "-m", "--", "bsc", "cohort"]
PLAIN = {"width": WIDTH, "tokens": STEPS * 64, "batch_tokens": 64}
MEMBERS: dict[str, dict[str, Any]] = {
    "hopeless": {"learning_rate": 1e12},
    "binary": {"binariser": "binary-topk", "auxk": True, "dead_after_tokens": 200},
    "sae": {"architecture": "sae", "multi_topk": True},
    "rare": {"binariser": "nbit", "frequency": {"control": "penalty", "strength": 1.0, "cap": 0.05, "memory_tokens": 700}},
    "noisy": {"binariser": "gumbel", "optimiser": "signum"},
    "learned": {"binariser": "binary-threshold", "options": {"threshold": "learned"}, "architecture": "transcoder"},
}


def cohort_of(names: list[str], **changes: Any) -> CohortSpec:
    """A cohort of some of MEMBERS; changes are of each of them."""
    specs = {name: coder_spec(**PLAIN | MEMBERS[name] | changes) for name in names}
    members = [
        {"spec": spec.model_dump(), "hookpoint": "layers.1.mlp", "folder": name, "digest": spec.json_text}
        for name, spec in specs.items()
    ]
    return CohortSpec.model_validate({"members": members})


@pytest.fixture
def recipe(tiny_model: Path, tiny_tokens: Path, tmp_path: Path) -> Path:
    """Activations that the ranks make together: shards of six contexts, made two at a time, so that one has two pieces."""
    spec = {"split": "train", "hookpoint": "layers.1.mlp", "width": WIDTH, "contexts": 20, "shard_contexts": 6}
    path = tmp_path / "recipe.json"
    write_recipe(RecipeSpec.model_validate({**spec, "batch_contexts": 2, "dtype": "float32"}), tiny_model, tiny_tokens, path)
    return path


def start(cohort: CohortSpec, index: Path, folder: Path, *flags: str) -> subprocess.Popen[str]:
    """Two ranks with a thread each, which begin with SIGUSR2 ignored, as in a job of the Slurm plugin."""
    inputs = ["--activations", str(index), "--coders", str(folder), "--output", str(folder / "cohort.json")]
    return subprocess.Popen(
        [*TORCHRUN, "--spec", cohort.json_text, *inputs, "--log", str(folder / "cohort.log"), *flags],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGUSR2, signal.SIG_IGN),
    )


def together(cohort: CohortSpec, index: Path, folder: Path, *flags: str) -> str:
    """Train in two ranks, and then write each coder; returns what the ranks said."""
    process = start(cohort, index, folder, *flags)
    said = process.communicate()[0]
    assert process.returncode == 0, said
    for member in cohort.members:
        train(member.spec, index, folder / member.folder, digest=member.digest)
    return said


def logged(folder: Path) -> pd.DataFrame:
    return read_parquet(folder / "log.parquet").drop(columns="tokens_per_second")


def assert_same(cohort: CohortSpec, folder: Path, alone: Path) -> None:
    for member in cohort.members:
        made, expected = folder / member.folder, alone / member.folder
        assert (made / "coder.safetensors").read_bytes() == (expected / "coder.safetensors").read_bytes()
        pd.testing.assert_frame_equal(logged(made), logged(expected), check_exact=True)
        assert not (made / CHECKPOINTS).exists()


def train_alone(cohort: CohortSpec, index: Path, folder: Path) -> None:
    for member in cohort.members:
        train(member.spec, index, folder / member.folder)


def test_ranks_that_share_the_coders_train_each_as_alone(recipe: Path, tmp_path: Path) -> None:
    first, cohort = cohort_of(["binary", "sae", "noisy"]), cohort_of(["binary", "sae", "noisy", "rare"])
    said = together(first, recipe, tmp_path / "ranks")
    assert "3 of 3 coders are to be trained" in said
    assert "and 1 more" in (tmp_path / "ranks" / "cohort.1.log").read_text(), "the second rank has two of three"
    assert "and 1 more" not in (tmp_path / "ranks" / "cohort.log").read_text()
    said = together(cohort, recipe, tmp_path / "ranks")
    assert "activations only" in said, "one is missing: there is none to train for the second rank"
    train_alone(cohort, recipe, tmp_path / "alone")
    assert_same(cohort, tmp_path / "ranks", tmp_path / "alone")


def test_ranks_that_share_the_batches_agree_with_one_process(recipe: Path, tmp_path: Path) -> None:
    """To 1e-4 of the largest weight of each tensor, after 15 steps."""
    cohort = cohort_of(["binary", "sae", "rare", "learned"])
    together(cohort, recipe, tmp_path / "ranks", "--parallel", "batches")
    train_alone(cohort, recipe, tmp_path / "alone")
    for member in cohort.members:
        made, expected = (read_tensors(tmp_path / run / member.folder / "coder.safetensors") for run in ("ranks", "alone"))
        for name, tensor in expected.items():
            assert (made[name] - tensor).abs().max() <= 1e-4 * tensor.abs().max(), (member.folder, name)
        np.testing.assert_allclose(
            logged(tmp_path / "ranks" / member.folder), logged(tmp_path / "alone" / member.folder), rtol=1e-4
        )


@pytest.mark.parametrize("parallel", ["coders", "batches"])
def test_told_to_save_they_stop_together_and_go_on(parallel: str, recipe: Path, tmp_path: Path) -> None:
    cohort = cohort_of(["binary", "sae"], tokens=60 * 64)
    flags = ("--parallel", parallel)
    process = start(cohort, recipe, tmp_path / "ranks", *flags, "--checkpoint-minutes", "0")
    while not list(tmp_path.glob("ranks/*/checkpoint/step-*.json")) and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(signal.SIGUSR2)
    said = process.communicate(timeout=120)[0]
    assert process.returncode != 0, said
    assert "stopped by SIGUSR2 after step" in said
    folders = (tmp_path / "ranks" / name / CHECKPOINTS for name in ("binary", "sae"))
    (step,) = {max(read_json(path)["step"] for path in folder.glob("*.json")) for folder in folders}
    assert step < 60
    assert not (tmp_path / "ranks" / "cohort.json").exists()
    said = together(cohort, recipe, tmp_path / "ranks", *flags)
    assert f"going on from the checkpoint after step {step:,}" in said
    if parallel == "coders":
        train_alone(cohort, recipe, tmp_path / "alone")
        assert_same(cohort, tmp_path / "ranks", tmp_path / "alone")


def test_a_coder_that_diverges_at_one_rank_stops_no_other(recipe: Path, tmp_path: Path) -> None:
    cohort = cohort_of(["sae", "hopeless"])
    process = start(cohort, recipe, tmp_path)
    said = process.communicate()[0]
    assert process.returncode == 0, said
    assert "training diverged at step" in said
    assert read_json(next((tmp_path / "sae" / CHECKPOINTS).glob("*.json")))["step"] == STEPS
    assert len(read_json(tmp_path / "cohort.json")) == 2
