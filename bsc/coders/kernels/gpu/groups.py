"""What is done to groups of latents: winners, softmax with and without noise, drawing, and the softmax's gradient.

A program takes one group of one token and reads it once, in blocks; each lane keeps what it has seen, and the lanes are
put together at the end. Gumbel noise is made from the token's keys where it is needed, as in `softmax.gumbel`.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from bsc.coders.kernels.gpu.keys import differences
from bsc.coders.kernels.softmax import Softmax

_BLOCK = 1024
_TOKENS_A_SUM = 256
_LOWEST = tl.constexpr(-3.4e38)


def winners(
    p: Float[Tensor, "tokens latents"], groups: int, minus: Float[Tensor, " latents"] | None = None
) -> Int[Tensor, "tokens {groups}"]:
    """The index of the largest `p - minus` of each of `groups` contiguous groups; of equal values the lowest index wins."""
    found = torch.empty(len(p), groups, dtype=torch.int64, device=p.device)
    size = p.shape[1] // groups
    minus = None if minus is None else minus.contiguous()
    _winners[(len(p), groups)](p.contiguous(), minus, found, groups, size, BLOCK=_block(size))
    return found


def softmax(
    p: Float[Tensor, "tokens latents"], groups: int, beta: float, keys: Int[Tensor, "tokens 2"] | None
) -> tuple[Int[Tensor, "tokens groups"], Softmax]:
    """The largest of each group, of equal ones the first, and what the group's softmax needs."""
    found = torch.empty(len(p), groups, dtype=torch.int64, device=p.device)
    largest, total = torch.empty_like(found, dtype=torch.float32), torch.empty_like(found, dtype=torch.float32)
    size = p.shape[1] // groups
    inputs = p.contiguous(), None if keys is None else keys.contiguous(), float(beta)
    _softmax[(len(p), groups)](*inputs, found, largest, total, groups, size, BLOCK=_block(size))
    return found, Softmax(beta, keys, largest, total)


def draw(
    p: Float[Tensor, "tokens latents"], softmax: Softmax, uniform: Float[Tensor, "tokens groups"]
) -> Int[Tensor, "tokens groups"]:
    """The first of each group whose cumulative probability exceeds `uniform`."""
    drawn = torch.empty(uniform.shape, dtype=torch.int64, device=p.device)
    size = p.shape[1] // softmax.groups
    inputs = p.contiguous(), softmax.largest, uniform * softmax.total, drawn
    _draw[(len(p), softmax.groups)](*inputs, softmax.groups, size, BLOCK=_block(size))
    return drawn


def softmax_gradient(
    p: Float[Tensor, "tokens latents"],
    terms: Sequence[tuple[Softmax, Float[Tensor, "tokens groups"]]],
    indices: Int[Tensor, "tokens selected"],
    extra: Float[Tensor, "tokens selected"],
) -> Float[Tensor, "tokens latents"]:
    """Σ_terms c·π of each group, plus `extra` at `indices` (distinct on each token), in the type of `p`."""
    gradient = torch.empty_like(p, memory_format=torch.contiguous_format)
    (tokens, latents), groups, selected = p.shape, terms[0][0].groups, indices.shape[1]
    largest = torch.stack([softmax.largest for softmax, _ in terms])
    factor = torch.stack([coefficient / softmax.total for softmax, coefficient in terms])
    betas = tuple(float(softmax.beta) for softmax, _ in terms)
    keys = tuple(softmax.keys if softmax.keys is None else softmax.keys.contiguous() for softmax, _ in terms)
    density = p.contiguous(), largest, factor, betas, keys
    sizes = tokens, latents, groups, latents // groups
    _fill[(tokens, triton.cdiv(latents, _BLOCK))](*density, gradient, *sizes, BLOCK=_BLOCK)
    block = min(_BLOCK, triton.next_power_of_2(max(1, selected)))
    at = indices.contiguous(), extra.contiguous(), gradient, selected
    _put_extra[(tokens, triton.cdiv(selected, block))](*density, *at, *sizes, BLOCK=block)
    return gradient


def column_sums(p: Float[Tensor, "tokens latents"]) -> Float[Tensor, " latents"]:
    """The sum of each column, in float32: of some tokens at a time, then of these sums."""
    tokens, latents = p.shape
    pieces = triton.cdiv(tokens, _TOKENS_A_SUM)
    parts = torch.empty(pieces, latents, dtype=torch.float32, device=p.device)
    grid = (pieces, triton.cdiv(latents, _BLOCK))
    _column_sums[grid](p.contiguous(), parts, tokens, latents, TOKENS=_TOKENS_A_SUM, BLOCK=_BLOCK)
    return parts.sum(0)


def _block(size: int) -> int:
    block: int = triton.next_power_of_2(size)
    return min(_BLOCK, block)


@triton.jit
def _mixed(x):
    x = (x ^ (x >> 16)) * 0x7FEB352D
    x = (x ^ (x >> 15)) * 0x846CA68B
    return x ^ (x >> 16)


