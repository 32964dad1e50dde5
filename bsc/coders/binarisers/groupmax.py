"""GroupMax: continuous, one latent of each group."""

from jaxtyping import Int
from torch import Tensor

from bsc.coders.binarisers.base import Continuous
from bsc.coders.kernels.softmax import check_groups
from bsc.coders.preactivations import Preactivations


class GroupMax(Continuous):
    """The latents lie in k contiguous groups of M/k; S = the largest of each; z = relu(p), exact gradient."""

    def __init__(self, latents: int, k: int) -> None:
        check_groups(latents, k)
        super().__init__(latents, k)

    def select(self, pre: Preactivations) -> Int[Tensor, "tokens k"]:
        """The winner of each group."""
        return pre.winners(self.k, minus=self.offsets())
