"""The sparse products: k rows a token, accumulated in float32.

A program computes some columns of one output row. For the gradient of the rows, (token, selected) pairs are sorted by latent,
so that the terms of a row lie side by side; a latent that fires often would keep one program busy long after the others are
done, so its terms are cut into pieces, whose sums are added up in a last launch.
"""

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

_TERMS = 16
"""Rows that a program holds at once."""
_PIECE = 256
"""Terms of an output row that one program sums at most."""


def decode(
    indices: Int[Tensor, "tokens selected"], values: Float[Tensor, "tokens selected"], rows: Float[Tensor, "latents d"]
) -> Float[Tensor, "tokens d"]:
    """Σ_s values[t, s] · rows[indices[t, s]] for each token t."""
    (tokens, selected), width = indices.shape, rows.shape[1]
    total = rows.new_empty(tokens, width)
    inputs = indices.contiguous(), values.contiguous(), rows.contiguous()
    columns = _columns(width)
    grid = (tokens, triton.cdiv(width, columns))
    _decode[grid](*inputs, total, selected, width, TERMS=_TERMS, COLUMNS=columns)
    return total


def residual(
    indices: Int[Tensor, "tokens selected"],
    values: Float[Tensor, "tokens selected"],
    rows: Float[Tensor, "latents d"],
    y: Float[Tensor, "tokens d"],
    bias: Float[Tensor, " d"] | None,
    skip: Float[Tensor, "tokens d"] | None,
) -> tuple[Float[Tensor, "tokens d"], Float[Tensor, " tokens"], Float[Tensor, "tokens selected"]]:
    """What is left, r = y - bias - skip - Σ_s values[t, s] · rows[indices[t, s]], |r[t]|², and ⟨r[t], rows[indices[t, s]]⟩."""
    (tokens, selected), width = indices.shape, rows.shape[1]
    columns = _columns(width)
    across = triton.cdiv(width, columns)
    r, squares = rows.new_empty(tokens, width), rows.new_empty(tokens, across, dtype=torch.float32)
    inputs = (None if one is None else one.contiguous() for one in (indices, values, rows, y, bias, skip))
    _residual[(tokens, across)](*inputs, r, squares, selected, width, TERMS=_TERMS, COLUMNS=columns)
    return r, squares.sum(1).to(r.dtype), value_gradient(indices, r, rows)


def value_gradient(
    indices: Int[Tensor, "tokens selected"], gradient: Float[Tensor, "tokens d"], rows: Float[Tensor, "latents d"]
) -> Float[Tensor, "tokens selected"]:
    """⟨gradient[t], rows[indices[t, s]]⟩: what `decode` gives back to its values."""
    (tokens, selected), width = indices.shape, rows.shape[1]
    products = gradient.new_empty(tokens, selected)
    inputs = indices.contiguous(), gradient.contiguous(), rows.contiguous()
    grid = (tokens, triton.cdiv(selected, _TERMS))
    _value_gradient[grid](*inputs, products, selected, width, TERMS=_TERMS, COLUMNS=_columns(width))
    return products


def row_gradient(
    indices: Int[Tensor, "tokens selected"],
    weights: Float[Tensor, "tokens selected"],
    x: Float[Tensor, "tokens d"],
    rows: int,
) -> Float[Tensor, "rows d"]:
    """The [rows, d] matrix whose row i is Σ of weights[t, s] · x[t] over all (t, s) with indices[t, s] = i, in order of t."""
    return _sums_by_latent(indices, weights.contiguous(), x.contiguous(), rows, x.shape[1]).to(x.dtype)


def latent_sums(
    indices: Int[Tensor, "tokens selected"], weights: Float[Tensor, "tokens selected"], latents: int
) -> Float[Tensor, " latents"]:
    """Σ of weights[t, s] over all (t, s) with indices[t, s] = i, for each latent i."""
    return _sums_by_latent(indices, weights.contiguous(), None, latents, 1).squeeze(1).to(weights.dtype)


