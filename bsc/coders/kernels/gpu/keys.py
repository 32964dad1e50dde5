"""Integers in the order of floats, and the k-th largest of them, for kernels to share."""

import triton
import triton.language as tl


@triton.jit
def sortable(values):
    """Unsigned integers in the order of float32 values, above 0 for numbers; -0 and 0 are one, NaN has a place too."""
    bits = (values + 0.0).to(tl.uint32, bitcast=True)
    return bits ^ tl.where(bits >> 31 == 1, 0xFFFFFFFF, 0x80000000)


@triton.jit
def differences(p, minus, token, column, latents, inside):
    """Keys of `p - minus` of a token at some columns, 0 where not inside."""
    values = tl.load(p + token * latents + column, mask=inside, other=0.0).to(tl.float32)
    if minus is not None:
        values -= tl.load(minus + column, mask=inside, other=0.0)
    return tl.where(inside, sortable(values), 0)


@triton.jit
def kth_largest(keys, k, BITS: tl.constexpr):
    """The largest x, of which only the upper BITS bits may be set, that at least k of `keys` reach."""
    found = tl.full((), 0, tl.uint32)
    bit = tl.full((), 0x80000000, tl.uint32)
    for _ in range(BITS):
        trial = found | bit
        found = tl.where(tl.sum((keys >= trial).to(tl.int32), axis=0) >= k, trial, found)
        bit = bit >> 1
    return found
