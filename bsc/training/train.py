"""The stage `bsc train`: one coder from stored activations (paper, Sec. 4)."""

import sys
import time
from contextlib import closing
from pathlib import Path

from bsc.activations.store import ActivationStore
from bsc.coders.binarisers.registry import REGISTRY
from bsc.coders.load import save_coder
from bsc.device import device
from bsc.errors import UserError
from bsc.io import read_json
from bsc.progress import Progress, job_label
from bsc.spec import digest, fingerprint
from bsc.stages import CoderSpec
from bsc.training.batches import Batches, prefetched
from bsc.training.checkpoints import Checkpoints
from bsc.training.divergence import DIVERGED, raise_if_diverged
from bsc.training.interruption import EXIT_CODE, Interruption
from bsc.training.trainer import Trainer

CHECKPOINTS = "checkpoint"
_FETCH_EVERY = {"cpu": 1, "cuda": 50}
"""Steps between two looks at what was measured: each look waits for the device."""


def train(spec: CoderSpec, index: Path, output: Path, *, checkpoint_seconds: float = 300.0) -> None:
    """Train the coder of a spec on the activations that an index lists, and write its folder.

    The state is saved under `output/checkpoint` every `checkpoint_seconds` (0: after each step), and when SIGTERM, SIGINT or
    SIGUSR2 says to stop: the process then ends with exit code 75 (EX_TEMPFAIL). Either way, and after a kill without
    warning, the same command goes on from there; on the same machine and number of threads the coder is bit for bit the one
    of a run without interruption. The folder `checkpoint` is gone once the coder is written.

    Raises UserError when the activations do not fit the spec, when training diverges (its state is then in
    diverged.safetensors and diverged.json), or when the disk is full; CorruptFile for a damaged shard.
    """
    store = ActivationStore.open(index)
    _check(spec, store, index)
    _tidy(output)
    where = device()
    batches = Batches(store, spec.batch_tokens, spec.seed, "output" if spec.architecture == "sae" else "input", where)
    trainer = Trainer(spec, batches.at(0), where)
    checkpoints = Checkpoints(output / CHECKPOINTS, _digest(spec, index))
    if found := checkpoints.latest():
        trainer.load(found.step, found.tensors)
        print(f"going on from the checkpoint after step {found.step:,}", file=sys.stderr, flush=True)
    _loop(trainer, batches, checkpoints, output, checkpoint_seconds)
    trainer.finish()
    save_coder(trainer.coder, spec, output, trainer.log.frame())
    checkpoints.remove()


def _check(spec: CoderSpec, store: ActivationStore, index: Path) -> None:
    if store.width != spec.width:
        raise UserError(
            f"the activations have width {store.width} and the coder {spec.width}",
            where=str(index),
            fix="set the model's `width` to that of its MLP output",
        )
    if spec.tokens < spec.batch_tokens:
        raise UserError(
            f"{spec.tokens} tokens are fewer than one batch of {spec.batch_tokens}",
            where="training.tokens",
            fix="raise it, or lower `training.batch_tokens`",
        )


def _tidy(output: Path) -> None:
    """Remove what a killed or a diverged run left in the folder."""
    for path in [*output.glob(".*.part"), *(output / name for name in DIVERGED)]:
        path.unlink(missing_ok=True)


def _digest(spec: CoderSpec, index: Path) -> str:
    """What a checkpoint must share with the run that goes on from it: spec, activations (their SHA-256) and code."""
    code = fingerprint("bsc.training.train", REGISTRY[spec.binariser].module)
    return digest(spec.model_dump(), read_json(index), code)


def _loop(trainer: Trainer, batches: Batches, checkpoints: Checkpoints, output: Path, checkpoint_seconds: float) -> None:
    spec, steps = trainer.spec, range(trainer.step, trainer.steps)
    fetch_every, saved_at = _FETCH_EVERY[trainer.device.type], time.monotonic()
    with (
        Interruption() as interruption,
        closing(prefetched(batches.at, steps)) as upcoming,
        Progress(
            job_label("train", output), trainer.steps * spec.batch_tokens, "tokens", done=trainer.step * spec.batch_tokens
        ) as progress,
    ):
        for batch in upcoming:
            trainer.advance(batch)
            due = bool(interruption.received) or time.monotonic() - saved_at >= checkpoint_seconds
            if due or trainer.step % fetch_every == 0 or trainer.step == trainer.steps:
                _fetch(trainer, output, progress)
            if due:
                checkpoints.save(trainer.step, trainer.tensors())
                saved_at = time.monotonic()
            if interruption.received and trainer.step < trainer.steps:
                raise _stopped(interruption.received.name, trainer.step)


def _fetch(trainer: Trainer, output: Path, progress: Progress) -> None:
    rows = trainer.log.fetch()
    raise_if_diverged(trainer, rows, output)
    progress.advance(len(rows) * trainer.spec.batch_tokens, f"FVU {rows[-1, 2]:.3f}")


def _stopped(signal: str, step: int) -> SystemExit:
    told = f"stopped by {signal} after step {step:,}; the same command goes on from there"
    print(told, file=sys.stderr, flush=True)
    return SystemExit(EXIT_CODE)
