"""The tests of the GPU's kernels, test_gpu_*.py, run on a GPU, or under Triton's interpreter where TRITON_INTERPRET=1.

Sessions that have neither do not see them; `test_triton.py` has a session of the second kind run them.
"""

import os

import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
collect_ignore_glob = [] if INTERPRETED or torch.cuda.is_available() else ["test_gpu_*.py"]


@pytest.fixture(scope="session")
def device() -> torch.device:
    """Where the kernels run."""
    return torch.device("cpu" if INTERPRETED else "cuda")
