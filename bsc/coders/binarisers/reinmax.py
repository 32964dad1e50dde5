"""ReinMax: a categorical sample of each group, with a second-order gradient (Liu et al. 2023)."""

import torch

from bsc.coders import kernels
from bsc.coders.binarisers.relaxed import Sampled, Term, through_softmax
from bsc.coders.code import Code
from bsc.coders.preactivations import Preactivations


class ReinMax(Sampled):
    """One sample D of each group from π = softmax(p); with π₁ = ½(D + softmax(p/τ)), dp = 2π₁⊙(g-⟨π₁,g⟩) - ½π⊙(g-⟨π,g⟩)."""

    def __init__(self, latents: int, k: int, tau: float = 1.1) -> None:
        super().__init__(latents, k, tau)

    def sample(self, pre: Preactivations, generator: torch.Generator) -> Code:
        """The latents drawn from softmax(p) of each group, by one uniform number a group."""
        _, softmax = kernels.softmax(pre.dense, self.k, 1.0)
        _, tempered = kernels.softmax(pre.dense, self.k, 1 / self.tau)
        uniform = torch.empty_like(softmax.total).uniform_(generator=generator)
        indices = kernels.draw(pre.dense, softmax, uniform)
        return Code(indices, through_softmax(pre, indices, Term(tempered, 2.0, halved=True), Term(softmax, -0.5)))
