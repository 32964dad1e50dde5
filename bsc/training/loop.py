"""The training loop: one coder, or several of the same seed and hookpoint on the same batches.

Each coder has weights, optimiser, noise, log and checkpoints of its own, so it comes out bit for bit as it would alone, and
may be resumed alone or in other company. Of coders whose checkpoints are of different steps, the earlier catch up first.
The ranks of a job go through the same steps, each with its own coders, or with its part of each batch.
"""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from bsc.activations.store import ActivationStore
from bsc.activations.stream import open_activations
from bsc.coders.binarisers.registry import REGISTRY
from bsc.device import device
from bsc.errors import UserError
from bsc.io import read_json
from bsc.progress import Progress, job_label
from bsc.ranks import ALONE, Ranks
from bsc.spec import digest, fingerprint
from bsc.stages import CoderSpec
from bsc.training.batches import WINDOW_BYTES, Batch, Batches, Side, batches_at, prefetched
from bsc.training.checkpoints import Checkpoints
from bsc.training.divergence import DIVERGED, raise_if_diverged
from bsc.training.interruption import EXIT_CODE, Interruption, Stopped
from bsc.training.trainer import Trainer

CHECKPOINTS = "checkpoint"
_FETCH_EVERY = {"cpu": 1, "cuda": 50}
"""Steps between two looks at what was measured: each look waits for the device."""


class Task(NamedTuple):
    """A coder to train, and its folder: checkpoints go under it, and the state where training diverged.

    data: what it is trained on: the index of its activations, or, in finetuning, a tokens folder. digest: of the coder's plan,
    spec, code and all that it is made of, by which its checkpoints are known; without one it is what `data` says.
    """

    spec: CoderSpec
    folder: Path
    data: Path
    digest: str | None = None


class Reading(Protocol):
    """Where batches come from, whatever they are."""

    def at(self, step: int) -> Any:
        """Batch number `step`."""


class Member:
    """A coder in training. error: set where it has diverged; it then takes no more steps.

    digest: what a checkpoint must share with this run. build: makes its trainer, told whether a checkpoint is loaded into it.
    take: has the trainer take a step on a batch. writes: whether it keeps checkpoints, or another rank does.
    """

    def __init__(
        self,
        task: Task,
        digest: str,
        build: Callable[[bool], Trainer],
        take: Callable[[Trainer, Any], None],
        *,
        writes: bool = True,
    ) -> None:
        self.task, self._take, self._writes = task, take, writes
        self.error: UserError | None = None
        self.checkpoints = Checkpoints(task.folder / CHECKPOINTS, digest)
        found = self.checkpoints.latest()
        self.trainer = build(found is not None)
        if found:
            self.trainer.load(found.step, found.tensors)
            print(f"going on from the checkpoint after step {found.step:,}", file=sys.stderr, flush=True)
        self._saved = self.trainer.step

    @property
    def open(self) -> bool:
        """Whether there are steps left for it to take."""
        return self.error is None and self.trainer.step < self.trainer.steps

    def advance(self, step: int, batch: Any) -> None:
        """Take step `step`, counted from 0, if that is the next one."""
        if self.open and self.trainer.step == step:
            self._take(self.trainer, batch)

    def fetch(self) -> str:
        """Look at what the last steps measured; returns the last of it in words."""
        rows = self.trainer.log.fetch()
        try:
            raise_if_diverged(self.trainer, rows, self.task.folder, writes=self._writes)
        except UserError as error:
            self.error = error
        return self.trainer.log.last() if len(rows) else ""

    def save(self) -> None:
        """Write a checkpoint of the steps that were fetched, if there are new ones."""
        if self._writes and self.error is None and self.trainer.step > self._saved:
            self.checkpoints.save(self.trainer.step, self.trainer.tensors())
            self._saved = self.trainer.step

    def leave(self) -> None:
        """Leave the last state, and no other, to the job that writes the coder; where training diverged, what there was."""
        self.save()
        if self._writes and self.error is None:
            self.checkpoints.keep(1)


