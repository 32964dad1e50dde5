"""Batches of whole contexts, shuffled: batch i is a function of the seed and of i alone, as in `bsc.training.batches`."""

from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Int, Int64
from torch import Tensor


class Sequences:
    """Batches of `size` of the contexts, epoch after epoch, each in its own order; int64 on `device`."""

    def __init__(self, contexts: Int[Tensor, "contexts context"], size: int, seed: int, device: torch.device) -> None:
        self._contexts, self._size, self._seed, self._device = contexts, size, seed, device
        self._order = lru_cache(maxsize=2)(self._shuffled)

    def at(self, step: int) -> Int[Tensor, "batch context"]:
        """Batch number `step`, counted from 0: a cut of the stream of contexts, so that it is always full."""
        epochs, places = np.divmod(np.arange(step * self._size, (step + 1) * self._size), len(self._contexts))
        picked = [self._order(int(epoch))[place] for epoch, place in zip(epochs, places, strict=True)]
        return self._contexts[torch.tensor(picked)].long().to(self._device)

    def _shuffled(self, epoch: int) -> Int64[np.ndarray, " contexts"]:
        return np.random.default_rng([self._seed, epoch]).permutation(len(self._contexts))
