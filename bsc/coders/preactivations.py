"""Pre-activations `p = W_enc (x - centre) + b_enc`: which latents are selected by them, and their values; dense where needed.

Most binarisers select a few latents a token and give gradients to those alone. So `top_k` and `winners` select without
autograd, by screening where that pays (`kernels.screening`), else from the dense product. `at` gives the selected entries, and
its backward touches the selected rows of `W_enc` only: no gradient of shape [tokens, latents] is ever made. Binarisers whose
gradient is dense ask for `differentiable()`.
"""

from collections.abc import Callable
from copy import copy
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from bsc.coders import kernels, select
from bsc.coders.kernels import screening
from bsc.device import has_fast_bfloat16

_CHUNK_BYTES = 1 << 26
"""Of a dense gradient that is made piece by piece."""


class Preactivations:
    """The pre-activations of a batch.

    x: encoder inputs, [tokens, d]. centre: [d], what is taken from x first (`b_dec` in an SAE), or None. W_enc: [M, d].
    b_enc: [M]. Under autocast the dense product is bfloat16, otherwise it is of W_enc's type; screening is float32 under both.
    """

    def __init__(
        self,
        x: Float[Tensor, "tokens d"],
        W_enc: Float[Tensor, "latents d"],
        b_enc: Float[Tensor, " latents"],
        centre: Float[Tensor, " d"] | None = None,
    ) -> None:
        self._parameters = (x, centre, W_enc, b_enc)
        with torch.no_grad():
            self._centred = x if centre is None else x - centre
        self._selected: tuple[Tensor, Tensor] | None = None
        """The latents that were selected last, and their pre-activations."""

    @cached_property
    def dense(self) -> Float[Tensor, "tokens latents"]:
        """All of them, without autograd: taken when first asked for."""
        _, _, W_enc, b_enc = self._parameters
        with torch.no_grad():
            return _linear(self._centred, W_enc, b_enc)

    @property
    def value_type(self) -> torch.dtype:
        """What values are computed in: float32 or wider."""
        return torch.promote_types(self._centred.dtype, torch.float32)

    def top_k(
        self, k: int, minus: Float[Tensor, " some"] | None = None, among: slice | Int[Tensor, " some"] = slice(None)
    ) -> Int[Tensor, "tokens {k}"]:
        """The k largest of `p - minus` on each token, as `select.top_k` has them. among: some latents, whose `minus` it is."""
        return self._select(screening.top_k, select.top_k, k, minus, among)

    def best_of(
        self, allowed: Bool[Tensor, " latents"], k: int, minus: Float[Tensor, " latents"] | None = None
    ) -> Int[Tensor, "tokens selected"]:
        """As `top_k`, among the allowed latents: min(k, how many there are) of them on each token."""
        latents = allowed.nonzero().squeeze(1)
        return self.top_k(min(k, len(latents)), None if minus is None else minus[latents], latents)

    def winners(self, groups: int, minus: Float[Tensor, " latents"] | None = None) -> Int[Tensor, "tokens {groups}"]:
        """The largest `p - minus` of each of `groups` contiguous groups, as `select.winners` has them."""
        return self._select(screening.winners, select.winners, groups, minus, slice(None))

    @torch.no_grad()
    def _select(
        self,
        screen: Callable[..., screening.Screened | None],
        choose: Callable[..., Int[Tensor, "tokens selected"]],
        count: int,
        minus: Float[Tensor, " some"] | None,
        among: slice | Int[Tensor, " some"],
    ) -> Int[Tensor, "tokens selected"]:
        _, _, W_enc, b_enc = self._parameters
        p = found = None
        if "dense" not in self.__dict__ and screening.serves(self._centred, W_enc, b_enc, None, 1):
            W, b = W_enc[among], b_enc[among]
            if screening.serves(self._centred, W, b, minus, count):
                found = screen(self._centred, W, b, count, minus)
            elif among != slice(None):
                p = _linear(self._centred, W, b)  # a product of these alone: the others were selected without one
        if found is None:
            p = self.dense[:, among] if p is None else p
            chosen = choose(p, count, minus)
            values = p.gather(1, chosen).to(self.value_type)
        else:
            chosen, values, certain = found
            again = certain.logical_not().nonzero().squeeze(1)
            if len(again):
                with torch.autocast("cpu", enabled=False):
                    p = functional.linear(self._centred[again], W, b)
                chosen[again] = choose(p, count, minus)
                values[again] = p.gather(1, chosen[again])
        if isinstance(among, Tensor):
            chosen = among[chosen]
        elif among.start:
            chosen = chosen + among.start
        self._selected = chosen, values
        return chosen

    def at(self, indices: Int[Tensor, "tokens selected"]) -> Float[Tensor, "tokens selected"]:
        """The pre-activations at `indices`, float32 (or wider); differentiable, its backward touching those rows only."""
        values: Tensor = _At.apply(*self._parameters, self._centred, self._values(indices), indices)  # type: ignore[no-untyped-call]
        return values

    @torch.no_grad()
    def _values(self, indices: Int[Tensor, "tokens selected"]) -> Float[Tensor, "tokens selected"]:
        if self._selected is not None and indices is self._selected[0]:
            return self._selected[1]
        if "dense" in self.__dict__:
            return self.dense.gather(1, indices).to(self.value_type)
        _, _, W_enc, b_enc = self._parameters
        return kernels.value_gradient(indices, self._centred, W_enc) + b_enc[indices]

    @cached_property
    def _attached(self) -> Float[Tensor, "tokens latents"]:
        attached: Tensor = _Dense.apply(*self._parameters, self._centred, self.dense)  # type: ignore[no-untyped-call]
        return attached

    def differentiable(self) -> Float[Tensor, "tokens latents"]:
        """`dense` with autograd: its backward is one dense product (two where x itself needs a gradient)."""
        return self._attached

    def carry(
        self,
        values: Float[Tensor, "tokens selected"],
        backward: Callable[[Float[Tensor, "tokens selected"], slice], Float[Tensor, "some latents"]],
    ) -> Float[Tensor, "tokens selected"]:
        """`values`, through which a gradient g reaches the pre-activations: backward(g, rows) is dp of those tokens.

        For gradients that are dense and can be made some tokens at a time: dp is never there as a whole.
        """
        rows = max(1, _CHUNK_BYTES // (self.dense.element_size() * self.dense.shape[1]))
        carried: Tensor = _Carry.apply(*self._parameters, self._centred, values, rows, backward)  # type: ignore[no-untyped-call]
        return carried

    def with_fixed_centre(self) -> "Preactivations":
        """The same pre-activations, through which no gradient reaches the centre (b_dec)."""
        fixed = copy(self)
        fixed.__dict__.pop("_attached", None)
        x, centre, W_enc, b_enc = self._parameters
        fixed._parameters = (x, None if centre is None else centre.detach(), W_enc, b_enc)
        return fixed


def _linear(x: Float[Tensor, "tokens d"], W: Float[Tensor, "latents d"], b: Float[Tensor, " latents"]) -> Tensor:
    """`functional.linear`, autocast included; bfloat16 on the CPU without its extra pass to put the bias there."""
    device = x.device.type
    half = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.bfloat16
    if half and device == "cpu" and torch.backends.mkldnn.enabled and has_fast_bfloat16(x.device):
        parts = (tensor.bfloat16() for tensor in (x, W, b))
        product: Tensor = torch.ops.mkldnn._linear_pointwise(*parts, "none", [], "")
        return product
    return functional.linear(x, W, b)


class _At(torch.autograd.Function):
    """Entries of W_enc (x - centre) + b_enc that are there already."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        centre: Tensor | None,
        W_enc: Tensor,
        b_enc: Tensor,
        centred: Tensor,
        values: Tensor,
        indices: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(centred, W_enc, indices)
        return values.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        centred, W_enc, indices = ctx.saved_tensors
        db_enc = kernels.latent_sums(indices, gradient, len(W_enc))
        dx = kernels.decode(indices, gradient, W_enc) if ctx.needs_input_grad[0] else None
        dcentre = -(db_enc.to(W_enc.dtype) @ W_enc) if ctx.needs_input_grad[1] else None
        dW_enc = kernels.row_gradient(indices, gradient, centred, len(W_enc)) if ctx.needs_input_grad[2] else None
        return dx, dcentre, dW_enc, db_enc, None, None, None


class _Dense(torch.autograd.Function):
    """W_enc (x - centre) + b_enc as it is there already. The gradients' products are of its type, as autocast would have them.

    The gradient of `centre` is -W_encᵀ db_enc: one product with a vector, where autograd would make one with a matrix.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, centre: Tensor | None, W_enc: Tensor, b_enc: Tensor, centred: Tensor, dense: Tensor
    ) -> Tensor:
        ctx.save_for_backward(centred, W_enc)
        return dense.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        centred, W_enc = ctx.saved_tensors
        db_enc = kernels.column_sums(gradient)
        dx = (gradient @ W_enc.to(gradient.dtype)).to(W_enc.dtype) if ctx.needs_input_grad[0] else None
        dcentre = -(db_enc.to(W_enc.dtype) @ W_enc) if ctx.needs_input_grad[1] else None
        dW_enc = (gradient.T @ centred.to(gradient.dtype)).to(W_enc.dtype) if ctx.needs_input_grad[2] else None
        return dx, dcentre, dW_enc, db_enc, None, None


