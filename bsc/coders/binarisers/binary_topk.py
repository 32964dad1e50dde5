"""Binary TopK (paper, Sec. 3): a learned threshold per latent, and latents that are on or off."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from bsc.coders.binarisers.base import Binariser
from bsc.coders.binarisers.straight_through import straight_through
from bsc.coders.gather import gather
from bsc.coders.preactivations import Preactivations


class Thresholded(Binariser):
    """Binary values against θ = exp(log θ), learned per latent: what all binarisers with such a threshold share.

    ste: the slope's name, see `straight_through.SLOPES`. temperature: T. threshold: where every θ starts.
    """

    def __init__(self, latents: int, k: int, ste: str = "sigmoid", temperature: float = 2.0, threshold: float = 0.004) -> None:
        super().__init__(latents, k)
        self.ste, self.temperature = ste, temperature
        self.log_threshold = nn.Parameter(torch.full((latents,), math.log(threshold)))

    def thresholds(self) -> Float[Tensor, " latents"]:
        """θ, above 0."""
        return self.log_threshold.exp()

    def margin(self, pre: Preactivations, indices: Int[Tensor, "tokens selected"]) -> Float[Tensor, "tokens selected"]:
        """The margin p - θ on S, differentiable in p and in log θ."""
        return pre.at(indices) - gather(self.log_threshold, indices).exp()

    def values(self, pre: Preactivations, indices: Int[Tensor, "tokens selected"]) -> Float[Tensor, "tokens selected"]:
        """Values z = 1[p > θ]; the straight-through gradient reaches all of S, also where z = 0."""
        margin = self.margin(pre, indices)
        return straight_through(margin, (margin > 0).to(margin.dtype), self.ste, self.temperature)

    def auxiliary_values(
        self, pre: Preactivations, indices: Int[Tensor, "tokens selected"]
    ) -> Float[Tensor, "tokens selected"]:
        """Values z = 1 wherever selected, with the same gradient as `values` (*ours*)."""
        margin = self.margin(pre, indices)
        return straight_through(margin, torch.ones_like(margin), self.ste, self.temperature)


class BinaryTopK(Thresholded):
    """S = the k largest of p - θ; z = 1[p > θ], so L0 <= k."""

    def select(self, pre: Preactivations) -> Int[Tensor, "tokens k"]:
        """The k largest of p - θ on each token."""
        return pre.top_k(self.k, minus=self.offsets())


class ExactBinaryTopK(BinaryTopK):
    """S as in BinaryTopK; z = 1 on all of it, so L0 = k."""

    def values(self, pre: Preactivations, indices: Int[Tensor, "tokens selected"]) -> Float[Tensor, "tokens selected"]:
        """Values z = 1 on S."""
        return self.auxiliary_values(pre, indices)
