"""The decoder's sum over selected latents, `Σ_{i∈S} z_i W_dec[i]`, and its error: backwards touch the selected rows only."""

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


def squared_error(
    code: Code,
    W_dec: Float[Tensor, "latents d"],
    y: Float[Tensor, "tokens d"],
    b_dec: Float[Tensor, " d"] | None = None,
    skip: Float[Tensor, "tokens d"] | None = None,
) -> tuple[Float[Tensor, ""], Float[Tensor, "tokens d"]]:
    """Σ|r|², and r = y - Σ_i z_i W_dec[i] - b_dec - skip itself, through which no gradient goes.

    Differentiable in the values, W_dec, b_dec and skip. In the type of W_dec also under autocast, but for a dense code.
    """
    if code.indices is None:
        r = y - combine(code, W_dec)
        for one in (b_dec, skip):
            r = r if one is None else r - one
        return r.square().sum(), r.detach()
    y, skip = y.to(W_dec.dtype), None if skip is None else skip.to(W_dec.dtype)
    found: tuple[Tensor, Tensor] = _SquaredError.apply(code.indices, code.values, W_dec, y, b_dec, skip)  # type: ignore[no-untyped-call]
    return found


class _SquaredError(torch.autograd.Function):
    """By hand, as autograd would make half a dozen passes over tensors like y, and gather the rows once more."""

    @staticmethod
    def forward(
        ctx: Any, indices: Tensor, values: Tensor, W_dec: Tensor, y: Tensor, b_dec: Tensor | None, skip: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        r, squares, products = kernels.residual(indices, values, W_dec, y, b_dec, skip)
        ctx.save_for_backward(indices, values, W_dec, r, products)
        ctx.mark_non_differentiable(r)
        ctx.set_materialize_grads(False)  # r has none
        return squares.sum(dtype=torch.float64).to(squares.dtype), r

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        indices, values, W_dec, r, products = ctx.saved_tensors
        factor = -2 * gradient
        dy_hat = r * factor
        dW_dec = kernels.row_gradient(indices, values, dy_hat, len(W_dec)) if ctx.needs_input_grad[2] else None
        db_dec = dy_hat.sum(0) if ctx.needs_input_grad[4] else None
        return None, products * factor, dW_dec, None, db_dec, dy_hat if ctx.needs_input_grad[5] else None


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
