"""Entries of a learned vector at the selected latents, with a backward that gives the same bits every time, on a GPU too."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from bsc.coders import kernels


def gather(vector: Float[Tensor, " latents"], indices: Int[Tensor, "tokens selected"]) -> Float[Tensor, "tokens selected"]:
    """vector[indices]; a gradient reaches each latent as the sum over the tokens that selected it."""
    entries: Tensor = _Gather.apply(vector, indices)  # type: ignore[no-untyped-call]
    return entries


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, vector: Tensor, indices: Tensor) -> Tensor:
        ctx.save_for_backward(indices)
        ctx.latents = len(vector)
        return vector.index_select(0, indices.flatten()).view(indices.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (indices,) = ctx.saved_tensors
        return kernels.latent_sums(indices, gradient, ctx.latents), None
