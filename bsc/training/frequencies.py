"""Frequency control (*ours*): how often each latent fires, and what training does against those that fire too often.

Two ways, both off by default. The penalty Σ_i relu(r_i - cap)·mean z_i pushes the values of such latents down, through their
own gradient. Loss-free balancing (after Wang et al. 2024) lowers a bias that decides which latents are selected and that no
value sees. r_i is a running firing rate: the mean over all tokens so far, and from `memory_tokens` on an exponential one.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from bsc.coders.code import Code
from bsc.ranks import ALONE, Ranks
from bsc.stages import FrequencySpec


class Frequencies:
    """The running firing rates of a coder in training; they start at 0."""

    def __init__(self, spec: FrequencySpec, latents: int, device: torch.device, ranks: Ranks = ALONE) -> None:
        self.spec, self._ranks = spec, ranks
        self.rates: Float[Tensor, " latents"] = torch.zeros(latents, device=device)

    def update(self, code: Code, seen: int) -> None:
        """Count a batch, before which `seen` tokens were counted."""
        fires = (code.values.detach() > 0).float()
        if code.indices is None:
            counts = fires.sum(0)
        else:
            counts = torch.zeros_like(self.rates).scatter_add_(0, code.indices.flatten(), fires.flatten())
        self._ranks.sum_(counts)
        tokens = len(fires) * self._ranks.replicas
        self.rates.lerp_(counts / tokens, tokens / max(min(seen + tokens, self.spec.memory_tokens), tokens))

    def penalty(self, code: Code) -> Float[Tensor, ""]:
        """`strength`·Σ_i relu(r_i - cap)·z_i, the mean over tokens of z_i; 0 where the control is another.

        Its gradient reaches the values that are there, and goes on as that of any value.
        """
        if self.spec.control != "penalty":
            return code.values.new_zeros(())
        excess = torch.relu(self.rates - self.spec.cap)
        weighted = code.values * (excess if code.indices is None else excess[code.indices])
        return self.spec.strength * weighted.sum() / len(code.values)

    @torch.no_grad()
    def balance(self, bias: Float[Tensor, " latents"]) -> None:
        """Lower the bias of latents over the cap by `strength`, and raise the others' by as much, to 0 at the most."""
        over = self.rates > self.spec.cap
        bias.add_(torch.where(over, -self.spec.strength, self.spec.strength)).clamp_(max=0)
