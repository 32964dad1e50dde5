"""The stage `bsc runtime`: how long a training step takes, by k, batch and number of latents (the figure `runtime`, *ours*)."""

import time
from pathlib import Path

import pandas as pd
import torch

from bsc.device import device, machine
from bsc.io import write_manifest, write_parquet
from bsc.progress import Progress, job_label
from bsc.stages import CoderSpec, RuntimeSpec
from bsc.training.batches import Batch
from bsc.training.trainer import Trainer

STEPS = "steps.parquet"


def time_steps(spec: RuntimeSpec, output: Path) -> None:
    """Write `steps.parquet`, a row a case of the spec: what is `varied`, the case, and its `milliseconds` a step.

    A step is forward, backward and optimiser, on random inputs with targets that are a function of them. In each round every
    coder is made anew and takes its turn, so that ratios mean something on a machine that does other things too.
    `milliseconds` is the median of `steps` over all rounds; `fastest` and `slowest` are their ends. The manifest has the
    machine, and the threads that the steps had. What two cases have in common is measured once.
    """
    coders, place = spec.coders, device()
    most = max(coders.values(), key=lambda coder: coder.batch_tokens)
    data = _data(most.batch_tokens, most.width, place)
    times: dict[str, list[float]] = {name: [] for name in coders}
    with Progress(job_label("runtime", output), spec.rounds * len(coders), "coders") as progress:
        for _ in range(spec.rounds):
            for name, coder in coders.items():
                batch = Batch(data.x[: coder.batch_tokens], data.y[: coder.batch_tokens])
                times[name] += _timed(coder, batch, place, spec.steps)
                progress.advance(1)
    rows = []
    for case in spec.cases:
        found = pd.Series(times[case.coder.json_text]) * 1000
        sizes = {name: getattr(case.coder, name) for name in ("width", "k", "batch_tokens", "latents")}
        summed = {"milliseconds": found.median(), "fastest": found.min(), "slowest": found.max(), "steps": len(found)}
        rows.append(
            {"varied": case.varied, "architecture": case.coder.architecture, "binariser": case.binariser, **sizes, **summed}
        )
    write_parquet(output / STEPS, pd.DataFrame(rows))
    write_manifest(output, [STEPS], {"machine": machine(), "threads": torch.get_num_threads(), "torch": torch.__version__})


def _data(tokens: int, width: int, place: torch.device) -> Batch:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(tokens, width, generator=generator)
    y = torch.tanh(x @ torch.randn(width, width, generator=generator) / width**0.5)
    return Batch(x.to(place), y.to(place))


def _timed(spec: CoderSpec, batch: Batch, place: torch.device, steps: int) -> list[float]:
    """Seconds of each step but the first."""
    trainer = Trainer(spec, batch, place)
    trainer.advance(batch)
    found = []
    for _ in range(steps):
        _wait(place)
        began = time.perf_counter()
        trainer.advance(batch)
        _wait(place)
        found.append(time.perf_counter() - began)
    return found


def _wait(place: torch.device) -> None:
    if place.type == "cuda":
        torch.cuda.synchronize(place)
