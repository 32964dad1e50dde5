"""What the sampling binarisers share: one winner of each group, and a gradient that softmax spreads over its group.

The forward is hard: z = 1 at the winner of each group, and the decoder sees the winners only. So the gradient g that comes
back to z is nonzero at the winners alone, and the softmax's Jacobian makes it dense over the group: our reading of the
straight-through. (With a dense decode g would be nonzero everywhere, and decoding would cost as much as encoding.)
Evaluation takes the argmax (*ours*: the authors sample there too).
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bsc.coders import kernels
from bsc.coders.binarisers.base import Binariser
from bsc.coders.code import Code
from bsc.coders.kernels.softmax import Softmax, check_groups
from bsc.coders.preactivations import Preactivations


class Sampled(Binariser):
    """One latent of each of k contiguous groups of M/k: sampled in training, the largest in evaluation. tau: temperature."""

    def __init__(self, latents: int, k: int, tau: float) -> None:
        check_groups(latents, k)
        super().__init__(latents, k)
        self.tau = tau

    def forward(self, pre: Preactivations, generator: torch.Generator | None = None) -> Code:
        """Values z = 1 at the winner of each group. Raises ValueError in training mode without a generator."""
        if not self.training:
            indices = pre.winners(self.k)
            return Code(indices, torch.ones_like(indices, dtype=pre.value_type))
        if generator is None:
            raise ValueError("this binariser samples while training: pass a generator")
        return self.sample(pre, generator)

    def sample(self, pre: Preactivations, generator: torch.Generator) -> Code:
        """Winners drawn from the groups' softmax, with the estimator's gradient."""
        raise NotImplementedError

    def values(self, pre: Preactivations, indices: Int[Tensor, "tokens selected"]) -> Float[Tensor, "tokens selected"]:
        """Values z = 1; backward as if z were softmax(p/τ) of its group, without noise: what AuxK uses (*ours*)."""
        _, softmax = kernels.softmax(pre.dense, self.k, 1 / self.tau)
        return through_softmax(pre, indices, Term(softmax, 1 / self.tau))


class Term(NamedTuple):
    """A summand w·π⊙(g-⟨π,g⟩) of a gradient; π is the softmax, or, where `halved`, ½(D + softmax), D one at the indices."""

    softmax: Softmax
    weight: float
    halved: bool = False


def through_softmax(
    pre: Preactivations, indices: Int[Tensor, "tokens selected"], *terms: Term
) -> Float[Tensor, "tokens selected"]:
    """Ones at `indices`; backward, with g what comes back to them, dp = Σ_terms w·π⊙(g-⟨π,g⟩) of each group.

    g is 0 elsewhere, so dp is c·softmax with one c a group, and something more at `indices`.
    """
    group = indices // (pre.dense.shape[1] // terms[0].softmax.groups)
    at = [term.softmax.at(pre.dense, indices) for term in terms]

    def backward(gradient: Float[Tensor, "tokens selected"], rows: slice) -> Float[Tensor, "some latents"]:
        g, own, extra, softmaxes = gradient[rows], group[rows], torch.zeros_like(gradient[rows]), []
        for term, probability in zip(terms, at, strict=True):
            share = 0.5 if term.halved else 1.0
            pi = share * (probability[rows] + term.halved)
            softmax = term.softmax.rows(rows)
            inner = group_sums(own, pi * g, softmax.groups)
            softmaxes.append((softmax, -term.weight * share * inner))
            extra += term.weight * (pi * g - (share * inner.gather(1, own) if term.halved else 0.0))
        return kernels.softmax_gradient(pre.dense[rows], softmaxes, indices[rows], extra)

    return pre.carry(torch.ones_like(indices, dtype=pre.value_type), backward)


def group_sums(
    group: Int[Tensor, "tokens selected"], weights: Float[Tensor, "tokens selected"], groups: int
) -> Float[Tensor, "tokens {groups}"]:
    """Σ of weights[t, s] over the s with group[t, s] = i, for each group i of a token: in a fixed order, on a GPU too."""
    first = torch.arange(len(group), device=group.device).unsqueeze(1) * groups
    return kernels.latent_sums(group + first, weights, len(group) * groups).view(len(group), groups)
