"""What training minimises: the FVU of the batch, with AuxK and Multi-TopK where they are asked for (paper, Sec. 4)."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from bsc.coders import kernels
from bsc.coders.code import Code
from bsc.coders.coder import SparseCoder
from bsc.coders.decode import squared_error
from bsc.coders.preactivations import Preactivations
from bsc.ranks import ALONE, Ranks
from bsc.training.frequencies import Frequencies

AUXK_WEIGHT = 1 / 32
MULTI_TOPK_FACTOR = 4
MULTI_TOPK_WEIGHT = 1 / 8


class Losses(NamedTuple):
    """total: what is minimised. fvu: of the batch. code: what the latents did. more: what else is noted in the log."""

    total: Float[Tensor, ""]
    fvu: Float[Tensor, ""]
    code: Code
    more: tuple[Float[Tensor, ""], ...] = ()


def variance(y: Float[Tensor, "tokens d"]) -> Float[Tensor, ""]:
    """Σ(y - mean(y))², the mean taken over the tokens of the batch, per dimension."""
    return kernels.moments(y)[1].sum()


def losses(
    coder: SparseCoder,
    x: Float[Tensor, "tokens d"],
    y: Float[Tensor, "tokens d"],
    generator: torch.Generator,
    *,
    dead: Bool[Tensor, " latents"] | None = None,
    multi_topk: bool = False,
    frequencies: Frequencies | None = None,
    whole: Float[Tensor, "all d"] | None = None,
) -> Losses:
    """FVU Σ(y-ŷ)² / Σ(y-mean(y))², plus the binariser's own penalty, plus the options.

    dead: the dead latents where AuxK is on, None where it is off. multi_topk: adds 1/8 of the FVU of the 4k largest
    pre-activations; the config admits it for continuous coders only. frequencies: whose penalty is added, where there is one.
    whole: the targets of the batch that x and y are a part of; then it is this part's share of each term, and parts add up.
    """
    pre = coder.preactivations(x)
    code: Code = coder.binariser(pre, generator)
    error, residual = coder.squared_error(code, x, y)
    total_variance, share = (variance(y), 1.0) if whole is None else (variance(whole), len(y) / len(whole))
    fvu = error / total_variance
    total = fvu + share * coder.binariser.penalty(code)
    if dead is not None:
        total = total + AUXK_WEIGHT * auxk(coder, pre, residual, dead) / total_variance
    if multi_topk:
        total = total + MULTI_TOPK_WEIGHT * multi_topk_error(coder, pre, x, y) / total_variance
    if frequencies is not None:
        total = total + share * frequencies.penalty(code)
    return Losses(total, fvu, code)


def auxk(
    coder: SparseCoder, pre: Preactivations, residual: Float[Tensor, "tokens d"], dead: Bool[Tensor, " latents"]
) -> Float[Tensor, ""]:
    """Σ(e - ê)² · min(n_dead/k_aux, 1), ê the prediction of the residual e by the k_aux = d/2 best dead latents.

    *Ours*: ê leaves b_dec out, and nothing of this reaches b_dec by way of an SAE's encoder either; a binary coder's dead
    latents predict with z = 1 and its straight-through gradient. The gradient reaches decoder and encoder of the dead latents.
    """
    k_aux, n_dead = coder.width // 2, int(dead.sum())
    if not n_dead:
        return residual.new_zeros(())
    error, _ = squared_error(coder.auxiliary(pre.with_fixed_centre(), dead, k_aux), coder.W_dec, residual)
    return error * min(n_dead / k_aux, 1.0)


def multi_topk_error(
    coder: SparseCoder, pre: Preactivations, x: Float[Tensor, "tokens d"], y: Float[Tensor, "tokens d"]
) -> Float[Tensor, ""]:
    """Σ(y-ŷ)² with the ReLU of the 4k largest pre-activations (or all, where there are fewer) in the place of k."""
    indices = pre.top_k(min(MULTI_TOPK_FACTOR * coder.k, coder.latents))
    error, _ = coder.squared_error(Code(indices, torch.relu(pre.at(indices))), x, y)
    return error


class Silence:
    """How many tokens ago each latent last fired; a latent is dead after `dead_after` of them."""

    def __init__(self, latents: int, dead_after: int, device: torch.device, ranks: Ranks = ALONE) -> None:
        self.dead_after, self._ranks = dead_after, ranks
        self.tokens: Int64[Tensor, " latents"] = torch.zeros(latents, dtype=torch.int64, device=device)

    @property
    def dead(self) -> Bool[Tensor, " latents"]:
        """The latents that fired on none of the last `dead_after` tokens."""
        return self.tokens >= self.dead_after

    def update(self, code: Code) -> None:
        """Count a batch: latents that fired in it start again at 0."""
        values = code.values.detach()
        self.tokens += len(values) * self._ranks.replicas
        if code.indices is None:
            largest = values.amax(0)
        else:
            largest = values.new_zeros(len(self.tokens))
            largest.scatter_reduce_(0, code.indices.flatten(), values.flatten(), "amax")
        self._ranks.largest_(largest)
        self.tokens.masked_fill_(largest > 0, 0)
