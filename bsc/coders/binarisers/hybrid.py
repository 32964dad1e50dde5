"""Binary and continuous latents side by side, each kind with a pool and a k of its own (*ours*)."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bsc.coders.binarisers.binary_topk import Thresholded
from bsc.coders.binarisers.straight_through import straight_through
from bsc.coders.gather import gather
from bsc.coders.preactivations import Preactivations


class Hybrid(Thresholded):
    """The last `continuous` share of the latents is continuous, the others are binary; k is shared out likewise.

    S = the k_b largest p - θ of the binary pool and the k_c largest p of the continuous one; k_c is `continuous`·k, rounded,
    but each pool has one at least. z = 1[p > θ] and z = relu(p), each with its part's gradient. The continuous latents'
    decoder rows are free, as the binary ones' must be. Options else as in `Thresholded`.
    """

    def __init__(
        self,
        latents: int,
        k: int,
        continuous: float = 0.5,
        ste: str = "sigmoid",
        temperature: float = 2.0,
        threshold: float = 0.004,
    ) -> None:
        if k < 2:
            raise ValueError("a hybrid needs k >= 2: one binary and one continuous latent")
        self.k_continuous = min(max(round(continuous * k), 1), k - 1)
        self.k_binary = k - self.k_continuous
        pool = min(max(round(continuous * latents), self.k_continuous), latents - self.k_binary)
        super().__init__(latents - pool, k, ste, temperature, threshold)
        self.binary, self.latents = latents - pool, latents

    def thresholds(self) -> Float[Tensor, " latents"]:
        """θ of the binary latents, 0 for the continuous ones."""
        theta = self.log_threshold.exp()
        return torch.cat([theta, theta.new_zeros(self.latents - self.binary)])

    def offsets(self) -> Float[Tensor, " latents"]:
        """θ less the bias, where there is one."""
        return self.thresholds() if self.bias is None else self.thresholds() - self.bias

    def select(self, pre: Preactivations) -> Int[Tensor, "tokens k"]:
        """The best of each pool."""
        offsets = self.offsets()
        binary = pre.top_k(self.k_binary, offsets[: self.binary], slice(0, self.binary))
        continuous = pre.top_k(self.k_continuous, offsets[self.binary :], slice(self.binary, None))
        return torch.cat([binary, continuous], dim=1)

    def values(self, pre: Preactivations, indices: Int[Tensor, "tokens selected"]) -> Float[Tensor, "tokens selected"]:
        """1[p > θ] in the binary pool, relu(p) in the continuous one."""
        return self._of_pools(pre, indices, always=False)

    def auxiliary_values(
        self, pre: Preactivations, indices: Int[Tensor, "tokens selected"]
    ) -> Float[Tensor, "tokens selected"]:
        """1 in the binary pool, relu(p) in the continuous one."""
        return self._of_pools(pre, indices, always=True)

    def _of_pools(
        self, pre: Preactivations, indices: Int[Tensor, "tokens selected"], *, always: bool
    ) -> Float[Tensor, "tokens selected"]:
        p = pre.at(indices)
        margin = p - gather(self.thresholds(), indices)
        fires = torch.ones_like(margin) if always else (margin > 0).to(margin.dtype)
        binary = straight_through(margin, fires, self.ste, self.temperature)
        return torch.where(indices < self.binary, binary, torch.relu(p))
