"""Gumbel softmax, straight-through: a sampled winner of each group (paper's appendix; Jang et al. 2017)."""

import torch
from jaxtyping import Float
from torch import Tensor

from bsc.coders.binarisers.relaxed import Sampled, through_softmax
from bsc.coders.code import Code
from bsc.coders.preactivations import Preactivations
from bsc.coders.select import winners


class Gumbel(Sampled):
    """π = softmax((p + noise)/τ) of each group; the winner is its argmax; backward dp = π⊙(g-⟨π,g⟩)/τ."""

    def __init__(self, latents: int, k: int, tau: float = 0.5) -> None:
        super().__init__(latents, k, tau)

    def sample(self, pre: Preactivations, generator: torch.Generator) -> Code:
        """The winners of p + noise."""
        p = pre.selecting
        noisy = gumbel_noise(p, generator).add_(p)
        indices = winners(noisy, self.k)
        pi = self.grouped(noisy).div_(self.tau).softmax(2)
        return Code(indices, through_softmax(pre.differentiable(), indices, (pi, 1 / self.tau)))


def gumbel_noise(like: Float[Tensor, "..."], generator: torch.Generator) -> Float[Tensor, "..."]:
    """Standard Gumbel noise, -log(-log U), of the shape and type of `like`."""
    uniform = torch.empty_like(like).uniform_(torch.finfo(like.dtype).tiny, 1.0, generator=generator)
    return uniform.log_().neg_().log_().neg_()
