"""Binary GroupMax: one latent of each group, on or off."""

from jaxtyping import Int
from torch import Tensor

from bsc.coders.binarisers.binary_topk import Thresholded
from bsc.coders.kernels.softmax import check_groups
from bsc.coders.preactivations import Preactivations


class BinaryGroupMax(Thresholded):
    """The latents lie in k contiguous groups; S = the largest p - θ of each; z = 1[p > θ].

    Options as in `Thresholded`.
    """

    def __init__(self, latents: int, k: int, ste: str = "sigmoid", temperature: float = 2.0, threshold: float = 0.004) -> None:
        check_groups(latents, k)
        super().__init__(latents, k, ste, temperature, threshold)

    def select(self, pre: Preactivations) -> Int[Tensor, "tokens k"]:
        """The winner of each group, by p - θ."""
        return pre.winners(self.k, minus=self.offsets())