class _Reading:
    """The batches of tasks that read the same rows. The activations are opened, and checked, when one is asked for."""

    def __init__(self, tasks: Sequence[Task], interruption: Interruption, ranks: Ranks) -> None:
        self._tasks, self._interruption, self._ranks = tasks, interruption, ranks

    def at(self, step: int) -> dict[Path, Batch]:
        """Batch number `step` of each index."""
        return dict(zip(self._batches, batches_at(list(self._batches.values()), step), strict=True))

    @cached_property
    def _batches(self) -> dict[Path, Batches]:
        # A rank does not leave the others in the middle of what they make together.
        between = self._interruption.check if self._ranks.size == 1 else lambda: None
        indices = list(dict.fromkeys(task.data for task in self._tasks))
        stores = open_activations(indices, kept_bytes=WINDOW_BYTES, between=between, ranks=self._ranks)
        _check_same_rows(stores)
        return {index: self._cut(store, index) for index, store in stores.items()}

    def _cut(self, store: ActivationStore, index: Path) -> Batches:
        specs = [task.spec for task in self._tasks if task.data == index]
        _check(specs[0], store, index)
        side: Side = "output" if all(spec.architecture == "sae" for spec in specs) else "input"
        return Batches(store, specs[0].batch_tokens, specs[0].seed, side, device())


def run(tasks: Sequence[Task], checkpoint_seconds: float, ranks: Ranks = ALONE) -> list[Member]:
    """Train coders on the activations that their indices stand for; those that have checkpoints go on from there.

    Returns those of this rank; every rank calls it with all the tasks of the job.

    The state is saved under each `folder/checkpoint` every `checkpoint_seconds` (0: after each step), and when SIGTERM, SIGINT
    or SIGUSR2 says to stop: the process then ends with exit code 75 (EX_TEMPFAIL). A coder whose training diverges drops out
    and has its `error`; the others go on. Nothing is written under a coder's final names.

    Raises UserError when the activations do not fit the specs, these do not read the same batches, or the disk is full;
    CorruptFile for a damaged shard.
    """
    _check_together([task.spec for task in tasks], ranks)

    def start(reading: Reading) -> Iterator[Member]:
        first = cache(lambda: reading.at(0))
        if ranks.size > 1:
            first()  # together, whichever of them need it
        return (_member(task, first, ranks) for task in ranks.own(tasks))

    def read(interruption: Interruption) -> Reading:
        return _Reading(tasks, interruption, ranks)

    return drive("train", tasks, read, start, checkpoint_seconds, ranks)


def drive(
    stage: str,
    tasks: Sequence[Task],
    read: Callable[[Interruption], Reading],
    start: Callable[[Reading], Iterator[Member]],
    checkpoint_seconds: float,
    ranks: Ranks = ALONE,
) -> list[Member]:
    """Take the tasks' members, which `start` makes, to their last steps, on the batches of `read`; see `run`."""
    if ranks.rank == 0:
        for task in tasks:
            _tidy(task.folder)
    with Interruption(once=ranks.size > 1) as interruption:
        reading = read(interruption)
        members: list[Member] = []
        try:
            members.extend(start(reading))
            _loop(stage, tasks, members, reading, _Pace(interruption, checkpoint_seconds, ranks))
        except Stopped as stopped:
            step = min((member.trainer.step for member in members), default=0)
            print(f"{stopped} after step {step:,}; the same command goes on from there", file=sys.stderr, flush=True)
            raise SystemExit(EXIT_CODE) from None
    return members


def _member(task: Task, first: Callable[[], dict[Path, Batch]], ranks: Ranks) -> Member:
    def view(batches: dict[Path, Batch]) -> Batch:
        """What the coder sees: of the module's input, an SAE nothing."""
        batch = batches[task.data]
        return Batch(batch.y, batch.y) if task.spec.architecture == "sae" else batch

    def build(resumed: bool) -> Trainer:
        return Trainer(task.spec, None if resumed else view(first()), device(), ranks=ranks)

    def take(trainer: Trainer, batches: dict[Path, Batch]) -> None:
        trainer.advance(view(batches))

    return Member(task, _digest(task), build, take, writes=ranks.writes)


