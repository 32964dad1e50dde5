"""ReinMax: a categorical sample of each group, with a second-order gradient (Liu et al. 2023)."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bsc.coders.binarisers.relaxed import Sampled, through_softmax
from bsc.coders.code import Code
from bsc.coders.preactivations import Preactivations


class ReinMax(Sampled):
    """One sample D of each group from π = softmax(p); with π₁ = ½(D + softmax(p/τ)), dp = 2π₁⊙(g-⟨π₁,g⟩) - ½π⊙(g-⟨π,g⟩)."""

    def __init__(self, latents: int, k: int, tau: float = 1.1) -> None:
        super().__init__(latents, k, tau)

    def sample(self, pre: Preactivations, generator: torch.Generator) -> Code:
        """The latents drawn from softmax(p) of each group."""
        p = self.grouped(pre.selecting)
        pi = p.softmax(2)
        indices = draw(pi, generator)
        halved = p.div(self.tau).softmax(2).flatten(1)
        halved = halved.scatter_add_(1, indices, torch.ones_like(indices, dtype=p.dtype)).mul_(0.5).view_as(p)
        return Code(indices, through_softmax(pre.differentiable(), indices, (halved, 2.0), (pi, -0.5)))


def draw(pi: Float[Tensor, "tokens k size"], generator: torch.Generator) -> Int[Tensor, "tokens k"]:
    """One latent of each group with probability π, as an index among all latents: the first whose cumulative π exceeds U.

    One uniform number a group, where Gumbel noise would take one a latent.
    """
    cumulative = pi.cumsum(2)
    total = cumulative[..., -1:]
    uniform = torch.empty_like(total).uniform_(generator=generator)
    member = torch.searchsorted(cumulative, uniform * total, right=True).squeeze(2).clamp_(max=pi.shape[2] - 1)
    return member + torch.arange(pi.shape[1], device=pi.device) * pi.shape[2]
