"""What the sampling binarisers share: one winner of each group, and a gradient that softmax spreads over its group.

The forward is hard: z = 1 at the winner of each group, and the decoder sees the winners only. So the gradient g that comes
back to z is nonzero at the winners alone, and the softmax's Jacobian makes it dense over the group: our reading of the
straight-through. (With a dense decode g would be nonzero everywhere, and decoding would cost as much as encoding.)
Evaluation takes the argmax (*ours*: the authors sample there too).
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from bsc.coders.binarisers.base import Binariser, check_groups
from bsc.coders.code import Code
from bsc.coders.preactivations import Preactivations
from bsc.coders.select import winners


class Sampled(Binariser):
    """One latent of each of k contiguous groups of M/k: sampled in training, the largest in evaluation. tau: temperature."""

    def __init__(self, latents: int, k: int, tau: float) -> None:
        check_groups(latents, k)
        super().__init__(latents, k)
        self.tau = tau

    def forward(self, pre: Preactivations, generator: torch.Generator | None = None) -> Code:
        """Values z = 1 at the winner of each group. Raises ValueError in training mode without a generator."""
        if not self.training:
            indices = winners(pre.dense, self.k)
            return Code(indices, torch.ones_like(indices, dtype=pre.selecting.dtype))
        if generator is None:
            raise ValueError("this binariser samples while training: pass a generator")
        return self.sample(pre, generator)

    def sample(self, pre: Preactivations, generator: torch.Generator) -> Code:
        """Winners drawn from the groups' softmax, with the estimator's gradient."""
        raise NotImplementedError

    def values(self, pre: Preactivations, indices: Int[Tensor, "tokens selected"]) -> Float[Tensor, "tokens selected"]:
        """Values z = 1; backward as if z were softmax(p/τ) of its group, without noise: what AuxK uses (*ours*)."""
        probabilities = self.grouped(pre.selecting).div(self.tau).softmax(2)
        return through_softmax(pre.differentiable(), indices, (probabilities, 1 / self.tau))

    def grouped(self, p: Float[Tensor, "tokens latents"]) -> Float[Tensor, "tokens k size"]:
        """The groups of each token."""
        return p.view(len(p), self.k, -1)


Term = tuple[Float[Tensor, "tokens k size"], float]
"""Probabilities π of each group, and the weight w of π⊙(g-⟨π,g⟩) in the gradient."""


def through_softmax(
    p: Float[Tensor, "tokens latents"], indices: Int[Tensor, "tokens selected"], *terms: Term
) -> Float[Tensor, "tokens selected"]:
    """Ones at `indices`, float32 (or wider); backward, with g what comes back to them, dp = Σ_terms w·π⊙(g-⟨π,g⟩) by groups."""
    ones: Tensor = _ThroughSoftmax.apply(p, indices, [weight for _, weight in terms], *(pi for pi, _ in terms))  # type: ignore[no-untyped-call]
    return ones


class _ThroughSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, p: Tensor, indices: Tensor, weights: list[float], *probabilities: Tensor) -> Tensor:
        ctx.save_for_backward(indices, *probabilities)
        ctx.weights, ctx.dtype = weights, p.dtype
        return torch.ones_like(indices, dtype=probabilities[0].dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        indices, *probabilities = ctx.saved_tensors
        terms = (_softmax_gradient(pi, indices, gradient * w) for pi, w in zip(probabilities, ctx.weights, strict=True))
        total = next(terms)
        for term in terms:
            total += term
        return total.to(ctx.dtype), None, None, *(None for _ in probabilities)


def _softmax_gradient(
    pi: Float[Tensor, "tokens k size"], indices: Int[Tensor, "tokens selected"], gradient: Float[Tensor, "tokens selected"]
) -> Float[Tensor, "tokens latents"]:
    """π⊙(g-⟨π,g⟩) of each group, g being `gradient` at `indices` and 0 elsewhere."""
    at = pi.flatten(1).gather(1, indices) * gradient
    inner = at.new_zeros(pi.shape[:2]).scatter_add_(1, indices // pi.shape[2], at)
    return (pi * -inner.unsqueeze(2)).flatten(1).scatter_add_(1, indices, at)
