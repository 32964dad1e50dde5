"""Compile every GPU kernel for one kind of GPU, none needed: python compile_gpu_kernels.py 90 (compute capability 9.0).

The kernels are called as in training, on tensors of the paper's sizes that lie on the CPU, but are not launched. Prints, for
each, how many atomic operations its code holds, and how many bytes a thread keeps in memory for want of registers.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from bsc.coders.kernels.gpu import groups, products, selection, threshold
from bsc.coders.kernels.softmax import noise_keys

CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
SHAPES = ((576, 36_864, 32, 288), (2_048, 131_072, 64, 1_024), (1, 2, 1, 2))
"""d, M, k, and the k of AuxK; the last because Triton compiles anew for sizes of 1."""


class Absent:
    """What Triton asks of a driver before it compiles, of a GPU that is not there."""

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", int(sys.argv[1]), 32)


def call(width: int, latents: int, k: int, auxiliary: int, dtype: torch.dtype) -> None:
    """Every kernel once; results are not there."""
    tokens = 8
    indices, values = torch.zeros(tokens, k, dtype=torch.int64), torch.zeros(tokens, k)
    rows, x, p = torch.empty(latents, width), torch.zeros(tokens, width), torch.zeros(tokens, latents, dtype=dtype)
    products.decode(indices, values, rows)
    products.residual(indices, values, rows, x, rows[0], None)
    products.residual(indices, values, rows, x, rows[0], x)
    products.value_gradient(indices, x, rows)
    products.row_gradient(indices, values, x, latents)
    products.latent_sums(indices, values, latents)
    for minus in (None, torch.zeros(latents)):
        selection.top_k(p, k, minus)
        selection.top_k(p, auxiliary, minus)
        groups.winners(p, k, minus)
    groups.winners(p, latents, None)
    groups.draw(p, groups.softmax(p, latents, 1.0, None)[1], torch.zeros(p.shape))
    noisy = groups.softmax(p, k, 2.0, noise_keys(tokens, torch.Generator()))[1]
    plain = groups.softmax(p, k, 1.0, None)[1]
    groups.draw(p, plain, values)
    groups.softmax_gradient(p, [(noisy, values)], indices, values)
    groups.softmax_gradient(p, [(plain, values), (plain, values)], indices, values)
    groups.column_sums(p)
    threshold.solve_threshold(p, k)


def kept_in_memory(cubin: bytes) -> int:
    """Bytes of local memory a thread."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage = subprocess.run([CUOBJDUMP, "-res-usage", file.name], check=True, capture_output=True, text=True).stdout
    return sum(int(number) for number in re.findall(r"(?:STACK|LOCAL):(\d+)", usage))


def main() -> None:
    compiled: dict[str, dict[int, Any]] = {}
    compile_or_launch = JITFunction.run

    def compile_only(self: JITFunction, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> None:
        kernel = compile_or_launch(self, *arguments, grid=grid, warmup=True, **options)
        compiled.setdefault(self.__name__, {})[id(kernel)] = kernel

    driver.set_active(Absent())
    JITFunction.run = compile_only
    for shape in SHAPES:
        for dtype in (torch.float32, torch.bfloat16):
            call(*shape, dtype)
    for name, kernels in compiled.items():
        atomics = sum(len(re.findall(r"\b(?:atom|red)\.", kernel.asm["ptx"])) for kernel in kernels.values())
        spilled = max(kept_in_memory(kernel.asm["cubin"]) for kernel in kernels.values())
        print(name, atomics, spilled)


if __name__ == "__main__":
    main()
