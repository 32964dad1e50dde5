"""The softmax of each group of latents, without its probabilities: they are made again from the pre-activations when needed.

With Gumbel noise too: the noise is a function of two random keys a token and of the latent, so that it need not be kept, and is
the same on every device, up to rounding.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

_WORD = 0xFFFFFFFF


class Softmax(NamedTuple):
    """π = exp(beta·(v - largest)) / total of each group, where v is p, plus Gumbel noise where there are keys.

    beta: inverse temperature. keys: [tokens, 2] below 2^32, see `noise_keys`. largest, total: [tokens, groups].
    """

    beta: float
    keys: Int[Tensor, "tokens 2"] | None
    largest: Float[Tensor, "tokens groups"]
    total: Float[Tensor, "tokens groups"]

    @property
    def groups(self) -> int:
        """How many groups."""
        return self.largest.shape[1]

    def rows(self, rows: slice) -> "Softmax":
        """Of some tokens."""
        keys = None if self.keys is None else self.keys[rows]
        return Softmax(self.beta, keys, self.largest[rows], self.total[rows])

    def at(
        self, p: Float[Tensor, "tokens latents"], indices: Int[Tensor, "tokens selected"]
    ) -> Float[Tensor, "tokens selected"]:
        """The probabilities π of the latents at `indices`."""
        values = p.gather(1, indices).to(self.largest.dtype)
        if self.keys is not None:
            values = values + gumbel(indices, self.keys, values.dtype)
        group = indices // (p.shape[1] // self.groups)
        return (self.beta * (values - self.largest.gather(1, group))).exp() / self.total.gather(1, group)


def check_groups(latents: int, groups: int) -> None:
    """Raise ValueError unless `latents` can be cut into so many equal groups."""
    if latents % groups:
        raise ValueError(f"{latents} latents cannot be cut into {groups} equal groups")


def noise_keys(tokens: int, generator: torch.Generator) -> Int[Tensor, "tokens 2"]:
    """Two random words a token, from which the noise of its latents is made; on the generator's device."""
    return torch.randint(_WORD + 1, (tokens, 2), generator=generator, device=generator.device)


def gumbel(
    latents: Int[Tensor, "*tokens some"], keys: Int[Tensor, "tokens 2"], dtype: torch.dtype
) -> Float[Tensor, "tokens some"]:
    """Standard Gumbel noise, -log(-log U), of `latents` on each token; U is a hash of the latent and the token's keys.

    The hash mixes (latent + key 0), then that xor key 1, by two multiplications each (Wellons 2018, lowbias32).
    """
    random = _mixed(_mixed((latents + keys[:, :1]) & _WORD) ^ keys[:, 1:])
    uniform = ((random >> 9).to(dtype) + 0.5) * 2.0**-23
    return uniform.log_().neg_().log_().neg_()


def _mixed(x: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
    x = ((x ^ x >> 16) * 0x7FEB352D) & _WORD
    x = ((x ^ x >> 15) * 0x846CA68B) & _WORD
    return x ^ x >> 16
