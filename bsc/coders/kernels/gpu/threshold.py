"""The threshold τ of each token with Σ_j σ(p_j - τ) = k: one program a token, which reads its row once a step of Newton."""

import math

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

_BLOCK = 2048
_TOLERANCE = tl.constexpr(1e-5)
_ITERATIONS = tl.constexpr(60)


def solve_threshold(p: Float[Tensor, "tokens latents"], k: int) -> Float[Tensor, "tokens 1"]:
    """τ of each token with Σ_j σ(p_j - τ) = k, to 1e-5 of k, in float32; 0 < k < latents. See `binary_threshold`."""
    tokens, latents = p.shape
    thresholds = torch.empty(tokens, 1, dtype=torch.float32, device=p.device)
    shift = math.log(k / (latents - k))
    block = min(_BLOCK, triton.next_power_of_2(latents))
    _solve[(tokens,)](p.contiguous(), thresholds, float(k), math.log(k), shift, latents, BLOCK=block)
    return thresholds


@triton.jit
def _solve(p, thresholds, k, log_k, shift, latents, BLOCK: tl.constexpr):
    row = p + tl.program_id(0).to(tl.int64) * latents
    smallest, largest, log_sum = _extent(row, latents, BLOCK)
    low, high = smallest - shift, largest - shift
    threshold = tl.minimum(tl.maximum(log_sum - log_k, low), high)
    turn = 0
    while turn < _ITERATIONS:
        total, slope = _gates(row, threshold, latents, BLOCK)
        converged = tl.abs(total - k) <= _TOLERANCE * k
        low, high = tl.where(total > k, threshold, low), tl.where(total < k, threshold, high)
        newton = threshold + total * tl.log(total / k) / slope
        step = tl.where((newton > low) & (newton < high), newton, (low + high) / 2)
        threshold = tl.where(converged, threshold, step)
        turn = tl.where(converged, _ITERATIONS, turn + 1)
    tl.store(thresholds + tl.program_id(0), threshold)


@triton.jit
def _extent(row, latents, BLOCK: tl.constexpr):
    """The smallest and the largest of a row, and the logarithm of the sum of its exponentials."""
    low = tl.full((BLOCK,), float("inf"), tl.float32)
    best = tl.full((BLOCK,), -3.4e38, tl.float32)
    sums = tl.zeros((BLOCK,), dtype=tl.float32)
    for start in range(0, latents, BLOCK):
        column = start + tl.arange(0, BLOCK)
        inside = column < latents
        values = tl.load(row + column, mask=inside, other=0.0).to(tl.float32)
        low = tl.minimum(low, tl.where(inside, values, float("inf")))
        values = tl.where(inside, values, float("-inf"))
        higher = tl.maximum(values, best)
        sums = sums * tl.exp(best - higher) + tl.exp(values - higher)
        best = higher
    top = tl.max(best, axis=0)
    return tl.min(low, axis=0), top, top + tl.log(tl.sum(sums * tl.exp(best - top), axis=0))


@triton.jit
def _gates(row, threshold, latents, BLOCK: tl.constexpr):
    """Σσ(p - τ) of a row, and what it loses per unit of τ."""
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    slope = tl.zeros((BLOCK,), dtype=tl.float32)
    for start in range(0, latents, BLOCK):
        column = start + tl.arange(0, BLOCK)
        inside = column < latents
        values = tl.load(row + column, mask=inside, other=0.0).to(tl.float32)
        gate = tl.where(inside, tl.sigmoid(values - threshold), 0.0)
        total += gate
        slope += gate * (1 - gate)
    return tl.sum(total, axis=0), tl.sum(slope, axis=0)