class _Pace:
    """When a run saves, and when it is over: what its ranks have to agree on is agreed on at every step."""

    def __init__(self, interruption: Interruption, checkpoint_seconds: float, ranks: Ranks) -> None:
        self._interruption, self._seconds, self.ranks = interruption, checkpoint_seconds, ranks
        self._saved_at = time.monotonic()
        self.due = self.told = False

    def agree(self) -> None:
        """Set, for all ranks alike, whether a checkpoint is `due`, and whether one was `told` to stop or has lost torchrun."""
        due, told = time.monotonic() - self._saved_at >= self._seconds, self._interruption.received is not None
        self.due, self.told = self.ranks.any(due, told or self.ranks.orphaned)

    def save(self, members: list[Member]) -> None:
        """Write checkpoints; the next ones are due so many seconds from now."""
        _fetch_and_save(members)
        self._saved_at = time.monotonic()

    def go_on(self, members: list[Member]) -> bool:
        """Whether any rank has steps to take. Raises Stopped if that is so and one was told to stop."""
        (is_open,) = self.ranks.any(any(member.open for member in members))
        if is_open and self.told:
            self._interruption.check()
            raise Stopped("stopped by another rank, or for want of torchrun")
        return is_open


def _loop(stage: str, tasks: Sequence[Task], members: list[Member], reading: Reading, pace: _Pace) -> None:
    """Steps until every member is through. Raises Stopped, with the state saved, when told to stop."""
    spec, fetch_every = tasks[0].spec, _FETCH_EVERY[device().type]
    steps, tokens = spec.tokens // spec.batch_tokens, spec.batch_tokens
    done = pace.ranks.least(min((member.trainer.step for member in members), default=steps))
    with (
        closing(prefetched(reading.at, range(done, steps), finish=pace.ranks.size > 1)) as upcoming,
        Progress(_label(stage, tasks, members), steps * tokens, "tokens", done=done * tokens) as progress,
    ):
        try:
            for step, batch in enumerate(upcoming, done):
                for member in members:
                    member.advance(step, batch)
                pace.agree()
                if pace.due or (step + 1) % fetch_every == 0 or step + 1 == steps:
                    said = filter(None, [member.fetch() for member in members])
                    progress.advance((step + 1 - done) * tokens, ", ".join(said))
                    done = step + 1
                if pace.due:
                    pace.save(members)
                if not pace.go_on(members):
                    return
        except Stopped:
            _fetch_and_save(members)  # before the wait for batches that are being made
            pace.ranks.any(False)  # torchrun gives those who are left half a minute once the first has gone
            raise


def _label(stage: str, tasks: Sequence[Task], members: list[Member]) -> str:
    if not members:
        return job_label(stage, tasks[0].folder.parent) + ", activations only"
    return job_label(stage, members[0].task.folder) + (f" and {len(members) - 1} more" if len(members) > 1 else "")


def _fetch_and_save(members: list[Member]) -> None:
    for member in members:
        member.fetch()
        member.save()


def _check_together(specs: list[CoderSpec], ranks: Ranks) -> None:
    for name in ("width", "seed", "tokens", "batch_tokens"):
        if len({getattr(spec, name) for spec in specs}) > 1:
            raise UserError(f"these coders differ in `{name}` and read other batches", where="--spec", fix="train them apart")
    if specs[0].batch_tokens % ranks.replicas:
        what = f"a batch of {specs[0].batch_tokens} tokens has no {ranks.replicas} equal parts"
        raise UserError(what, where="training.batch_tokens", fix="make it a multiple of `gpus`")


def _check_same_rows(stores: dict[Path, ActivationStore]) -> None:
    (one, first), *others = stores.items()
    shards = [(shard.first_row, shard.rows) for shard in first.shards]
    for index, store in others:
        if store.context != first.context or [(shard.first_row, shard.rows) for shard in store.shards] != shards:
            what = f"its rows are not those of {one}, or lie in other shards"
            raise UserError(what, where=str(index), fix="train on the two apart, or make both from one config")


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


def _tidy(folder: Path) -> None:
    """Remove what a killed or a diverged run left in the folder."""
    for path in [*folder.glob(".*.part"), *(folder / name for name in DIVERGED)]:
        path.unlink(missing_ok=True)


def _digest(task: Task) -> str:
    """What a checkpoint must share with the run that goes on from it: spec, code, and activations.

    A plan's digest stands for the activations whether they are stored or made as they are read; else their SHA-256 do.
    """
    code = fingerprint("bsc.training.loop", REGISTRY[task.spec.binariser].module)
    return digest(task.spec.model_dump(), task.digest or read_json(task.data), code)
