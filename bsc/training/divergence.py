"""A run that has diverged stops at once, leaves its state to be looked at, and says what to change."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float64

from bsc.errors import UserError
from bsc.io import write_json, write_tensors
from bsc.training.trainer import Trainer


class Diverged(UserError):
    """A run is beyond hope: its learning rate is too high for it."""


DIVERGED = ("diverged.safetensors", "diverged.json")
"""The state after the bad step (on a GPU, up to 50 steps after it), and the measurements of the last steps up to it."""
_LAST = 20


def raise_if_diverged(trainer: Trainer, rows: Float64[np.ndarray, "new columns"], output: Path, *, writes: bool = True) -> None:
    """Save DIVERGED in `output`, if this rank `writes`, and raise Diverged when a freshly fetched row is beyond hope.

    A checkpoint from before is left where it is: the same spec diverges again from there, another spec does not take it.
    """
    step = trainer.log.diverged_at(rows)
    if step is None:
        return
    last = trainer.log.frame()[["step", "fvu", "loss", "gradient_norm"]].iloc[max(step - _LAST, 0) : step]
    if writes:
        write_tensors(output / DIVERGED[0], trainer.tensors())
        write_json(output / DIVERGED[1], {"step": step, "last": _jsonable(last)})
    spec, bad = trainer.spec, last.iloc[-1]
    block = f"binarisers.{spec.binariser}" if spec.finetune is None else "finetune"
    warmup = "training.warmup_steps" if spec.finetune is None else "finetune.warmup_steps"
    raise Diverged(
        f"training diverged at step {step}: FVU {bad['fvu']:.4g}, loss {bad['loss']:.4g}, gradient norm "
        f"{bad['gradient_norm']:.4g}; the state is in {DIVERGED[0]}",
        where=str(output),
        fix=f"lower `{block}.learning_rate` (it is {trainer.peak:g}) or raise `{warmup}`",
    )


def _jsonable(frame: pd.DataFrame) -> list[dict[str, float | str]]:
    """Rows with what is not finite as text: JSON has no word for it."""
    return [
        {str(name): value if math.isfinite(value) else str(value) for name, value in row.items()}
        for row in frame.to_dict("records")
    ]