class _Carry(torch.autograd.Function):
    """Values, and the gradients of `_Dense` summed over pieces of dp."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        centre: Tensor | None,
        W_enc: Tensor,
        b_enc: Tensor,
        centred: Tensor,
        values: Tensor,
        rows: int,
        backward: Callable[[Tensor, slice], Tensor],
    ) -> Tensor:
        ctx.save_for_backward(centred, W_enc)
        ctx.rows, ctx.of_rows = rows, backward
        return values.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        centred, W_enc = ctx.saved_tensors
        dx = torch.zeros_like(centred) if ctx.needs_input_grad[0] else None
        dW_enc, db_enc = torch.zeros_like(W_enc), W_enc.new_zeros(len(W_enc))
        for first in range(0, len(centred), ctx.rows):
            some = slice(first, first + ctx.rows)
            dp = ctx.of_rows(gradient, some)
            db_enc += kernels.column_sums(dp)
            if dp.dtype == dW_enc.dtype:
                dW_enc.addmm_(dp.T, centred[some])  # without a temporary like dW_enc
            else:
                dW_enc += dp.T @ centred[some].to(dp.dtype)
            if dx is not None:
                dx[some] = dp @ W_enc.to(dp.dtype)
            del dp  # before the next piece is made
        dcentre = -(db_enc.to(W_enc.dtype) @ W_enc) if ctx.needs_input_grad[1] else None
        return dx, dcentre, dW_enc, db_enc, None, None, None, None