@triton.jit
def _noisy(p, keys, token, column, latents, inside):
    """The pre-activations of a token at some columns, plus noise where there are keys."""
    values = tl.load(p + token * latents + column, mask=inside, other=0.0).to(tl.float32)
    if keys is not None:
        first, second = tl.load(keys + 2 * token).to(tl.uint32), tl.load(keys + 2 * token + 1).to(tl.uint32)
        random = _mixed(_mixed(column.to(tl.uint32) + first) ^ second)
        uniform = ((random >> 9).to(tl.float32) + 0.5) * 1.1920928955078125e-07  # 2^-23
        values += -tl.log(-tl.log(uniform))
    return values


@triton.jit
def _winners(p, minus, found, groups, size, BLOCK: tl.constexpr):
    token, group = tl.program_id(0).to(tl.int64), tl.program_id(1)
    best = tl.zeros((BLOCK,), dtype=tl.uint32)
    where = tl.full((BLOCK,), size - 1, tl.int32)
    for start in range(0, size, BLOCK):
        member = start + tl.arange(0, BLOCK)
        keys = differences(p, minus, token, group * size + member, groups * size, member < size)
        where = tl.where(keys > best, member, where)
        best = tl.maximum(keys, best)
    winner = tl.min(tl.where(best == tl.max(best, axis=0), where, size - 1), axis=0)
    tl.store(found + token * groups + group, (group * size + winner).to(tl.int64))


@triton.jit
def _softmax(p, keys, beta, found, largest, total, groups, size, BLOCK: tl.constexpr):
    token, group = tl.program_id(0).to(tl.int64), tl.program_id(1)
    best = tl.full((BLOCK,), _LOWEST, tl.float32)
    where = tl.zeros((BLOCK,), dtype=tl.int32)
    sums = tl.zeros((BLOCK,), dtype=tl.float32)
    for start in range(0, size, BLOCK):
        member = start + tl.arange(0, BLOCK)
        inside = member < size
        values = _noisy(p, keys, token, group * size + member, groups * size, inside)
        values = tl.where(inside, values, float("-inf"))
        where = tl.where(values > best, member, where)
        higher = tl.maximum(values, best)
        sums = sums * tl.exp(beta * (best - higher)) + tl.exp(beta * (values - higher))
        best = higher
    top = tl.max(best, axis=0)
    winner = tl.min(tl.where(best == top, where, size - 1), axis=0)
    at = token * groups + group
    tl.store(found + at, (group * size + winner).to(tl.int64))
    tl.store(largest + at, top)
    tl.store(total + at, tl.sum(sums * tl.exp(beta * (best - top)), axis=0))


@triton.jit
def _draw(p, largest, threshold, drawn, groups, size, BLOCK: tl.constexpr):
    token, group = tl.program_id(0).to(tl.int64), tl.program_id(1)
    at = token * groups + group
    top, wanted = tl.load(largest + at), tl.load(threshold + at)
    before, found = 0.0, size - 1
    for start in range(0, size, BLOCK):
        member = start + tl.arange(0, BLOCK)
        inside = member < size
        values = _noisy(p, None, token, group * size + member, groups * size, inside)
        mass = tl.where(inside, tl.exp(values - top), 0.0)
        reached = inside & (before + tl.cumsum(mass, axis=0) > wanted)
        found = tl.minimum(found, tl.min(tl.where(reached, member, size - 1), axis=0))
        before += tl.sum(mass, axis=0)
    tl.store(drawn + at, (group * size + found).to(tl.int64))


@triton.jit
def _density(p, largest, factor, betas, keys, token, column, tokens, latents, groups, size, inside):
    """Σ_terms c·π of a token at some columns."""
    acc = tl.zeros(column.shape, dtype=tl.float32)
    for term in tl.static_range(len(betas)):
        at = (term * tokens + token) * groups + column // size
        values = _noisy(p, keys[term], token, column, latents, inside)
        values -= tl.load(largest + at, mask=inside, other=0.0)
        acc += tl.load(factor + at, mask=inside, other=0.0) * tl.exp(betas[term] * values)
    return acc


@triton.jit
def _fill(p, largest, factor, betas, keys, gradient, tokens, latents, groups, size, BLOCK: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < latents
    density = _density(p, largest, factor, betas, keys, token, column, tokens, latents, groups, size, inside)
    tl.store(gradient + token * latents + column, density, mask=inside)


@triton.jit
def _put_extra(
    p, largest, factor, betas, keys, indices, extra, gradient, selected, tokens, latents, groups, size, BLOCK: tl.constexpr
):
    token = tl.program_id(0).to(tl.int64)
    term = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = term < selected
    column = tl.load(indices + token * selected + term, mask=inside, other=0).to(tl.int32)
    density = _density(p, largest, factor, betas, keys, token, column, tokens, latents, groups, size, inside)
    density += tl.load(extra + token * selected + term, mask=inside, other=0.0)
    tl.store(gradient + token * latents + column, density, mask=inside)


@triton.jit
def _column_sums(p, parts, tokens, latents, TOKENS: tl.constexpr, BLOCK: tl.constexpr):
    piece = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < latents
    acc = tl.zeros((BLOCK,), dtype=tl.float32)
    last = tl.minimum(piece * TOKENS + TOKENS, tokens)
    for token in range(piece * TOKENS, last):
        acc += tl.load(p + token * latents + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(parts + piece * latents + column, acc, mask=inside)
