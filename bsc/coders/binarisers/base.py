"""What every binariser is: from pre-activations to the selected latents and their values."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from bsc.coders.code import Code
from bsc.coders.preactivations import Preactivations


class Binariser(nn.Module):
    """Selects k of the latents on each token and gives them values.

    A binariser of this plain kind says how it selects (`select`) and what values its selected latents get (`values`); one
    that needs more overrides `forward`. Parameters of its own are learned with the coder's.
    """

    def __init__(self, latents: int, k: int) -> None:
        super().__init__()
        self.latents, self.k = latents, k
        self.bias: Float[Tensor, " latents"] | None
        self.register_buffer("bias", None)

    def initialise_from(self, first: Callable[[], Preactivations]) -> None:
        """Set the parameters that start from data; most have none. first: makes the pre-activations of the first batch."""

    def balance(self) -> None:
        """Have a bias for each latent, 0 at first: it is added where latents are compared, and to no value (*ours*).

        Training lowers it where a latent fires too often, after loss-free balancing (Wang et al. 2024).
        """
        self.bias = torch.zeros(self.latents)

    def forward(self, pre: Preactivations, generator: torch.Generator | None = None) -> Code:
        """The code of a batch. generator: where a binariser that samples while training draws from."""
        indices = self.select(pre)
        return Code(indices, self.values(pre, indices))

    def select(self, pre: Preactivations) -> Int[Tensor, "tokens selected"]:
        """S: the selected latents of each token."""
        raise NotImplementedError

    def values(self, pre: Preactivations, indices: Int[Tensor, "tokens selected"]) -> Float[Tensor, "tokens selected"]:
        """The values z on S, with their backward. None is negative: a latent fires where its value is above 0."""
        raise NotImplementedError

    def thresholds(self) -> Float[Tensor, " latents"] | None:
        """θ, what is taken from the pre-activations before they are compared; None where nothing is."""
        return None

    def offsets(self) -> Float[Tensor, " latents"] | None:
        """What is taken from the pre-activations before they are compared to select: θ less the bias; None for nothing."""
        theta = self.thresholds()
        if self.bias is None:
            return theta
        return -self.bias if theta is None else theta - self.bias

    def auxiliary(self, pre: Preactivations, dead: Bool[Tensor, " latents"], k_aux: int) -> Code:
        """The code that AuxK predicts the residual with: the k_aux best of the dead latents on each token.

        Fewer where fewer are dead. Continuous: relu(p). Binary (*ours*): z = 1 for each, with the straight-through gradient.
        """
        indices = pre.best_of(dead, k_aux, self.thresholds())
        return Code(indices, self.auxiliary_values(pre, indices))

    def auxiliary_values(
        self, pre: Preactivations, indices: Int[Tensor, "tokens selected"]
    ) -> Float[Tensor, "tokens selected"]:
        """The values that AuxK gives to the dead latents it picked: by default as of any selected latent."""
        return self.values(pre, indices)

    def penalty(self, code: Code) -> Float[Tensor, ""]:
        """What this binariser adds to the loss of a batch: 0 unless it says otherwise."""
        return code.values.new_zeros(())

    def extra_repr(self) -> str:
        """Shown by print(coder)."""
        return f"latents={self.latents}, k={self.k}"


class Continuous(Binariser):
    """A binariser that is none: the values are relu(p), with their exact gradient, on S where p > 0."""

    def values(self, pre: Preactivations, indices: Int[Tensor, "tokens selected"]) -> Float[Tensor, "tokens selected"]:
        """relu(p) on S."""
        return torch.relu(pre.at(indices))
