"""The decoder's sum over selected latents, `Σ_{i∈S} z_i W_dec[i]`, with a backward that touches the selected rows only."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from bsc.coders import kernels
from bsc.coders.code import Code


def combine(code: Code, W_dec: Float[Tensor, "latents d"]) -> Float[Tensor, "tokens d"]:
    """Σ_i z_i W_dec[i] of each token; differentiable in the values and in W_dec.

    In the type of W_dec also under autocast, but for a dense code, which takes a dense product.
    """
    if code.indices is None:
        return (code.values @ W_dec).to(W_dec.dtype)
    total: Tensor = _Combine.apply(code.indices, code.values, W_dec)  # type: ignore[no-untyped-call]
    return total


class _Combine(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, indices: Tensor, values: Tensor, W_dec: Tensor) -> Tensor:
        ctx.save_for_backward(indices, values, W_dec)
        return kernels.decode(indices, values, W_dec)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        indices, values, W_dec = ctx.saved_tensors
        gradient = gradient.contiguous()
        dvalues = kernels.value_gradient(indices, gradient, W_dec) if ctx.needs_input_grad[1] else None
        dW_dec = kernels.row_gradient(indices, values, gradient, len(W_dec)) if ctx.needs_input_grad[2] else None
        return None, dvalues, dW_dec
