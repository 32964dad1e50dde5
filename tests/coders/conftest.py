"""What tests of kernels share.

Those marked `compiled` need a C++ compiler. Those of the GPU's kernels, test_gpu_*.py, run on a GPU, or under Triton's
interpreter where TRITON_INTERPRET=1; sessions that have neither do not see them, and `test_triton.py` has a session of the
second kind run them.
"""

import os

import pytest
import torch

from bsc.coders.kernels.build import library

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
collect_ignore_glob = [] if INTERPRETED or torch.cuda.is_available() else ["test_gpu_*.py"]


@pytest.fixture(scope="session")
def device() -> torch.device:
    """Where the GPU's kernels run."""
    return torch.device("cpu" if INTERPRETED else "cuda")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `compiled` where no compiler is found, but not in continuous integration."""
    if library() is None and not os.environ.get("CI"):
        for item in items:
            if item.get_closest_marker("compiled"):
                item.add_marker(pytest.mark.skip(reason="no C++ compiler"))
