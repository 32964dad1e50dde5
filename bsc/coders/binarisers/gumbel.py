"""Gumbel softmax, straight-through: a sampled winner of each group (paper's appendix; Jang et al. 2017)."""

import torch

from bsc.coders import kernels
from bsc.coders.binarisers.relaxed import Sampled, Term, through_softmax
from bsc.coders.code import Code
from bsc.coders.kernels.softmax import noise_keys
from bsc.coders.preactivations import Preactivations


class Gumbel(Sampled):
    """π = softmax((p + noise)/τ) of each group; the winner is its argmax; backward dp = π⊙(g-⟨π,g⟩)/τ."""

    def __init__(self, latents: int, k: int, tau: float = 0.5) -> None:
        super().__init__(latents, k, tau)

    def sample(self, pre: Preactivations, generator: torch.Generator) -> Code:
        """The winners of p + noise."""
        keys = noise_keys(len(pre.dense), generator)
        indices, softmax = kernels.softmax(pre.dense, self.k, 1 / self.tau, keys)
        return Code(indices, through_softmax(pre, indices, Term(softmax, 1 / self.tau)))
