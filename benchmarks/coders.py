"""A training step of each binariser, beside the one product that it cannot avoid and beside eai-sparsify, in the same run.

    python benchmarks/coders.py                     # d = 576, M = 36,864, k = 32, N = 4,096
    python benchmarks/coders.py --latents 4608      # the demo's width

Prints, and writes to benchmarks/results/coders.json, median milliseconds of a step (forward, backward, Adam) of a
skip-transcoder; of the encoder's product alone, in float32 and in bfloat16; of eai-sparsify's topk step (float32, as its
trainer runs it), and of the parts of ours. `--only` picks binarisers. Every case takes its turn in each round, so that ratios
mean something on a noisy machine. `--memory` measures instead the peak memory of a step beyond parameters, gradients and the
optimiser's state, one process each (Linux).
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from bench_specs import coder_spec
from machine import medians, record, show

from bsc.coders import kernels
from bsc.coders.binarisers.registry import REGISTRY
from bsc.coders.select import top_k
from bsc.device import has_fast_bfloat16, keep_freed_memory, processor
from bsc.stages import CoderSpec
from bsc.training.batches import Batch
from bsc.training.optimisers import Adam
from bsc.training.trainer import Trainer

FAST = has_fast_bfloat16(torch.device("cpu"))
"""Where bfloat16 is emulated, a product in it takes minutes."""
DTYPES = ["bfloat16", "float32"] if FAST else ["float32"]
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{key: (key, {}) for key in REGISTRY},
    "binary-threshold, learned": ("binary-threshold", {"threshold": "learned"}),
}


def spec(variant: str, shape: argparse.Namespace, dtype: str) -> CoderSpec:
    """A skip-transcoder's, as the configs would make it."""
    binariser, options = VARIANTS[variant]
    return coder_spec(
        width=shape.width,
        latents=shape.latents,
        k=shape.k,
        binariser=binariser,
        options=options,
        tokens=1_000 * shape.tokens,
        batch_tokens=shape.tokens,
        warmup_steps=10,
        dtype=dtype,
    )


def batch(shape: argparse.Namespace, device: str = "cpu") -> Batch:
    """Inputs and targets that are related, so that a few steps learn something."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape.tokens, shape.width, generator=generator)
    y = torch.tanh(x @ torch.randn(shape.width, shape.width, generator=generator) / shape.width**0.5)
    return Batch(x.to(device), y.to(device))


def step(variant: str, shape: argparse.Namespace, dtype: str, device: str = "cpu") -> Callable[[], object]:
    """Our step, on a coder that has taken a few."""
    data = batch(shape, device)
    trainer = Trainer(spec(variant, shape, dtype), data, torch.device(device))
    return lambda: trainer.advance(data)


def eai_sparsify(shape: argparse.Namespace, device: str = "cpu") -> Callable[[], object]:
    """eai-sparsify's step: its forward on (x, y), backward, torch's Adam, as in its trainer."""
    if device == "cpu":
        os.environ["SPARSIFY_DISABLE_TRITON"] = "1"  # else it decodes by Triton wherever that is installed
    from sparsify.config import SparseCoderConfig
    from sparsify.sparse_coder import SparseCoder

    config = SparseCoderConfig(
        num_latents=shape.latents, k=shape.k, transcode=True, skip_connection=True, normalize_decoder=False
    )
    coder, data = SparseCoder(shape.width, config, device=device), batch(shape, device)
    optimiser = torch.optim.Adam(coder.parameters(), lr=1e-3)

    def advance() -> None:
        coder(data.x, data.y).fvu.backward()
        optimiser.step()
        optimiser.zero_grad()

    return advance


def products(shape: argparse.Namespace) -> dict[str, Callable[[], object]]:
    """The encoder's product alone, biases included, as the step computes it: in bfloat16 where the CPU has that, in float32."""
    x, W, b = batch(shape).x, torch.randn(shape.latents, shape.width) / 24, torch.zeros(shape.latents)
    out = torch.empty(shape.tokens, shape.latents)
    cases: dict[str, Callable[[], object]] = {"product float32": lambda: torch.addmm(b, x, W.T, out=out)}
    if FAST:
        halves = [tensor.bfloat16() for tensor in (x, W, b)]
        cases["product bfloat16"] = lambda: torch.ops.mkldnn._linear_pointwise(*halves, "none", [], "")
    return cases


