"""The kernels and the selection by compiled code (native.cpp), on the CPU, where a compiler was found.

Same functions as in `reference`, `select` and `binary_threshold`. Each output row is summed by one thread in a fixed order, so
results are the same bit for bit whatever the number of threads.
"""

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bsc.coders.kernels.build import library
from bsc.coders.kernels.softmax import Softmax

_SELECTABLE = (torch.float32, torch.bfloat16)


def serves(*tensors: Tensor) -> bool:
    """Whether these kernels can take the tensors: float32 on the CPU, and compiled."""
    return all(t.device.type == "cpu" and t.dtype == torch.float32 for t in tensors) and library() is not None


def selects(p: Tensor, minus: Tensor | None) -> bool:
    """Whether they can select from `p - minus`: p float32 or bfloat16 on the CPU, minus float32."""
    return (
        p.device.type == "cpu"
        and p.dtype in _SELECTABLE
        and (minus is None or minus.dtype == torch.float32)
        and library() is not None
    )


class _Softmax(ctypes.Structure):
    _fields_ = (
        ("keys", ctypes.c_void_p),
        ("beta", ctypes.c_float),
        ("largest", ctypes.c_void_p),
        ("factor", ctypes.c_void_p),
    )


def call(name: str, *arguments: Tensor | ctypes.Array[_Softmax] | ctypes.c_void_p | float | None) -> int:
    """Call a function of the library: tensors go by the address of their contiguous data, int as int64, float as double."""
    result: int = getattr(library(), name)(*map(_converted, arguments))
    return result


def _converted(argument: Any) -> Any:
    if isinstance(argument, Tensor):
        return ctypes.c_void_p(_address(argument))
    if isinstance(argument, int):
        return ctypes.c_int64(argument)
    return ctypes.c_double(argument) if isinstance(argument, float) else argument


def _address(tensor: Tensor) -> int:
    assert tensor.is_contiguous()
    return tensor.data_ptr()


def _threads() -> int:
    return torch.get_num_threads()


def decode(
    indices: Int[Tensor, "tokens selected"], values: Float[Tensor, "tokens selected"], rows: Float[Tensor, "latents d"]
) -> Float[Tensor, "tokens d"]:
    """Σ_s values[t, s] · rows[indices[t, s]] for each token t."""
    tokens, selected = indices.shape
    total = rows.new_empty(tokens, rows.shape[1])
    inputs = indices.contiguous(), values.contiguous(), rows.contiguous()
    call("bsc_decode", *inputs, tokens, selected, rows.shape[1], _threads(), total)
    return total


def value_gradient(
    indices: Int[Tensor, "tokens selected"], gradient: Float[Tensor, "tokens d"], rows: Float[Tensor, "latents d"]
) -> Float[Tensor, "tokens selected"]:
    """⟨gradient[t], rows[indices[t, s]]⟩: what `decode` gives back to its values."""
    tokens, selected = indices.shape
    products = gradient.new_empty(tokens, selected)
    inputs = indices.contiguous(), gradient.contiguous(), rows.contiguous()
    call("bsc_value_gradient", *inputs, tokens, selected, rows.shape[1], _threads(), products)
    return products


def residual(
    indices: Int[Tensor, "tokens selected"],
    values: Float[Tensor, "tokens selected"],
    rows: Float[Tensor, "latents d"],
    y: Float[Tensor, "tokens d"],
    bias: Float[Tensor, " d"] | None,
    skip: Float[Tensor, "tokens d"] | None,
) -> tuple[Float[Tensor, "tokens d"], Float[Tensor, " tokens"], Float[Tensor, "tokens selected"]]:
    """What is left, r = y - bias - skip - Σ_s values[t, s] · rows[indices[t, s]], |r[t]|², and ⟨r[t], rows[indices[t, s]]⟩."""
    (tokens, selected), width = indices.shape, rows.shape[1]
    found = rows.new_empty(tokens, width), rows.new_empty(tokens), rows.new_empty(tokens, selected)
    inputs = map(contiguous, (indices, values, rows, y, bias, skip))
    call("bsc_residual", *inputs, tokens, selected, width, _threads(), *found)
    return found


def row_gradient(
    indices: Int[Tensor, "tokens selected"],
    weights: Float[Tensor, "tokens selected"],
    x: Float[Tensor, "tokens d"],
    rows: int,
) -> Float[Tensor, "rows d"]:
    """The [rows, d] matrix whose row i is Σ of weights[t, s] · x[t] over all (t, s) with indices[t, s] = i, in order of t."""
    tokens, selected = indices.shape
    total = x.new_empty(rows, x.shape[1])
    inputs = indices.contiguous(), weights.contiguous(), x.contiguous()
    call("bsc_row_gradient", *inputs, tokens, selected, rows, x.shape[1], _threads(), total)
    return total


