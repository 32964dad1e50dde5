"""The sparse products in plain torch, one selected latent of every token at a time. Correct on any device.

`indices` are [tokens, selected]; memory never exceeds a few times [tokens, d].
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def decode(
    indices: Int[Tensor, "tokens selected"], values: Float[Tensor, "tokens selected"], rows: Float[Tensor, "latents d"]
) -> Float[Tensor, "tokens d"]:
    """Σ_s values[t, s] · rows[indices[t, s]] for each token t."""
    total = rows.new_zeros(len(indices), rows.shape[1])
    for selected, value in zip(indices.unbind(1), values.unbind(1), strict=True):
        total += value.unsqueeze(1) * rows[selected]
    return total


def value_gradient(
    indices: Int[Tensor, "tokens selected"], gradient: Float[Tensor, "tokens d"], rows: Float[Tensor, "latents d"]
) -> Float[Tensor, "tokens selected"]:
    """⟨gradient[t], rows[indices[t, s]]⟩: what `decode` gives back to its values."""
    columns = [(gradient * rows[selected]).sum(1) for selected in indices.unbind(1)]
    return torch.stack(columns, dim=1) if columns else gradient.new_zeros(indices.shape)


def row_gradient(
    indices: Int[Tensor, "tokens selected"],
    weights: Float[Tensor, "tokens selected"],
    x: Float[Tensor, "tokens d"],
    rows: int,
) -> Float[Tensor, "rows d"]:
    """The matrix whose row i is Σ of weights[t, s] · x[t] over all (t, s) with indices[t, s] = i."""
    total = x.new_zeros(rows, x.shape[1])
    for selected, weight in zip(indices.unbind(1), weights.unbind(1), strict=True):
        total.index_add_(0, selected, weight.unsqueeze(1) * x)
    return total
