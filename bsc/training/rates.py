"""The learning-rate rules of the paper's recipe, for coders whose config names no rate. No torch in here."""

import math

_CONTINUOUS = {"adam": 2e-4, "signum": 5e-3}
_BINARY = 3e-3


def learning_rate(optimiser: str, latents: int, *, continuous: bool) -> float:
    """The peak learning rate for `latents` = M.

    Continuous binarisers: adam 2e-4 / sqrt(M / 2^14), signum 5e-3 / sqrt(M / 2^14). Binary ones: 3e-3 / sqrt(M / 2^15) with
    either optimiser; the paper states that rule for its binary TopK, and the other binary ones take it here as a
    starting point for a sweep.
    """
    if continuous:
        return _CONTINUOUS[optimiser] / math.sqrt(latents / 2**14)
    return _BINARY / math.sqrt(latents / 2**15)
