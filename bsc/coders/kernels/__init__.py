"""The sparse products of a coder: a plain reference, and faster twins of it.

`decode`, `value_gradient` and `row_gradient` pick the twin of the device that the tensors are on, and compute in the type that
they have: autocast does not reach them.
"""

import types

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bsc.coders.kernels import cpu, reference


def _twin(tensor: Tensor) -> types.ModuleType:
    return cpu if tensor.device.type == "cpu" else reference


def decode(
    indices: Int[Tensor, "tokens selected"], values: Float[Tensor, "tokens selected"], rows: Float[Tensor, "latents d"]
) -> Float[Tensor, "tokens d"]:
    """Σ_s values[t, s] · rows[indices[t, s]] for each token t."""
    with torch.autocast(rows.device.type, enabled=False):
        total: Tensor = _twin(rows).decode(indices, values, rows)
    return total


def value_gradient(
    indices: Int[Tensor, "tokens selected"], gradient: Float[Tensor, "tokens d"], rows: Float[Tensor, "latents d"]
) -> Float[Tensor, "tokens selected"]:
    """⟨gradient[t], rows[indices[t, s]]⟩: what `decode` gives back to its values."""
    with torch.autocast(rows.device.type, enabled=False):
        products: Tensor = _twin(rows).value_gradient(indices, gradient, rows)
    return products


def row_gradient(
    indices: Int[Tensor, "tokens selected"],
    weights: Float[Tensor, "tokens selected"],
    x: Float[Tensor, "tokens d"],
    rows: int,
) -> Float[Tensor, "rows d"]:
    """The [rows, d] matrix whose row i is Σ of weights[t, s] · x[t] over all (t, s) with indices[t, s] = i."""
    with torch.autocast(x.device.type, enabled=False):
        total: Tensor = _twin(x).row_gradient(indices, weights, x, rows)
    return total
