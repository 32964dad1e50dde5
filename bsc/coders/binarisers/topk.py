"""TopK, the continuous baseline: the k largest pre-activations, rectified (paper, Sec. 3)."""

from jaxtyping import Int
from torch import Tensor

from bsc.coders.binarisers.base import Continuous
from bsc.coders.preactivations import Preactivations


class TopK(Continuous):
    """S = the k largest of p; z = relu(p), exact gradient."""

    def select(self, pre: Preactivations) -> Int[Tensor, "tokens k"]:
        """The k largest pre-activations of each token."""
        return pre.top_k(self.k, minus=self.offsets())
