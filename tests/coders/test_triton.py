"""The GPU's kernels without a GPU: their tests under Triton's interpreter, and compiled for the GPUs that they are meant for.

Each in a process of its own, for Triton decides when it is imported whether to interpret, for good.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bsc.coders.kernels import gpu

HERE = Path(__file__).parent


def run(*command, **environment):
    done = subprocess.run([sys.executable, *command], env={**os.environ, **environment}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]
    return done.stdout


needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="there is no triton for this system")


@needs_triton
@pytest.mark.slow
def test_kernels_under_the_interpreter():
    tests = sorted(str(path) for path in HERE.glob("test_gpu_*.py"))
    out = run("-m", "pytest", "-p", "no:cacheprovider", *tests, TRITON_INTERPRET="1")
    assert " passed" in out
    assert "skipped" not in out


@pytest.mark.slow
@needs_triton
@pytest.mark.parametrize("capability", ["80", "90"])
def test_kernels_compile_without_atomics_and_without_spilling(tmp_path, capability):
    """At the sizes of the paper's coders and of wider ones, for A100 and H100."""
    out = run(str(HERE / "compile_gpu_kernels.py"), capability, TRITON_INTERPRET="0", TRITON_CACHE_DIR=str(tmp_path))
    compiled = {name: (int(atomics), int(spilled)) for name, atomics, spilled in map(str.split, out.splitlines())}
    assert len(compiled) == 16
    assert not any(atomics for atomics, _ in compiled.values()), compiled
    assert all(spilled <= 64 for _, spilled in compiled.values()), compiled
    assert sum(spilled > 0 for _, spilled in compiled.values()) <= 1, "AuxK's selection only"


def test_tensors_on_the_cpu_keep_the_kernels_of_the_cpu_and_triton_is_not_imported():
    code = "import sys, torch; from bsc.coders import kernels, select; p = torch.rand(3, 9); select.top_k(p, 2);"
    code += "kernels.softmax(p, 3, 1.0); assert not kernels.gpu.serves(p); print('triton' in sys.modules)"
    assert run("-c", code, TRITON_INTERPRET="0").split() == ["False"]


def test_what_triton_lacks_is_said(monkeypatch, capsys):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(gpu, "DEVICE", "cuda")
    monkeypatch.setattr(gpu.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(gpu.shutil, "which", lambda name: None)
    assert not gpu._works.__wrapped__()
    said = capsys.readouterr().err
    assert "triton is not installed" in said
    assert "install gcc or set CC" in said
