"""Values of b bits: between binary and continuous (*ours*; step sizes learned as in LSQ, Esser et al. 2020)."""

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from bsc.coders.binarisers.base import Binariser
from bsc.coders.gather import gather
from bsc.coders.preactivations import Preactivations

_PERCENTILE = 0.99
"""Share of the first batch's selected pre-activations that the largest value sQ covers."""


class NBit(Binariser):
    """S = the k largest of p; z = s·clip(round(p/s), 0, Q) with Q = 2^bits - 1; s = exp(log s), learned per latent.

    Backward: to p straight through, dz/dp = 1, on S between the ends; at or beyond an end only where that moves p back towards
    the other. (Plain LSQ gives 0 there, so that a p once beyond stays. With 1 there, p runs away: nothing that it does changes
    z, and after 400 steps every latent has but the value sQ, whatever b is.) To s as in LSQ, dz/ds = round(p/s) - p/s
    between the ends, 0 at the lower and Q at the upper one. LSQ's constant factor before ds is left out: neither Adam nor the
    sign of the gradient feels it. Rounding is half to even.
    """

    def __init__(self, latents: int, k: int, bits: int = 2) -> None:
        super().__init__(latents, k)
        self.levels = 2**bits - 1
        self.log_step = nn.Parameter(torch.zeros(latents))

    @torch.no_grad()
    def initialise_from(self, first: Callable[[], Preactivations]) -> None:
        """The same s for all latents: the 99th percentile of the selected pre-activations of the batch is sQ."""
        pre = first()
        selected = pre.at(self.select(pre)).flatten()
        largest = selected.kthvalue(math.ceil(_PERCENTILE * len(selected))).values
        self.log_step.copy_((largest / self.levels).clamp_min(torch.finfo(torch.float32).tiny).log().expand_as(self.log_step))

    def select(self, pre: Preactivations) -> Int[Tensor, "tokens k"]:
        """The k largest pre-activations of each token."""
        return pre.top_k(self.k, minus=self.offsets())

    def values(self, pre: Preactivations, indices: Int[Tensor, "tokens selected"]) -> Float[Tensor, "tokens selected"]:
        """Whole multiples of the step size on S, from 0 to Q of them."""
        step = gather(self.log_step, indices).exp()
        quantised: Tensor = _Quantised.apply(pre.at(indices), step, self.levels)  # type: ignore[no-untyped-call]
        return quantised


class _Quantised(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, p: Tensor, step: Tensor, levels: int) -> Tensor:
        scaled = p / step
        level = scaled.round().clamp(0, levels)
        ctx.save_for_backward(scaled, level)
        ctx.levels = levels
        return step * level

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        scaled, level = ctx.saved_tensors
        low, high = scaled <= 0, scaled >= ctx.levels
        inside = ~(low | high)
        back = (low & (gradient < 0)) | (high & (gradient > 0))
        return gradient * (inside | back), gradient * torch.where(inside, level - scaled, level), None
