"""`bsc estimate`: what a config costs, in lines to print."""

from collections.abc import Iterator
from pathlib import Path

from bsc.activations.disk import BFLOAT16, WINDOW_BYTES, describe_disk
from bsc.config import Config, load
from bsc.errors import UserError
from bsc.estimate.jobs import Jobs, Row
from bsc.estimate.machines import Machine

_HEADER = ("rule", "jobs", "in all", "longest", "memory", "GPU memory")


def report(files: list[Path], machine: Machine, at_once: int | None = None) -> str:
    """The table of a config's jobs, the total, the time with `at_once` jobs at a time, tokens, disk, and what to look out for.

    Raises UserError when the config has faults, or `at_once` is below 1.
    """
    config = load(files)
    places = machine.jobs if at_once is None else at_once
    if places < 1:
        raise UserError(f"{places} jobs at a time", where="--jobs", fix="give a number from 1 on")
    jobs = Jobs(config, machine)
    rows = jobs.rows()
    lines = [
        f"{', '.join(map(str, files))} on {machine.name}: {machine.source}",
        "",
        *_table(rows, gpu=machine.gpu),
        "",
        _totals(rows, machine),
        f"time: about {_time(jobs.wall_seconds(places))} with {places} jobs at a time, if each finds a free place at once",
        *(_split(jobs, name) for name, _ in config.corpus.splits),
        describe_disk(config),
        *_asked(jobs),
        *_room(rows, jobs),
        *_warnings(config, jobs),
    ]
    return "\n".join(lines)


def _table(rows: list[Row], *, gpu: bool) -> Iterator[str]:
    lines = [_HEADER, *map(_cells, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEADER) - (not gpu))]
    for line in lines:
        padded = [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=False)]
        yield "  ".join([line[0].ljust(widths[0]), *padded]).rstrip()


def _cells(row: Row) -> tuple[str, ...]:
    device = f"{row.device / 1e9:,.1f} GB" if row.gpu else ""
    return row.rule, f"{row.jobs:,}", _time(row.seconds), _time(row.longest), f"{row.memory / 1e9:,.1f} GB", device


def _totals(rows: list[Row], machine: Machine) -> str:
    count = sum(row.jobs for row in rows)
    gpu, rest = (_time(sum(row.seconds for row in rows if row.gpu == on_gpu)) for on_gpu in (True, False))
    return f"total: {count:,} jobs, {f'{gpu} on a GPU and {rest} without one' if machine.gpu else rest}"


def _split(jobs: Jobs, name: str) -> str:
    plan = jobs.plan
    return f"tokens, {name}: {plan.rows(name):,} in {plan.contexts(name):,} contexts of {plan.context(name):,}"


def _asked(jobs: Jobs) -> list[str]:
    """What language models are asked."""
    if not jobs.config.autointerp.llms:
        return []
    from bsc.autointerp.estimate import totals  # which reads what is there, with pandas

    note = "the time that language models take is not in here; `bsc autointerp estimate` says what each coder asks of them"
    return [*totals(jobs.plan), note]


def _room(rows: list[Row], jobs: Jobs) -> Iterator[str]:
    """How far a GPU's memory goes, and which jobs are beyond it."""
    there = jobs.machine.device
    if jobs.machine.gpu:
        yield f"cohorts: a GPU of {there / 1e9:,.0f} GB trains {jobs.most_together():,} of these coders at a time, at the most"
    for row in rows:
        if row.gpu and row.device > there:
            needs = f"`{row.rule}` needs {row.device / 1e9:,.1f} GB of a GPU with {there / 1e9:,.0f}"
            yield f"look out: {needs}. Lower `cohort`, `training.expansion` or the batches"


def _warnings(config: Config, jobs: Jobs) -> Iterator[str]:
    """What the table leaves out, and what it may get wrong.

    Training reads rows in random order within a shard (or several small ones): that has to fit into the page cache.
    """
    for name, model in config.models.items():
        row = 2 * BFLOAT16 * model.width
        shard = min(config.activations.shard_tokens, jobs.plan.rows("train"))
        if shard * row > WINDOW_BYTES:
            yield (
                f"look out: a shard of `{name}` has {shard * row / 1e9:,.1f} GB a hookpoint. Training shuffles a shard at a "
                f"time: a job needs that much memory, or reads rows one by one, far more slowly than this estimate says. With "
                f"`activations.shard_tokens` of {WINDOW_BYTES // row:,} or less, {WINDOW_BYTES / 1e9:.1f} GB are enough"
            )


def _time(seconds: float) -> str:
    if seconds >= 3600:
        return f"{seconds / 3600:,.1f} h" if seconds < 360_000 else f"{seconds / 3600:,.0f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 100 else f"{seconds:.0f} s"
