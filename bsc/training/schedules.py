"""The learning rate of each step."""

from typing import Literal


def rate_at(step: int, steps: int, peak: float, warmup: int, optimiser: Literal["adam", "signum"]) -> float:
    """The learning rate of step `step`, counted from 0, of `steps`.

    Both optimisers warm up linearly, (step + 1)/warmup of the peak, so that no step is wasted at 0. Then adam's rate falls
    linearly and would reach 0 at step `steps`; signum's is schedule-free and stays.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    if optimiser == "signum":
        return peak
    return peak * (steps - step) / (steps - warmup)
