"""What a coder computes beside its dense products: a plain reference, and faster twins of it.

Each function picks the fastest twin that takes the tensors, and computes in the type that they have: autocast does not reach
it. On the GPU: `gpu`, in Triton. On the CPU: `native`, compiled C++; without it, `cpu`, torch's own paths, for the sparse
products. Indices may be of any integer type. A sparse product has the type of `rows` or `x`; where types differ, or are
narrower than float32, it is summed in the wider one.
"""

import types
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bsc.coders.kernels import cpu, gpu, native, reference
from bsc.coders.kernels.softmax import Softmax, check_groups


def _twin(*tensors: Tensor) -> types.ModuleType:
    if gpu.serves(*tensors):
        from bsc.coders.kernels.gpu import products

        return products
    if native.serves(*tensors):
        return native
    return cpu if cpu.serves(*tensors) else reference


def decode(
    indices: Int[Tensor, "tokens selected"], values: Float[Tensor, "tokens selected"], rows: Float[Tensor, "latents d"]
) -> Float[Tensor, "tokens d"]:
    """Σ_s values[t, s] · rows[indices[t, s]] for each token t."""
    with torch.autocast(rows.device.type, enabled=False):
        total: Tensor = _twin(rows, values).decode(indices.long(), values, rows)
    return total


def value_gradient(
    indices: Int[Tensor, "tokens selected"], gradient: Float[Tensor, "tokens d"], rows: Float[Tensor, "latents d"]
) -> Float[Tensor, "tokens selected"]:
    """⟨gradient[t], rows[indices[t, s]]⟩: what `decode` gives back to its values."""
    with torch.autocast(rows.device.type, enabled=False):
        products: Tensor = _twin(rows, gradient).value_gradient(indices.long(), gradient, rows)
    return products


def residual(
    indices: Int[Tensor, "tokens selected"],
    values: Float[Tensor, "tokens selected"],
    rows: Float[Tensor, "latents d"],
    y: Float[Tensor, "tokens d"],
    bias: Float[Tensor, " d"] | None,
    skip: Float[Tensor, "tokens d"] | None,
) -> tuple[Float[Tensor, "tokens d"], Float[Tensor, " tokens"], Float[Tensor, "tokens selected"]]:
    """What is left, r = y - bias - skip - `decode`, |r[t]|² of each token, and the `value_gradient` of r.

    Without bias, or without skip, as if they were zeros.
    """
    twin, indices = _twin(*(one for one in (rows, values, y, bias, skip) if one is not None)), indices.long()
    with torch.autocast(rows.device.type, enabled=False):
        if twin in (cpu, reference):
            r = y - twin.decode(indices, values, rows)
            for one in (bias, skip):
                r = r if one is None else r - one
            return r, r.square().sum(1), twin.value_gradient(indices, r, rows)
        found: tuple[Tensor, Tensor, Tensor] = twin.residual(indices, values, rows, y, bias, skip)
        return found


def row_gradient(
    indices: Int[Tensor, "tokens selected"],
    weights: Float[Tensor, "tokens selected"],
    x: Float[Tensor, "tokens d"],
    rows: int,
) -> Float[Tensor, "rows d"]:
    """The [rows, d] matrix whose row i is Σ of weights[t, s] · x[t] over all (t, s) with indices[t, s] = i."""
    with torch.autocast(x.device.type, enabled=False):
        total: Tensor = _twin(x, weights).row_gradient(indices.long(), weights, x, rows)
    return total


def latent_sums(
    indices: Int[Tensor, "tokens selected"], weights: Float[Tensor, "tokens selected"], latents: int
) -> Float[Tensor, " latents"]:
    """Σ of weights[t, s] over all (t, s) with indices[t, s] = i, for each latent i: in the type of `weights`."""
    twin = _twin(weights) if gpu.serves(weights) else reference
    sums: Tensor = twin.latent_sums(indices.long(), weights, latents)
    return sums


def moments(x: Float[Tensor, "tokens d"]) -> tuple[Float[Tensor, " d"], Float[Tensor, " d"]]:
    """The mean of each dimension over the tokens, and Σ(x - mean)²: no gradient goes through them."""
    with torch.no_grad():
        found: tuple[Tensor, Tensor] = (native if native.serves(x) else reference).moments(x)
    return found


def softmax(
    p: Float[Tensor, "tokens latents"], groups: int, beta: float, keys: Int[Tensor, "tokens 2"] | None = None
) -> tuple[Int[Tensor, "tokens groups"], Softmax]:
    """The winner of each of `groups` contiguous groups of p, with Gumbel noise where there are keys, and the group's softmax.

    Of equal values the lowest index wins. beta: inverse temperature of the softmax; it changes no winner. Raises ValueError
    when the latents cannot be cut into so many equal groups.
    """
    check_groups(p.shape[1], groups)
    found: tuple[Tensor, Softmax] = _twin_of_dense(p).softmax(p, groups, beta, keys)
    return found


def draw(
    p: Float[Tensor, "tokens latents"], softmax: Softmax, uniform: Float[Tensor, "tokens groups"]
) -> Int[Tensor, "tokens groups"]:
    """A latent of each group with probability π (of a softmax with beta = 1 and no noise), by one number in [0, 1) each."""
    drawn: Tensor = _twin_of_dense(p).draw(p, softmax, uniform)
    return drawn


def softmax_gradient(
    p: Float[Tensor, "tokens latents"],
    terms: Sequence[tuple[Softmax, Float[Tensor, "tokens groups"]]],
    indices: Int[Tensor, "tokens selected"],
    extra: Float[Tensor, "tokens selected"],
) -> Float[Tensor, "tokens latents"]:
    """Σ over (softmax, c) of c·π in each group, plus `extra` at `indices`: in the type of `p`, summed in float32 or wider."""
    gradient: Tensor = _twin_of_dense(p).softmax_gradient(p, terms, indices.long(), extra)
    return gradient


def column_sums(p: Float[Tensor, "tokens latents"]) -> Float[Tensor, " latents"]:
    """The sum over tokens, in float32 or wider."""
    sums: Tensor = _twin_of_dense(p).column_sums(p)
    return sums


def _twin_of_dense(p: Tensor) -> types.ModuleType:
    if gpu.serves(p):
        from bsc.coders.kernels.gpu import groups

        return groups
    return native if native.selects(p, None) else reference
