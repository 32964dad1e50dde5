"""What a step takes beyond parameters, gradients and the optimiser's state, over that of the pre-activations.

Each in a process of its own, by the benchmark's own measure.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from bsc.coders.kernels import screening

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "coders.py"
TOKENS, LATENTS = 2048, 18_432

pytestmark = [
    pytest.mark.compiled,
    pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from /proc"),
]


_NOT_QUICK = [pytest.param(key, marks=pytest.mark.slow) for key in ("binary-topk", "groupmax", "reinmax", "hybrid")]


@pytest.mark.parametrize("binariser", ["topk", "binary-threshold", "gumbel", *_NOT_QUICK])
def test_never_two_tensors_like_the_preactivations(binariser):
    """And none of them where those that select do so by screening."""
    sizes = f"--width=16 --latents={LATENTS} --k=32 --tokens={TOKENS}".split()
    command = [sys.executable, str(BENCHMARK), "--memory", "--only", binariser, "--dtypes", "float32", *sizes]
    peak = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout) * 1e6
    screened = screening.pays(TOKENS, LATENTS, 32) and binariser not in ("binary-threshold", "gumbel", "reinmax")
    over_dense = peak / (4 * TOKENS * LATENTS)
    assert over_dense < 0.2 if screened else 0.9 < over_dense < 1.6  # often 0 where screened
