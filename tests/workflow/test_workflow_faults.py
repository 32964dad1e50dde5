"""Faults under the real Snakemake: a kill in mid-training, damaged files, a loss that explodes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from checkouts import Checkout

pytestmark = pytest.mark.slow

MODEL = "smollm2-135m-instruct"
CODER = f"{MODEL}/layers.0.mlp/skip-transcoder-gumbel-k16/seed1"


def remove(folder: Path) -> dict[str, bytes]:
    """Delete a folder's files; returns what they held."""
    held = {path.name: path.read_bytes() for path in folder.iterdir()}
    for path in folder.iterdir():
        path.unlink()
    return held


def damage(path: Path, content: bytes) -> None:
    """Put other bytes under a name without changing its time, as a failing disk would; the hard link's twin stays whole."""
    times = path.stat()
    path.unlink()
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_killed_in_mid_training_it_goes_on_and_ends_with_the_same_bytes(checkout: Checkout) -> None:
    folder = checkout.folder / "results/smoke/coders" / CODER
    before = remove(folder)
    target = f"results/smoke/coders/{CODER}/manifest.json"
    command = [sys.executable, "-m", "snakemake", "--configfile", "config/smoke.yaml", "-c2", target]
    command += ["--config", "checkpoint_minutes=0"]
    running = subprocess.Popen(
        command,
        cwd=checkout.folder,
        env=checkout.environment,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not list(folder.glob("checkpoint/step-*.json")):
        assert running.poll() is None, "training ended before it was killed"
        assert time.monotonic() < deadline, "no checkpoint was written"
        time.sleep(0.01)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    assert not (folder / "coder.safetensors").exists()
    assert not (folder / "manifest.json").exists()

    checkout.run("--unlock")
    output = checkout.run(target)
    assert "going on from the checkpoint" in output
    assert (folder / "coder.safetensors").read_bytes() == before["coder.safetensors"]
    assert not (folder / "checkpoint").exists()


@pytest.mark.parametrize("fault", ["flipped", "truncated"])
def test_a_damaged_shard_is_refused_by_name(checkout: Checkout, fault: str) -> None:
    shard = checkout.folder / f"results/smoke/activations/{MODEL}/train/shard1/layers.0.mlp.safetensors"
    whole = shard.read_bytes()
    flipped = whole[:-1] + bytes([whole[-1] ^ 1])
    damage(shard, flipped if fault == "flipped" else whole[:-100])
    remove(checkout.folder / "results/smoke/coders" / CODER)
    finished = checkout.snakemake()
    assert finished.returncode != 0
    assert "shard1/layers.0.mlp.safetensors" in finished.stderr
    assert "bsc: error" in finished.stderr
    assert not (checkout.folder / "results/smoke/coders" / CODER / "manifest.json").exists()


def test_a_damaged_coder_is_refused_by_name(checkout: Checkout) -> None:
    weights = checkout.folder / "results/smoke/coders" / CODER / "coder.safetensors"
    whole = weights.read_bytes()
    damage(weights, whole[:-1] + bytes([whole[-1] ^ 1]))
    (checkout.folder / "results/smoke/evaluation" / CODER / "metrics.json").unlink()
    finished = checkout.snakemake()
    assert finished.returncode != 0
    assert f"{CODER}/coder.safetensors" in finished.stderr
    assert "SHA-256 differs" in finished.stderr


def test_a_loss_that_explodes_stops_with_its_step_and_its_state(checkout: Checkout) -> None:
    checkout.edit("config/smoke.yaml", "\ncoders:", "\nbinarisers:\n  topk: {learning_rate: 1.0e+30}\n\ncoders:")
    finished = checkout.snakemake("results/smoke/tables/coders.csv")
    assert finished.returncode != 0
    assert "training diverged at step" in finished.stderr
    assert list((checkout.folder / "results/smoke/coders").rglob("diverged.safetensors"))
    assert list((checkout.folder / "results/smoke/coders").rglob("diverged.json"))
