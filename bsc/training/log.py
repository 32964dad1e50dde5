"""What training says of each step, and when it has gone wrong."""

import time

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Float64
from torch import Tensor

MEASURED = ("fvu", "loss", "l0", "dead_fraction", "gradient_norm")
"""What a step measures on the device, in this order."""
_COUNTED, _TIMED = ("step", "tokens"), ("learning_rate", "tokens_per_second")
COLUMNS = (*_COUNTED, *MEASURED, *_TIMED)

EXPLODED = 1e3
"""Training has diverged when the FVU is over this many times the best so far, or over this where the best is above 1."""


class TrainingLog:
    """A row a step, COLUMNS wide: steps counted from 1, fractions in [0, 1], l0 in firings a token.

    more: what else a step measures, after MEASURED; `columns` has all of them.

    Measurements stay on the device until `fetch`, so that no step waits for the device. tokens_per_second is wall-clock, over
    the steps between two fetches; every other column is the same in a run that was interrupted and resumed.
    """

    def __init__(self, steps: int, batch_tokens: int, more: tuple[str, ...] = ()) -> None:
        self.columns = (*_COUNTED, *MEASURED, *more, *_TIMED)
        self._values: Float64[np.ndarray, "steps columns"] = np.zeros((steps, len(self.columns)))
        self._batch_tokens = batch_tokens
        self._pending: list[Float[Tensor, " measured"]] = []
        self._fetched = 0
        self._fetched_at = time.monotonic()

    @property
    def _measured(self) -> slice:
        return slice(len(_COUNTED), -len(_TIMED))

    def add(self, measured: Float[Tensor, " measured"], rate: float) -> None:
        """Note what the next step measured, in the order of `columns`, and its learning rate."""
        row = self._fetched + len(self._pending)
        self._values[row, 0] = row + 1
        self._values[row, 1] = (row + 1) * self._batch_tokens
        self._values[row, -2] = rate
        self._pending.append(measured)

    def fetch(self) -> Float64[np.ndarray, "new columns"]:
        """Bring what was noted since the last time from the device; the rows of those steps."""
        first, last = self._fetched, self._fetched + len(self._pending)
        if self._pending:
            self._values[first:last, self._measured] = torch.stack(self._pending).double().cpu().numpy()
            now = time.monotonic()
            self._values[first:last, -1] = (last - first) * self._batch_tokens / max(now - self._fetched_at, 1e-9)
            self._pending, self._fetched, self._fetched_at = [], last, now
        return self._values[first:last]

    def last(self) -> str:
        """The last FVU that was fetched, and the last KL divergence where there is one, in words."""
        row = dict(zip(self.columns, self._values[self._fetched - 1], strict=True))
        return f"FVU {row['fvu']:.3f}" + (f", KL {row['kl']:.4f}" if "kl" in row else "")

    def tensor(self) -> Tensor:
        """All rows that were fetched, for a checkpoint."""
        return torch.from_numpy(self._values[: self._fetched].copy())

    def load(self, rows: Tensor) -> None:
        """Take over the rows of a checkpoint."""
        self._fetched = len(rows)
        self._values[: self._fetched] = rows.numpy()

    def frame(self) -> pd.DataFrame:
        """All rows that were fetched, as a table."""
        frame = pd.DataFrame(self._values[: self._fetched], columns=list(self.columns))
        return frame.astype({"step": "int64", "tokens": "int64"})

    def diverged_at(self, rows: Float64[np.ndarray, "new columns"]) -> int | None:
        """The first step of freshly fetched rows that is not finite, or whose FVU is 1,000 times max(best so far, 1)."""
        if not len(rows):
            return None
        first = int(rows[0, 0]) - 1
        fvu = self._values[: first + len(rows), 2]
        best = np.fmin.accumulate(np.append(np.inf, fvu))[first:-1]
        exploded = rows[:, 2] > EXPLODED * np.where(np.isfinite(best), np.maximum(best, 1.0), np.inf)
        bad = exploded | ~np.isfinite(rows[:, self._measured]).all(1)
        return int(rows[bad.argmax(), 0]) if bad.any() else None
