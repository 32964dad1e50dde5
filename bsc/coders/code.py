"""What a binariser says of a batch: which latents are selected on each token, and with what value."""

from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor


class Code(NamedTuple):
    """Selected latents and their values.

    indices: [tokens, selected], ascending in each row; None when every latent is selected (values is then [tokens, latents]).
    values: float32, differentiable. A latent *fires* where its value is above 0, not where it is merely selected.
    """

    indices: Int[Tensor, "tokens selected"] | None
    values: Float[Tensor, "tokens selected"]

    def firing(self) -> tuple[Int[Tensor, " firings"], Int[Tensor, " firings"], Float[Tensor, " firings"]]:
        """(token, latent, value) of every firing, by token, then by latent."""
        fires = self.values > 0
        token, position = fires.nonzero(as_tuple=True)
        latent = position if self.indices is None else self.indices[token, position]
        return token, latent, self.values[token, position]
