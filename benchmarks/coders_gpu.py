"""A training step on a GPU, beside its bfloat16 product and beside eai-sparsify with its Triton decode, in the same run.

    python benchmarks/coders_gpu.py                    # d = 576, M = 36,864, k = 32 and d = 2,048, M = 131,072, k = 64
    python benchmarks/coders_gpu.py --only topk gumbel

Prints, and writes to benchmarks/results/coders_gpu.json, for N = 16,384 tokens: median milliseconds of a step (forward,
backward, Adam) of a skip-transcoder in bfloat16, of the encoder's product alone, of eai-sparsify's topk step (in bfloat16
too, by its own autocast), and of the parts of ours; each step over the product, and eai-sparsify's over each; and the share
of the two ceilings, which are measured in the same run by a large product and by a large copy. What counts for that is what a
step of `topk` cannot avoid: 2·N·M·d operations, and 4·N·M + 72·M·d bytes (the product written and read once; of both matrices
the parameters read and their gradients written, and Adam's seven passes; all else is of the size of k rows a token).
"""

import argparse
import sys
from collections.abc import Callable

import torch
from coders import VARIANTS, batch, eai_sparsify, parts, step
from machine import medians, record, show

SHAPES = (
    argparse.Namespace(width=576, latents=36_864, k=32, tokens=16_384),
    argparse.Namespace(width=2_048, latents=131_072, k=64, tokens=16_384),
)
THEIRS, PRODUCT = "eai-sparsify topk", "product bfloat16"
SIDE, COPIED = 8_192, 1 << 30


def product(shape: argparse.Namespace) -> Callable[[], object]:
    """The encoder's, bias included, into memory that is there already."""
    x = batch(shape, "cuda").x.bfloat16()
    W, b = (
        torch.randn(shape.latents, shape.width, device="cuda").bfloat16(),
        torch.zeros(shape.latents, device="cuda").bfloat16(),
    )
    out = torch.empty(shape.tokens, shape.latents, device="cuda", dtype=torch.bfloat16)
    return lambda: torch.addmm(b, x, W.T, out=out)


def ceilings() -> dict[str, Callable[[], object]]:
    """What this GPU does at its best: a product of two square matrices, and a copy."""
    a, b = (torch.randn(SIDE, SIDE, device="cuda").bfloat16() for _ in range(2))
    source = torch.empty(COPIED, device="cuda", dtype=torch.uint8)
    target = torch.empty_like(source)
    return {"ceiling: product": lambda: a @ b, "ceiling: copy": lambda: target.copy_(source)}


def timings(shape: argparse.Namespace, variants: list[str], rounds: int) -> dict[str, float]:
    """All cases of a shape, with ratios and shares."""
    steps = {f"step {variant}": step(variant, shape, "bfloat16", "cuda") for variant in variants}
    theirs = {THEIRS: eai_sparsify(shape, "cuda")}
    table = medians({PRODUCT: product(shape), **theirs, **steps, **parts(shape, "cuda"), **ceilings()}, rounds)
    operations = 2 * shape.tokens * shape.latents * shape.width
    moved = 4 * shape.tokens * shape.latents + 72 * shape.latents * shape.width
    for case in steps:
        table[f"{case} / product"] = table[case] / table[PRODUCT]
        table[f"eai-sparsify / {case}"] = table[THEIRS] / table[case]
        table[f"{case}: share of the tensor cores"] = operations / (2 * SIDE**3) * table["ceiling: product"] / table[case]
        table[f"{case}: share of the memory"] = moved / (2 * COPIED) * table["ceiling: copy"] / table[case]
    return {case: round(value, 3) for case, value in table.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--only", nargs="+", default=["topk", "binary-topk"], choices=list(VARIANTS))
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("benchmarks/coders_gpu.py: there is no GPU here, so nothing was measured", file=sys.stderr)
        return
    from sparsify.utils import decoder_impl, triton_decode

    assert decoder_impl is triton_decode, "eai-sparsify is to be measured with its Triton decode"
    for shape in SHAPES:
        name = f"d={shape.width} M={shape.latents} k={shape.k} N={shape.tokens}, milliseconds"
        measured = timings(shape, arguments.only, arguments.rounds)
        show(name, measured)
        record("coders_gpu", name, {"median": measured})


if __name__ == "__main__":
    main()