def _sums_by_latent(
    indices: Int[Tensor, "tokens selected"],
    weights: Float[Tensor, "tokens selected"],
    x: Float[Tensor, "tokens d"] | None,
    rows: int,
    width: int,
) -> Float[Tensor, "rows d"]:
    """As `row_gradient`, in float32; without x as if it were ones."""
    latent, order = indices.flatten().int().sort(stable=True)
    bounds = torch.searchsorted(latent, torch.arange(rows + 1, device=latent.device, dtype=torch.int32))
    begin, end = bounds[:-1], bounds[1:]
    columns = _columns(width)
    across = triton.cdiv(width, columns)

    def sums(begin: Tensor, end: Tensor) -> Tensor:
        out = torch.empty(len(begin), width, dtype=torch.float32, device=order.device)
        terms = order, weights, x, begin.contiguous(), end.contiguous()
        _sums[(len(begin), across)](*terms, out, indices.shape[1], width, TERMS=_TERMS, COLUMNS=columns)
        return out

    total = sums(begin, torch.minimum(end, begin + _PIECE))
    pieces = indices.numel() // _PIECE  # at most: each piece of a latent but its first follows a full one
    if pieces:
        after = ((end - begin - 1) // _PIECE).clamp_(min=0).cumsum(0)
        number = torch.arange(pieces, device=order.device)
        owner = torch.searchsorted(after, number, right=True)
        clamped = owner.clamp(max=rows - 1)
        first = torch.where(clamped > 0, after[clamped - 1], 0)
        last = torch.where(owner < rows, end[clamped], 0)
        begin = begin[clamped] + (number - first + 1) * _PIECE
        parts = sums(begin, torch.minimum(last, begin + _PIECE))
        _add_parts[(pieces, across)](parts, owner, total, pieces, rows, width, COLUMNS=columns)
    return total


def _columns(width: int) -> int:
    """How many columns a program takes: a power of two that leaves few of its places empty."""
    return min((256, 128, 64), key=lambda columns: columns * triton.cdiv(width, columns))


@triton.jit
def _decode(indices, values, rows, total, selected, width, TERMS: tl.constexpr, COLUMNS: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    acc = _combination(indices, values, rows, token, column, selected, width, TERMS, COLUMNS)
    tl.store(total + token * width + column, acc, mask=column < width)


@triton.jit
def _residual(
    indices, values, rows, y, bias, skip, residual, squares, selected, width, TERMS: tl.constexpr, COLUMNS: tl.constexpr
):
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < width
    rest = tl.load(y + token * width + column, mask=inside, other=0.0).to(tl.float32)
    if bias is not None:
        rest -= tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)
    if skip is not None:
        rest -= tl.load(skip + token * width + column, mask=inside, other=0.0).to(tl.float32)
    rest -= _combination(indices, values, rows, token, column, selected, width, TERMS, COLUMNS)
    tl.store(residual + token * width + column, rest, mask=inside)
    tl.store(squares + token * tl.num_programs(1) + tl.program_id(1), tl.sum(rest * rest))


@triton.jit
def _combination(indices, values, rows, token, column, selected, width, TERMS: tl.constexpr, COLUMNS: tl.constexpr):
    """Some columns of Σ_s values[token, s] · rows[indices[token, s]]; 0 in those that are not there."""
    inside = column < width
    acc = tl.zeros((COLUMNS,), dtype=tl.float32)
    for start in range(0, selected, TERMS):
        term = start + tl.arange(0, TERMS)
        there = term < selected
        latent = tl.load(indices + token * selected + term, mask=there, other=0)
        value = tl.load(values + token * selected + term, mask=there, other=0.0).to(tl.float32)
        at = latent[:, None] * width + column[None, :]
        row = tl.load(rows + at, mask=there[:, None] & inside[None, :], other=0.0).to(tl.float32)
        acc += tl.sum(value[:, None] * row, axis=0)
    return acc


@triton.jit
def _value_gradient(indices, gradient, rows, products, selected, width, TERMS: tl.constexpr, COLUMNS: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    term = tl.program_id(1) * TERMS + tl.arange(0, TERMS)
    there = term < selected
    latent = tl.load(indices + token * selected + term, mask=there, other=0)
    acc = tl.zeros((TERMS, COLUMNS), dtype=tl.float32)
    for start in range(0, width, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        inside = column < width
        g = tl.load(gradient + token * width + column, mask=inside, other=0.0).to(tl.float32)
        at = latent[:, None] * width + column[None, :]
        row = tl.load(rows + at, mask=there[:, None] & inside[None, :], other=0.0).to(tl.float32)
        acc += g[None, :] * row
    tl.store(products + token * selected + term, tl.sum(acc, axis=1), mask=there)


@triton.jit
def _sums(order, weights, x, begin, end, out, selected, width, TERMS: tl.constexpr, COLUMNS: tl.constexpr):
    """Row i of `out` is Σ weights[order[j]] · x[order[j] // selected] over begin[i] <= j < end[i]."""
    i = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < width
    first, last = tl.load(begin + i), tl.load(end + i)
    acc = tl.zeros((COLUMNS,), dtype=tl.float32)
    for start in range(first, last, TERMS):
        term = start + tl.arange(0, TERMS)
        there = term < last
        at = tl.load(order + term, mask=there, other=0)
        summand = tl.load(weights + at, mask=there, other=0.0).to(tl.float32)[:, None]
        if x is not None:
            token = at // selected
            mask = there[:, None] & inside[None, :]
            summand *= tl.load(x + token[:, None] * width + column[None, :], mask=mask, other=0.0).to(tl.float32)
        acc += tl.sum(summand, axis=0)
    tl.store(out + i * width + column, acc, mask=inside)


@triton.jit
def _add_parts(parts, owner, total, pieces, rows, width, COLUMNS: tl.constexpr):
    """To the row of each owner its parts, which lie side by side: by the program of the first of them."""
    i = tl.program_id(0)
    row = tl.load(owner + i)
    before = tl.load(owner + i - 1, mask=i > 0, other=-1)
    if (row < rows) & (row != before):
        column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
        inside = column < width
        acc = tl.load(total + row * width + column, mask=inside, other=0.0)
        part, its_row = i, row
        while its_row == row:
            acc += tl.load(parts + part.to(tl.int64) * width + column, mask=inside, other=0.0)
            part += 1
            its_row = tl.load(owner + part, mask=part < pieces, other=-1)
        tl.store(total + row * width + column, acc, mask=inside)
