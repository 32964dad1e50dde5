"""Selection without the dense product, by compiled code (screening.cpp), on CPUs that multiply bytes fast.

A product of 8-bit integers, a quarter of the float32 product's work, bounds each pre-activation from above and from below. The
few latents whose upper bound reaches the k-th largest lower bound are computed in float32, and the best of these are selected:
the same latents that the float32 product would select, but for its rounding. No [tokens, latents] tensor is made.

Bounds are some six standard deviations of the error wide, whatever the data: rounding is dithered, by fixed numbers, so that a
rerun selects the same. They are of the centred batch, its dimensions stretched to where encoder and batch have like spreads.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from bsc.coders.kernels import native
from bsc.coders.kernels.build import library
from bsc.coders.kernels.softmax import check_groups

_FEWEST_TOKENS, _FEWEST_LATENTS, _FEWEST_LATENTS_PER_SELECTED = 256, 2048, 64
"""With fewer tokens rounding the encoder costs more than it saves; with fewer latents computing the candidates does."""
_MOST_DIMENSIONS = 1 << 14
"""Sums of that many products of bytes fit in 32 bits."""


class Screened(NamedTuple):
    """What was selected, [tokens, selected] and ascending, the pre-activations there, and for which tokens that is certain.

    A token is uncertain where too many latents are within the bounds, or x too large or small for them: its row is undefined.
    """

    indices: Int[Tensor, "tokens selected"]
    values: Float[Tensor, "tokens selected"]
    certain: Bool[Tensor, " tokens"]


def pays(tokens: int, latents: int, selected: int) -> bool:
    """Whether this CPU multiplies bytes fast, and screening is faster than the dense product at these sizes."""
    many = latents >= max(_FEWEST_LATENTS, _FEWEST_LATENTS_PER_SELECTED * selected)
    return many and tokens >= _FEWEST_TOKENS and (compiled := library()) is not None and bool(compiled.bsc_screening_is_fast())


def serves(x: Tensor, W: Tensor, b: Tensor, minus: Tensor | None, selected: int) -> bool:
    """Whether to select by this in the place of a dense product: float32 on the CPU, compiled, and it pays."""
    given = (x, W, b) if minus is None else (x, W, b, minus)
    fits = selected > 0 and x.shape[1] <= _MOST_DIMENSIONS and all(len(of) == len(W) for of in given[1:])
    return fits and native.serves(*given) and pays(len(x), len(W), selected)


def top_k(
    x: Float[Tensor, "tokens d"],
    W: Float[Tensor, "latents d"],
    b: Float[Tensor, " latents"],
    k: int,
    minus: Float[Tensor, " latents"] | None = None,
) -> Screened | None:
    """The k largest of `W x + b - minus` on each token; of equal values the lowest indices win.

    None where something in x, W, b or minus is not finite, or too large or small for bounds. Raises ValueError when there are
    fewer than k latents, or k is not above 0.
    """
    if not 0 < k <= len(W):
        raise ValueError(f"cannot screen for k = {k} of {len(W)} latents")
    return _screen(x, W, b, minus, k, 0)


def winners(
    x: Float[Tensor, "tokens d"],
    W: Float[Tensor, "latents d"],
    b: Float[Tensor, " latents"],
    groups: int,
    minus: Float[Tensor, " latents"] | None = None,
) -> Screened | None:
    """As `top_k`, the largest of each of `groups` contiguous groups of the latents.

    Raises ValueError when the latents cannot be cut into so many equal groups.
    """
    check_groups(len(W), groups)
    return _screen(x, W, b, minus, groups, groups)


def _screen(x: Tensor, W: Tensor, b: Tensor, minus: Tensor | None, selected: int, groups: int) -> Screened | None:
    shape = len(x), selected
    found = Screened(x.new_empty(shape, dtype=torch.int64), x.new_empty(shape), x.new_empty(len(x), dtype=torch.bool))
    inputs = map(native.contiguous, (x, W, b, minus))
    sizes = len(x), len(W), x.shape[1], selected, groups, torch.get_num_threads()
    return found if native.call("bsc_screen", *inputs, *sizes, *found) else None
