"""What one job of this machine sustains in the work that `bsc estimate` counts.

    python benchmarks/rates.py NAME

One GPU, or one core where there is none. Prints, and writes to benchmarks/results/rates.json under NAME, floating-point
operations a second of an encoder's product in bfloat16 (in float32, where the CPU only emulates bfloat16) and in float32, of a
language model's layers (SmolLM2-135M's shapes, random weights), and bytes a second of a pass over memory. From then on
`bsc estimate --machine NAME` is made of these. On a cluster: run it in a job of the kind that is to be estimated.
"""

import argparse
import os

import torch
from machine import medians, record, show
from transformers import LlamaConfig, LlamaModel

from bsc.config import Model
from bsc.device import device, keep_freed_memory, resolve_dtype
from bsc.estimate.work import forward

WIDTH, LAYERS = 576, 30
LATENTS, ROWS, CONTEXTS = {"cpu": 4608, "cuda": 36_864}, {"cpu": 1024, "cuda": 16_384}, {"cpu": 2, "cuda": 64}
CONTEXT = 256
FLOATS = {"cpu": 1 << 26, "cuda": 1 << 30}
"""Float32 numbers that a pass over memory reads, and as many that it writes."""
JOBS_ON_GPUS = 64


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", metavar="NAME", help="what to call this class of machine")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()

    keep_freed_memory()
    torch.set_num_threads(1)
    where = device()
    kind, fast = where.type, resolve_dtype("auto", where)
    product = 2 * ROWS[kind] * WIDTH * LATENTS[kind]
    x, w = torch.randn(ROWS[kind], WIDTH, device=where), torch.randn(LATENTS[kind], WIDTH, device=where)
    source = torch.zeros(FLOATS[kind], device=where)
    target = torch.empty_like(source)
    model = _layers().to(where, fast)
    ids = torch.randint(0, 1000, (CONTEXTS[kind], CONTEXT), device=where)
    fast_x, fast_w = x.to(fast), w.to(fast)

    with torch.inference_mode():
        taken = medians(
            {
                "bfloat16": lambda: fast_x @ fast_w.T,
                "float32": lambda: x @ w.T,
                "forward": lambda: model(ids, use_cache=False),
                "memory": lambda: torch.add(source, 1, out=target),
            },
            arguments.rounds,
        )
    (layers,) = forward(_shapes(), LAYERS, ids.numel(), CONTEXT, head=False)
    work = {"bfloat16": product, "float32": product, "forward": layers.operations, "memory": 2 * 4 * FLOATS[kind]}
    measured = {
        "rates": {name: float(f"{1e3 * amount / taken[name]:.3g}") for name, amount in work.items()},
        "jobs": (os.cpu_count() or 1) if kind == "cpu" else JOBS_ON_GPUS,
        "gpu_bytes": torch.cuda.get_device_properties(where).total_memory if kind == "cuda" else 0,
    }
    show(arguments.name, measured)
    record("rates", arguments.name, measured)


def _layers() -> LlamaModel:
    """SmolLM2-135M's layers."""
    config = LlamaConfig(
        vocab_size=1000,
        hidden_size=WIDTH,
        intermediate_size=1536,
        num_hidden_layers=LAYERS,
        num_attention_heads=9,
        num_key_value_heads=3,
        attn_implementation="sdpa",
    )
    return LlamaModel(config).eval()


def _shapes() -> Model:
    return Model(source="folder:none", width=WIDTH, layers=LAYERS, hookpoints=["layers.0.mlp"])


if __name__ == "__main__":
    main()
