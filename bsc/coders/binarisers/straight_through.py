"""Straight-through gradients: a step forward, the slope of something smooth backward."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

SMALLEST = 1e-3
"""Where the `power` slope is cut off: it diverges at a margin of 0."""


def _sigmoid(margin: Tensor, temperature: float) -> Tensor:
    gate = torch.sigmoid(margin / temperature)
    return gate * (1 - gate)


def _rectangle(margin: Tensor, temperature: float) -> Tensor:
    return (margin.abs() / temperature < 0.5).to(margin.dtype)


def _identity(margin: Tensor, temperature: float) -> Tensor:
    return torch.ones_like(margin)


def _power(margin: Tensor, temperature: float) -> Tensor:
    return margin.abs().clamp(min=SMALLEST) ** ((1 - temperature) / temperature) / temperature


SLOPES: dict[str, Callable[[Tensor, float], Tensor]] = {
    "sigmoid": _sigmoid,
    "rectangle": _rectangle,
    "identity": _identity,
    "power": _power,
}
"""dz/dp by the name of the estimator, of the margin m = p - θ and the temperature T.

sigmoid (the paper's): σ(m/T)(1-σ(m/T)), that is, the surrogate is T·σ(m/T) and there is no 1/T. rectangle: 1[abs(m/T) < 1/2].
identity: 1. power: abs(m)^((1-T)/T)/T, abs(m) clamped at >= 1e-3.
"""


def straight_through(
    margin: Float[Tensor, "..."], values: Float[Tensor, "..."], ste: str, temperature: float
) -> Float[Tensor, "..."]:
    """`values` forward; backward, the gradient reaches `margin` times the slope that `ste` names.

    Because the margin is p - θ, dz/dθ = -dz/dp, and with θ = exp(log θ), dz/d log θ = -θ·dz/dp: autograd does the rest.
    """
    through: Tensor = _StraightThrough.apply(margin, values, ste, temperature)  # type: ignore[no-untyped-call]
    return through


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, margin: Tensor, values: Tensor, ste: str, temperature: float) -> Tensor:
        ctx.save_for_backward(margin)
        ctx.ste, ctx.temperature = ste, temperature
        return values.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (margin,) = ctx.saved_tensors
        return gradient * SLOPES[ctx.ste](margin, ctx.temperature), None, None, None
