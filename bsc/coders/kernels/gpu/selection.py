"""The k largest of each row, exactly, reading the pre-activations once.

Three launches. `_block_maxima` reads a row and keeps the largest of each block of a few contiguous latents. `_shortlist` finds
a bound that at least k of these maxima reach, so that the k largest latents reach it too, and notes the blocks that hold any
that do: k of them and a few more, where values tie in the 16 bits that the bound is made of. `_select` finds the k-th largest
key among the latents of those blocks, and of the latents that tie with it takes the first. Rows with more such blocks than
there is room for (all values equal, say) are left to `_select_of_all`, which reads the row as often as it needs.
"""

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from bsc.coders.kernels.gpu.keys import differences, kth_largest

_MOST_KEYS = 1 << 14
"""Of those among which `_select` selects: what fits in the registers of a program."""
_MOST_BLOCKS = 1 << 14
_LONGEST_BLOCK = 32
_BLOCKS_A_PROGRAM = 128
_PIECE = 4096
"""Of a row that is read again and again."""


def has_room(latents: int, k: int) -> bool:
    """Whether a program can hold what `top_k` needs of a row."""
    _, size, blocks = _sizes(latents, k)
    return size > 0 and triton.next_power_of_2(blocks) <= _MOST_BLOCKS


def _sizes(latents: int, k: int) -> tuple[int, int, int]:
    """How many blocks there is room for, how many latents a block has, and how many blocks a row has."""
    room = triton.next_power_of_2(k + k // 2 + 48)
    size = min(_LONGEST_BLOCK, _MOST_KEYS // room)
    return room, size, triton.cdiv(latents, max(1, size))


def top_k(
    p: Float[Tensor, "tokens latents"], k: int, minus: Float[Tensor, " latents"] | None = None
) -> Int[Tensor, "tokens {k}"]:
    """The indices of the k >= 1 largest of each row of `p - minus`, ascending; of equal values the lowest indices win."""
    tokens, latents = p.shape
    room, size, blocks = _sizes(latents, k)
    p, minus = p.contiguous(), None if minus is None else minus.contiguous()
    maxima = torch.empty(tokens, blocks, dtype=torch.int32, device=p.device)
    shortlist = torch.empty(tokens, room, dtype=torch.int32, device=p.device)
    length = torch.empty(tokens, dtype=torch.int32, device=p.device)
    selected = torch.empty(tokens, k, dtype=torch.int64, device=p.device)
    grid = (tokens, triton.cdiv(blocks, _BLOCKS_A_PROGRAM))
    _block_maxima[grid](p, minus, maxima, latents, blocks, SIZE=size, BLOCKS=_BLOCKS_A_PROGRAM)
    tile = triton.next_power_of_2(blocks)
    _shortlist[(tokens,)](maxima, shortlist, length, k, blocks, room, BLOCKS=tile, num_warps=_warps(tile))
    row, among = (p, minus, length, room, selected, k, latents), room * size
    _select[(tokens,)](*row, shortlist, SIZE=size, KEYS=among, num_warps=_warps(among))
    _select_of_all[(tokens,)](*row, PIECE=_PIECE, num_warps=_warps(_PIECE))
    return selected


def _warps(keys: int) -> int:
    """Sixteen keys a thread, where that can be had."""
    return max(1, min(16, keys // 512))


@triton.jit
def _block_maxima(p, minus, maxima, latents, blocks, SIZE: tl.constexpr, BLOCKS: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1) * BLOCKS + tl.arange(0, BLOCKS)
    column = block[:, None] * SIZE + tl.arange(0, SIZE)[None, :]
    largest = tl.max(differences(p, minus, token, column, latents, column < latents), axis=1)
    tl.store(maxima + token * blocks + block, largest.to(tl.int32, bitcast=True), mask=block < blocks)


@triton.jit
def _shortlist(maxima, shortlist, length, k, blocks, room, BLOCKS: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    block = tl.arange(0, BLOCKS)
    inside = block < blocks
    keys = tl.load(maxima + token * blocks + block, mask=inside, other=0).to(tl.uint32, bitcast=True)
    reaches = (inside & (keys >= kth_largest(keys, k, BITS=16))).to(tl.int32)
    place = tl.cumsum(reaches, axis=0) - 1
    tl.store(shortlist + token * room + place, block, mask=(reaches == 1) & (place < room))
    tl.store(length + token, tl.sum(reaches, axis=0))


@triton.jit
def _select(p, minus, length, room, selected, k, latents, shortlist, SIZE: tl.constexpr, KEYS: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    listed = tl.load(length + token)
    if listed <= room:
        place = tl.arange(0, KEYS)
        there = place // SIZE < listed
        column = tl.load(shortlist + token * room + place // SIZE, mask=there, other=0) * SIZE + place % SIZE
        inside = there & (column < latents)
        keys = differences(p, minus, token, column, latents, inside)
        bound = kth_largest(keys, k, BITS=32)
        wanted = k - tl.sum((keys > bound).to(tl.int32), axis=0)
        _store(keys, column, inside, bound, wanted, selected + token * k)


@triton.jit
def _select_of_all(p, minus, length, room, selected, k, latents, PIECE: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    if tl.load(length + token) > room:
        bound = tl.full((), 0, tl.uint32)
        bit = tl.full((), 0x80000000, tl.uint32)
        for _ in range(32):
            trial = bound | bit
            above, ties = _count(p, minus, token, latents, trial, PIECE)
            bound = tl.where(above + ties >= k, trial, bound)
            bit = bit >> 1
        above, ties = _count(p, minus, token, latents, bound, PIECE)
        wanted = k - above
        stored = 0
        for start in range(0, latents, PIECE):
            column = start + tl.arange(0, PIECE)
            inside = column < latents
            keys = differences(p, minus, token, column, latents, inside)
            chosen, ties = _store(keys, column, inside, bound, wanted, selected + token * k + stored)
            stored += chosen
            wanted -= ties


@triton.jit
def _count(p, minus, token, latents, bound, PIECE: tl.constexpr):
    """How many keys of a row are above `bound`, and how many equal it."""
    above, ties = 0, 0
    for start in range(0, latents, PIECE):
        column = start + tl.arange(0, PIECE)
        inside = column < latents
        keys = differences(p, minus, token, column, latents, inside)
        above += tl.sum((keys > bound).to(tl.int32), axis=0)
        ties += tl.sum((inside & (keys == bound)).to(tl.int32), axis=0)
    return above, ties


@triton.jit
def _store(keys, column, inside, bound, wanted, out):
    """Store, in order, the columns with keys above `bound` and the first `wanted` that equal it; how many, and all ties."""
    ties = (inside & (keys == bound)).to(tl.int32)
    chosen = ((keys > bound) | ((ties == 1) & (tl.cumsum(ties, axis=0) <= wanted))).to(tl.int32)
    tl.store(out + tl.cumsum(chosen, axis=0) - 1, column.to(tl.int64), mask=chosen == 1)
    return tl.sum(chosen, axis=0), tl.sum(ties, axis=0)
