"""Integers in the order of floats, and the k-th largest of them, for kernels to share."""

import triton
import triton.language as tl


@triton.jit
def sortable(values):
    """Unsigned integers in the order of float32 values, all above 0; -0 and 0 are one, NaN of either sign is above infinity."""
    bits = tl.where(values == values, (values + 0.0).to(tl.uint32, bitcast=True), 0x7FC00000)
    return bits ^ tl.where(bits >> 31 == 1, 0xFFFFFFFF, 0x80000000)


@triton.jit
def differences(p, minus, token, column, stride, inside):
    """Keys of `p - minus` of a token at some columns, 0 where not inside. stride: from one token's row of p to the next."""
    values = tl.load(p + token * stride + column, mask=inside, other=0.0).to(tl.float32)
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