def parts(shape: argparse.Namespace, device: str = "cpu") -> dict[str, Callable[[], object]]:
    """The pieces of a topk step after its product, by the kernels that it uses."""
    generator = torch.Generator().manual_seed(0)
    p = torch.randn(shape.tokens, shape.latents, generator=generator).to(device, torch.bfloat16)
    theta, rows = torch.rand(shape.latents, device=device), torch.randn(shape.latents, shape.width, device=device)
    indices, x = top_k(p, shape.k), batch(shape, device).x
    values = torch.rand(indices.shape, device=device)
    parameters = {name: torch.nn.Parameter(rows.clone()) for name in ("W_enc", "W_dec")}
    for parameter in parameters.values():
        parameter.grad = rows.clone()
    adam = Adam(parameters)
    return {
        "part: top-k of bfloat16": lambda: top_k(p, shape.k),
        "part: top-k less thresholds": lambda: top_k(p, shape.k, minus=theta),
        "part: decode": lambda: kernels.decode(indices, values, rows),
        "part: residual and gradient of the values": lambda: kernels.residual(indices, values, rows, x, None, None),
        "part: gradient of the values": lambda: kernels.value_gradient(indices, x, rows),
        "part: gradient of the rows (one of two)": lambda: kernels.row_gradient(indices, values, x, shape.latents),
        "part: Adam": lambda: adam.step(1e-3),
        "part: W_enc to bfloat16": lambda: rows.bfloat16(),
    }


def memory(variant: str, shape: argparse.Namespace, dtype: str) -> float:
    """Peak MB of a step beyond what is there between steps; run this in a process of its own that gives freed memory back."""
    advance = step(variant, shape, dtype)
    advance()
    between, _ = resident()
    Path("/proc/self/clear_refs").write_text("5")
    advance()
    return resident()[1] - between


def resident() -> tuple[float, float]:
    """Resident memory of this process in MB (10^6 bytes), now and at its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    held = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith(("VmRSS", "VmHWM"))}
    return int(held["VmRSS"]) * 1024 / 1e6, int(held["VmHWM"]) * 1024 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=576, help="d")
    parser.add_argument("--latents", type=int, default=36_864, help="M")
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=4_096, help="N, tokens a batch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtypes", nargs="+", default=DTYPES, choices=["bfloat16", "float32"])
    parser.add_argument("--only", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--memory", action="store_true", help="measure peak memory in the place of time")
    parser.add_argument("--no-record", action="store_true", help="print only")
    shape = parser.parse_args()
    name = f"d={shape.width} M={shape.latents} k={shape.k} N={shape.tokens}"
    if shape.memory and len(shape.only) == len(shape.dtypes) == 1:
        print(memory(shape.only[0], shape, shape.dtypes[0]))
        return
    if not shape.memory:
        keep_freed_memory()  # as `bsc train` does; it helps the others as well
    measured = peaks(shape) if shape.memory else timings(shape)
    chosen = [*([] if shape.only == list(VARIANTS) else shape.only), *([] if shape.dtypes == DTYPES else shape.dtypes)]
    part = ", ".join([name, "memory in MB" if shape.memory else "milliseconds", *chosen, f"on {processor()}"])
    show(part, measured)
    if not shape.no_record:
        record("coders", part, {"median": measured})


def timings(shape: argparse.Namespace) -> dict[str, float]:
    """All cases, and ratios of the steps to the float32 product and to eai-sparsify; each dtype has a run of its own."""
    table: dict[str, float] = {}
    for dtype in shape.dtypes:
        steps = {f"{variant} {dtype}": step(variant, shape, dtype) for variant in shape.only}
        pieces, baselines = parts(shape), {**products(shape), "eai-sparsify topk float32": eai_sparsify(shape)}
        taken = medians({**baselines, **steps, **pieces}, shape.rounds)
        table |= {f"{case} (beside {dtype} steps)": taken.pop(case) for case in [*baselines, *pieces]}
        beside = {case: table[f"{case} (beside {dtype} steps)"] for case in baselines}
        for case in steps:
            table[case] = taken[case]
            for kind in ("float32", "bfloat16"):
                if f"product {kind}" in beside:
                    table[f"{case} / {kind} product"] = taken[case] / beside[f"product {kind}"]
            table[f"eai-sparsify / {case}"] = beside["eai-sparsify topk float32"] / taken[case]
            if f"topk {dtype}" in taken:
                table[f"{case} / topk"] = taken[case] / taken[f"topk {dtype}"]
    return {case: round(value, 3) for case, value in table.items()}


def peaks(shape: argparse.Namespace) -> dict[str, float]:
    """Peak MB of a step of each case."""
    taken = {}
    for dtype in shape.dtypes:
        for variant in shape.only:
            sizes = [f"--{key}={getattr(shape, key)}" for key in ("width", "latents", "k", "tokens")]
            command = [sys.executable, __file__, "--memory", "--only", variant, "--dtypes", dtype, *sizes]
            taken[f"{variant} {dtype}"] = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return taken


if __name__ == "__main__":
    main()
