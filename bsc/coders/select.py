"""Exact selection: the k largest of a row, and the largest of each group, with ties to the lowest index.

`torch.topk` promises nothing about ties, and bfloat16 pre-activations tie at the k-th place in most rows. So a value and its
index are packed into one int64 key, by which no two latents are equal. To make few keys, a row is first cut into strided
blocks {b, b + blocks, b + 2 blocks, ...}: the k largest lie in the blocks with the largest maxima, and only those blocks are
looked at. Rows in which that shortcut is not certain (more blocks reach the k-th value than were looked at) are done again
in full. Compiled code does the same by its own way: on the CPU `kernels.native`, on the GPU `kernels.gpu`.
"""

import math
from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bsc.coders.kernels import gpu, native
from bsc.coders.kernels.softmax import check_groups

_SPARE_BLOCKS = 8
_CHUNK_ELEMENTS = {"cpu": 1 << 18}
"""Rows are done in chunks whose temporaries stay in the cache."""
_CHUNK_ELEMENTS_ELSEWHERE = 1 << 28


def top_k(
    p: Float[Tensor, "tokens latents"], k: int, minus: Float[Tensor, " latents"] | None = None
) -> Int[Tensor, "tokens {k}"]:
    """The indices of the k largest of each row of `p - minus`, ascending; of equal values the lowest indices win.

    The difference is taken in float32 (or wider) whatever the types. Raises ValueError when there are fewer than k latents,
    or not as many as `minus` has.
    """
    if not 0 <= k <= p.shape[1]:
        raise ValueError(f"cannot select k = {k} of {p.shape[1]} latents")
    p, minus = _detached(p, minus)
    if not k:
        return torch.empty(len(p), 0, dtype=torch.int64, device=p.device)
    if gpu.serves(p, minus):
        from bsc.coders.kernels.gpu import selection

        if selection.has_room(p.shape[1], k):
            return selection.top_k(p, k, minus)
    if native.selects(p, minus):
        return native.top_k(p, k, minus)
    return top_k_by_torch(p, k, minus)


def _detached(p: Tensor, minus: Tensor | None) -> tuple[Tensor, Tensor | None]:
    if minus is None:
        return p.detach(), None
    if minus.shape != p.shape[1:]:
        raise ValueError(f"an offset of shape {list(minus.shape)} cannot be taken from {p.shape[1]} latents")
    return p.detach(), minus.detach()


def top_k_by_torch(
    p: Float[Tensor, "tokens latents"], k: int, minus: Float[Tensor, " latents"] | None = None
) -> Int[Tensor, "tokens {k}"]:
    """As `top_k`, on any device and in any type."""
    return torch.cat([_top_k(chunk, k) for chunk in _differences(p, minus)])


