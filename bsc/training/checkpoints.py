"""Checkpoints of a training run: the last two, whole or not at all, and believed only when they are of the same run.

A checkpoint is `step-N.safetensors` and, written after it, `step-N.json` with the digest of the run (spec, activations and
code) and the size and SHA-256 of the tensors. One of another run is left aside; of a damaged one the one before is taken.
"""

import re
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from bsc.errors import UserError
from bsc.io import check, describe, read_json, read_tensors, write_json, write_tensors

KEPT = 2
_NAME = re.compile(r"step-(\d+)\.json")


class Checkpoint(NamedTuple):
    """The state of a run after `step` steps."""

    step: int
    tensors: dict[str, Tensor]


class Checkpoints:
    """The checkpoints of the run that `digest` stands for, in `folder`."""

    def __init__(self, folder: Path, digest: str) -> None:
        self.folder, self.digest = folder, digest

    def save(self, step: int, tensors: dict[str, Tensor]) -> None:
        """Write the state after `step` steps, and drop all but the last two. Raises UserError when the disk is full."""
        weights = self._weights(step)
        write_tensors(weights, tensors)
        write_json(self._facts(step), {"digest": self.digest, "step": step, **describe(weights)})
        self.keep(KEPT)

    def keep(self, count: int) -> None:
        """Drop all but the last so many."""
        for old in sorted(self._steps(), reverse=True)[count:]:
            self._facts(old).unlink()
            self._weights(old).unlink(missing_ok=True)

    def latest(self) -> Checkpoint | None:
        """The last whole checkpoint of this run, or None; says on stderr which ones it passes over, and drops them."""
        self._sweep()
        for step in sorted(self._steps(), reverse=True):
            try:
                recorded = read_json(self._facts(step))
                if recorded.get("digest") == self.digest:
                    check(self._weights(step), recorded)
                    return Checkpoint(step, read_tensors(self._weights(step)))
                reason = "it is of another spec, other activations or other code"
            except (UserError, KeyError, AttributeError) as error:
                reason = getattr(error, "what", "not a checkpoint's JSON")
            print(f"{self._facts(step)}: checkpoint ignored: {reason}", file=sys.stderr, flush=True)
            self._facts(step).unlink(missing_ok=True)  # another rank may have been quicker
            self._weights(step).unlink(missing_ok=True)
        return None

    def remove(self) -> None:
        """Delete the folder with all there is in it."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _sweep(self) -> None:
        """Drop what a killed job left half written: temporary files, and tensors whose JSON never came."""
        for path in [*self.folder.glob(".*.part"), *self.folder.glob("step-*.safetensors")]:
            if path.suffix == ".part" or not path.with_suffix(".json").exists():
                path.unlink(missing_ok=True)

    def _steps(self) -> list[int]:
        names = (_NAME.fullmatch(path.name) for path in self.folder.glob("step-*.json"))
        return [int(name[1]) for name in names if name]

    def _weights(self, step: int) -> Path:
        return self.folder / f"step-{step}.safetensors"

    def _facts(self, step: int) -> Path:
        return self.folder / f"step-{step}.json"
