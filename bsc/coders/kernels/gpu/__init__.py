"""The kernels and the selection by Triton, on the GPU.

Same functions as in `reference`, `select` and `binary_threshold`, in modules that import Triton: `products`, `groups`,
`selection`, `threshold`. Nothing is summed by atomics, so that the same input gives the same result bit for bit. Under
Triton's interpreter (TRITON_INTERPRET=1, set before Triton is imported) they take tensors on the CPU: slow, for tests.
"""

import functools
import importlib.util
import os
import shutil
import sys

import torch
from torch import Tensor

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
_TYPES = (torch.float32, torch.bfloat16)
_COMPILERS = ("gcc", "clang")


def serves(*tensors: Tensor | None) -> bool:
    """Whether these kernels can take the tensors: float32 or bfloat16, on the GPU, where Triton works; None is no tensor."""
    given = [tensor for tensor in tensors if tensor is not None]
    return all(t.device.type == DEVICE and t.dtype in _TYPES for t in given) and _works()


@functools.cache
def _works() -> bool:
    """Whether Triton can be used; a line on stderr says why not."""
    lacking = []
    if importlib.util.find_spec("triton") is None:
        lacking.append("the package triton is not installed")
    if DEVICE == "cuda" and not os.environ.get("CC") and not any(map(shutil.which, _COMPILERS)):
        lacking.append("Triton needs a C compiler; install gcc or set CC")
    if lacking:
        print(f"slower GPU kernels are used: {'; '.join(lacking)}", file=sys.stderr, flush=True)
    return not lacking
