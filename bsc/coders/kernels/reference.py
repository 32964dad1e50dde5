"""All kernels in plain torch: correct on any device and in any type, float64 too.

The sparse products take one selected latent of every token at a time, so their memory never exceeds a few times [tokens, d];
what is done to groups takes memory like `p` itself a few times over.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bsc.coders.kernels.softmax import Softmax, gumbel


def decode(
    indices: Int[Tensor, "tokens selected"], values: Float[Tensor, "tokens selected"], rows: Float[Tensor, "latents d"]
) -> Float[Tensor, "tokens d"]:
    """Σ_s values[t, s] · rows[indices[t, s]] for each token t."""
    total = rows.new_zeros(len(indices), rows.shape[1], dtype=_wide(rows, values))
    for selected, value in zip(indices.unbind(1), values.unbind(1), strict=True):
        total += value.unsqueeze(1).to(total.dtype) * rows[selected]
    return total.to(rows.dtype)


def value_gradient(
    indices: Int[Tensor, "tokens selected"], gradient: Float[Tensor, "tokens d"], rows: Float[Tensor, "latents d"]
) -> Float[Tensor, "tokens selected"]:
    """⟨gradient[t], rows[indices[t, s]]⟩: what `decode` gives back to its values."""
    wide = gradient.to(_wide(gradient, rows))
    columns = [(wide * rows[selected]).sum(1) for selected in indices.unbind(1)]
    return torch.stack(columns, dim=1).to(gradient.dtype) if columns else gradient.new_zeros(indices.shape)


def row_gradient(
    indices: Int[Tensor, "tokens selected"],
    weights: Float[Tensor, "tokens selected"],
    x: Float[Tensor, "tokens d"],
    rows: int,
) -> Float[Tensor, "rows d"]:
    """The matrix whose row i is Σ of weights[t, s] · x[t] over all (t, s) with indices[t, s] = i."""
    total = x.new_zeros(rows, x.shape[1], dtype=_wide(x, weights))
    for selected, weight in zip(indices.unbind(1), weights.unbind(1), strict=True):
        total.index_add_(0, selected, weight.unsqueeze(1).to(total.dtype) * x)
    return total.to(x.dtype)


def latent_sums(
    indices: Int[Tensor, "tokens selected"], weights: Float[Tensor, "tokens selected"], latents: int
) -> Float[Tensor, " latents"]:
    """Σ of weights[t, s] over all (t, s) with indices[t, s] = i, for each latent i."""
    return weights.new_zeros(latents).index_add_(0, indices.flatten(), weights.flatten())


def moments(x: Float[Tensor, "tokens d"]) -> tuple[Float[Tensor, " d"], Float[Tensor, " d"]]:
    """The mean of each dimension, and Σ(x - mean)²."""
    mean = x.mean(0)
    return mean, (x - mean).square_().sum(0)


def _wide(one: Tensor, other: Tensor) -> torch.dtype:
    """What products of two tensors are summed in."""
    return torch.promote_types(torch.promote_types(one.dtype, other.dtype), torch.float32)


def _grouped(p: Float[Tensor, "tokens latents"], groups: int, keys: Tensor | None) -> Float[Tensor, "tokens groups size"]:
    values = p.to(torch.promote_types(p.dtype, torch.float32))
    if keys is not None:
        values = values + gumbel(torch.arange(p.shape[1], device=p.device), keys, values.dtype)
    return values.view(len(p), groups, -1)


def softmax(
    p: Float[Tensor, "tokens latents"], groups: int, beta: float, keys: Int[Tensor, "tokens 2"] | None
) -> tuple[Int[Tensor, "tokens groups"], Softmax]:
    """The largest of each group, of equal ones the first, and what the group's softmax needs."""
    values = _grouped(p, groups, keys)
    largest, winner = values.max(2)
    total = (beta * (values - largest.unsqueeze(2))).exp().sum(2)
    first = torch.arange(groups, device=p.device) * values.shape[2]
    return winner + first, Softmax(beta, keys, largest, total)


def draw(
    p: Float[Tensor, "tokens latents"], softmax: Softmax, uniform: Float[Tensor, "tokens groups"]
) -> Int[Tensor, "tokens groups"]:
    """The first of each group whose cumulative probability exceeds `uniform`."""
    values = _grouped(p, softmax.groups, None)
    cumulative = (values - softmax.largest.unsqueeze(2)).exp().cumsum(2)
    member = torch.searchsorted(cumulative, (uniform * softmax.total).unsqueeze(2), right=True).squeeze(2)
    first = torch.arange(softmax.groups, device=p.device) * values.shape[2]
    return member.clamp_(max=values.shape[2] - 1) + first


def softmax_gradient(
    p: Float[Tensor, "tokens latents"],
    terms: Sequence[tuple[Softmax, Float[Tensor, "tokens groups"]]],
    indices: Int[Tensor, "tokens selected"],
    extra: Float[Tensor, "tokens selected"],
) -> Float[Tensor, "tokens latents"]:
    """Σ_terms c·π of each group, plus `extra` at `indices`, in the type of `p`."""
    total = torch.zeros_like(extra[:, :1]).expand(len(p), p.shape[1]).clone()
    for softmax, coefficient in terms:
        values = _grouped(p, softmax.groups, softmax.keys) - softmax.largest.unsqueeze(2)
        total += ((coefficient / softmax.total).unsqueeze(2) * (softmax.beta * values).exp()).flatten(1)
    return total.scatter_add_(1, indices, extra).to(p.dtype)


def column_sums(p: Float[Tensor, "tokens latents"]) -> Float[Tensor, " latents"]:
    """The sum of each column, in float32 or wider."""
    return p.sum(0, dtype=torch.promote_types(p.dtype, torch.float32))
