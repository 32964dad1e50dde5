"""Training that is killed, in a process of its own."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

from bsc.stages import CoderSpec

SCRIPT = """
import sys
from pathlib import Path
import torch
from bsc.stages import CoderSpec
from bsc.training.train import train
torch.set_num_threads(int(sys.argv[4]))
train(CoderSpec.model_validate_json(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), checkpoint_seconds=0)
"""


def train_and_kill(spec: CoderSpec, index: Path, output: Path) -> None:
    """Train with a checkpoint a step, with this process's number of threads, and kill -9 it after a few of them."""
    command = [sys.executable, "-c", SCRIPT, spec.json_text, str(index), str(output), str(torch.get_num_threads())]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not list(output.glob("checkpoint/step-*5.json")) and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.002)
    finally:
        process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (output / "coder.safetensors").exists()