def _differences(
    p: Float[Tensor, "tokens latents"], minus: Float[Tensor, " latents"] | None
) -> Iterator[Float[Tensor, "some latents"]]:
    """The rows of `p - minus`, some at a time."""
    rows = max(1, _CHUNK_ELEMENTS.get(p.device.type, _CHUNK_ELEMENTS_ELSEWHERE) // max(1, p.shape[1]))
    if minus is not None:
        minus = minus.to(torch.promote_types(torch.promote_types(p.dtype, minus.dtype), torch.float32))
    for chunk in torch.split(p, rows):
        yield chunk if minus is None else chunk.to(minus.dtype) - minus


def _top_k(p: Float[Tensor, "tokens latents"], k: int) -> Int[Tensor, "tokens {k}"]:
    looked_at = k + _SPARE_BLOCKS
    size = 1 << round(math.log2(p.shape[1] / looked_at) / 2) if p.shape[1] > looked_at else 1
    blocks = p.shape[1] // size
    if 2 * looked_at > blocks:
        return _top_k_of_all(p, k)
    whole = blocks * size
    maxima = p[:, :whole].view(len(p), size, blocks).amax(1)
    chosen = maxima.topk(looked_at, sorted=False).indices
    members = chosen.unsqueeze(1) + torch.arange(0, whole, blocks, device=p.device).unsqueeze(1)
    rest = torch.arange(whole, p.shape[1], device=p.device).expand(len(p), -1)
    candidates = torch.cat([members.flatten(1), rest], dim=1)
    selected, smallest = _largest(p.gather(1, candidates), candidates, k)
    uncertain = (maxima < smallest).logical_not_().sum(1) > looked_at
    if bool(uncertain.any()):
        selected[uncertain] = _top_k_of_all(p[uncertain], k)
    return selected


def _top_k_of_all(p: Float[Tensor, "tokens latents"], k: int) -> Int[Tensor, "tokens {k}"]:
    return _largest(p, torch.arange(p.shape[1], device=p.device).expand_as(p), k)[0]


def _largest(
    values: Float[Tensor, "tokens candidates"], indices: Int[Tensor, "tokens candidates"], k: int
) -> tuple[Int[Tensor, "tokens {k}"], Float[Tensor, "tokens 1"]]:
    """The indices, ascending, of the k largest values by (value, lowest index), and the smallest of those values."""
    if values.dtype == torch.float64:
        return _largest_float64(values, indices, k)
    keys = _sortable(values) << 32 | (_LAST - indices)
    best = keys.topk(k, sorted=False).values
    smallest = _value(best.amin(1, keepdim=True) >> 32) if k else values[:, :0]
    return (_LAST - (best & _LAST)).sort(1).values, smallest


_LAST = (1 << 32) - 1
_NAN = 0x7FC00000


def _sortable(values: Float[Tensor, "..."]) -> Int[Tensor, "..."]:
    """Integers in the order of float32 values; -0 and 0 are one, and NaN of either sign is above infinity."""
    bits = (values.float() + 0.0).view(torch.int32).masked_fill(values.isnan(), _NAN)
    return (bits ^ (bits >> 31 & 0x7FFFFFFF)).long()


def _value(keys: Int[Tensor, "..."]) -> Float[Tensor, "..."]:
    """The float32 values that `_sortable` made `keys` of."""
    bits = keys.int()
    return (bits ^ (bits >> 31 & 0x7FFFFFFF)).view(torch.float32)


def _largest_float64(
    values: Float[Tensor, "tokens candidates"], indices: Int[Tensor, "tokens candidates"], k: int
) -> tuple[Int[Tensor, "tokens {k}"], Float[Tensor, "tokens 1"]]:
    """The same by two stable sorts: float64 and an index do not fit in one key."""
    indices, by_index = indices.sort(1)
    ranked, order = values.gather(1, by_index).sort(dim=1, descending=True, stable=True)
    return indices.gather(1, order[:, :k]).sort(1).values, ranked[:, k - 1 : k]


def winners(
    p: Float[Tensor, "tokens latents"], groups: int, minus: Float[Tensor, " latents"] | None = None
) -> Int[Tensor, "tokens {groups}"]:
    """The index of the largest `p - minus` of each of `groups` contiguous groups; of equal values the lowest index wins.

    Raises ValueError when the latents cannot be cut into so many equal groups, or are not as many as `minus` has.
    """
    check_groups(p.shape[1], groups)
    p, minus = _detached(p, minus)
    if gpu.serves(p, minus):
        from bsc.coders.kernels.gpu import groups as on_groups

        return on_groups.winners(p, groups, minus)
    if native.selects(p, minus):
        return native.winners(p, groups, minus)
    return winners_by_torch(p, groups, minus)


def winners_by_torch(
    p: Float[Tensor, "tokens latents"], groups: int, minus: Float[Tensor, " latents"] | None = None
) -> Int[Tensor, "tokens {groups}"]:
    """As `winners`, on any device and in any type: `torch.max` over a dimension promises the first of equal maxima."""
    first = torch.arange(groups, device=p.device) * (p.shape[1] // groups)
    grouped = (chunk.view(len(chunk), groups, -1) for chunk in _differences(p, minus))
    return torch.cat([chunk.max(2).indices + first for chunk in grouped])