def moments(x: Float[Tensor, "tokens d"]) -> tuple[Float[Tensor, " d"], Float[Tensor, " d"]]:
    """The mean of each dimension, and Σ(x - mean)²."""
    mean, squares = x.new_empty(x.shape[1]), x.new_empty(x.shape[1])
    call("bsc_moments", x.contiguous(), *x.shape, _threads(), mean, squares)
    return mean, squares


def top_k(
    p: Float[Tensor, "tokens latents"], k: int, minus: Float[Tensor, " latents"] | None = None
) -> Int[Tensor, "tokens {k}"]:
    """The indices of the k >= 1 largest of each row of `p - minus`, ascending; of equal values the lowest indices win."""
    selected = torch.empty(len(p), k, dtype=torch.int64)
    p = p if p.stride(1) == 1 else p.contiguous()  # a slice of the latents is read where it lies
    at = ctypes.c_void_p(p.data_ptr())
    call(f"bsc_top_k_{_suffix(p)}", at, contiguous(minus), *p.shape, p.stride(0), k, _threads(), selected)
    return selected


def winners(
    p: Float[Tensor, "tokens latents"], groups: int, minus: Float[Tensor, " latents"] | None = None
) -> Int[Tensor, "tokens {groups}"]:
    """The index of the largest `p - minus` of each of `groups` contiguous groups; of equal values the lowest index wins."""
    selected = torch.empty(len(p), groups, dtype=torch.int64)
    shape = len(p), groups, p.shape[1] // groups
    call(f"bsc_winners_{_suffix(p)}", p.contiguous(), contiguous(minus), *shape, _threads(), selected)
    return selected


def softmax(
    p: Float[Tensor, "tokens latents"], groups: int, beta: float, keys: Int[Tensor, "tokens 2"] | None
) -> tuple[Int[Tensor, "tokens groups"], Softmax]:
    """The largest of each group, of equal ones the first, and what the group's softmax needs."""
    winners = torch.empty(len(p), groups, dtype=torch.int64)
    largest, total = torch.empty(len(p), groups), torch.empty(len(p), groups)
    shape = len(p), groups, p.shape[1] // groups
    call(f"bsc_softmax_{_suffix(p)}", p.contiguous(), keys, float(beta), *shape, _threads(), winners, largest, total)
    return winners, Softmax(beta, keys, largest, total)


def draw(
    p: Float[Tensor, "tokens latents"], softmax: Softmax, uniform: Float[Tensor, "tokens groups"]
) -> Int[Tensor, "tokens groups"]:
    """The first of each group whose cumulative probability exceeds `uniform`."""
    drawn = torch.empty(uniform.shape, dtype=torch.int64)
    shape = len(p), softmax.groups, p.shape[1] // softmax.groups
    inputs = p.contiguous(), softmax.largest, softmax.total, uniform.contiguous()
    call(f"bsc_draw_{_suffix(p)}", *inputs, *shape, _threads(), drawn)
    return drawn


def softmax_gradient(
    p: Float[Tensor, "tokens latents"],
    terms: Sequence[tuple[Softmax, Float[Tensor, "tokens groups"]]],
    indices: Int[Tensor, "tokens selected"],
    extra: Float[Tensor, "tokens selected"],
) -> Float[Tensor, "tokens latents"]:
    """Σ_terms c·π of each group, plus `extra` at `indices`, in the type of `p`."""
    gradient = torch.empty_like(p, memory_format=torch.contiguous_format)
    factors = [(coefficient / softmax.total).contiguous() for softmax, coefficient in terms]
    structures = (_Softmax * len(terms))(
        *(
            _Softmax(
                None if softmax.keys is None else _address(softmax.keys),
                softmax.beta,
                _address(softmax.largest),
                _address(factor),
            )
            for (softmax, _), factor in zip(terms, factors, strict=True)
        )
    )
    groups = terms[0][0].groups
    shape = indices.shape[1], len(p), groups, p.shape[1] // groups
    inputs = p.contiguous(), structures, len(terms), indices.contiguous(), extra.contiguous()
    call(f"bsc_softmax_gradient_{_suffix(p)}", *inputs, *shape, _threads(), gradient)
    return gradient


def column_sums(p: Float[Tensor, "tokens latents"]) -> Float[Tensor, " latents"]:
    """The sum of each column, in float32."""
    sums = torch.empty(p.shape[1])
    call(f"bsc_column_sums_{_suffix(p)}", p.contiguous(), *p.shape, _threads(), sums)
    return sums


def solve_threshold(p: Float[Tensor, "tokens latents"], k: int) -> Float[Tensor, "tokens 1"]:
    """τ of each token with Σ_j σ(p_j - τ) = k."""
    thresholds = torch.empty(len(p), 1)
    call(f"bsc_threshold_{_suffix(p)}", p.contiguous(), *p.shape, k, _threads(), thresholds)
    return thresholds


def _suffix(p: Tensor) -> str:
    return str(p.dtype).removeprefix("torch.")


def contiguous(tensor: Tensor | None) -> Tensor | None:
    """A tensor, if there is one, as `call` takes it."""
    return None if tensor is None else tensor.contiguous()
