"""The training loop on stored activations beside the bare step on batches that are in memory already, in the same run.

    python benchmarks/loop.py

Needs the activations of config/config.yaml: run the demo first. Prints, and writes to benchmarks/results/loop.json, tokens a
second of `Trainer.advance` on the first batches of the run, and of the loop of `bsc train`, less what it takes to start (rows
gathered from the memory-mapped shards by a thread ahead of it, progress, log), for a coder of the config; and their ratio.
"""

import argparse
import os
import tempfile
from pathlib import Path

import torch
from machine import medians, record, show

from bsc.activations.store import ActivationStore
from bsc.config import load
from bsc.device import device, keep_freed_memory
from bsc.paths import INDEX
from bsc.stages import Plan
from bsc.training.batches import Batches, Side
from bsc.training.loop import Task, run
from bsc.training.trainer import Trainer

_EVER = 1e9  # seconds: no checkpoints


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("config/config.yaml"))
    parser.add_argument("--steps", type=int, default=40, help="steps a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cores", type=int, default=1, help="of this process; a job of the demo has one")
    parser.add_argument("--no-record", action="store_true", help="print only")
    arguments = parser.parse_args()

    keep_freed_memory()
    torch.set_num_threads(arguments.cores)
    if hasattr(os, "sched_setaffinity"):  # the thread that reads ahead has no other core either
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.cores])
    plan = Plan(load([arguments.config]))
    coder = plan.config.coder_ids[0]
    spec = plan.coder(coder).spec
    index = Path(plan.config.results) / INDEX.format(model=coder.model, hookpoint=coder.hookpoint, split="train")
    side: Side = "output" if spec.architecture == "sae" else "input"
    batches = Batches(ActivationStore.open(index), spec.batch_tokens, spec.seed, side, device())
    read = [batches.at(step) for step in range(arguments.steps)]
    trainer = Trainer(spec.model_copy(update={"tokens": 10**9}), read[0], device())

    def bare() -> None:
        for batch in read:
            trainer.advance(batch)
            trainer.log.fetch()

    def loop(steps: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            run([Task(spec.model_copy(update={"tokens": steps * spec.batch_tokens}), Path(folder), index)], _EVER)

    cases = {"bare step": bare, "loop": lambda: loop(arguments.steps + 1), "a loop of one step": lambda: loop(1)}
    taken = medians(cases, arguments.rounds)
    taken["loop"] -= taken.pop("a loop of one step")
    tokens = arguments.steps * spec.batch_tokens
    measured = {
        "coder": str(coder),
        "tokens_per_second": {case: round(1e3 * tokens / milliseconds) for case, milliseconds in taken.items()},
        "loop_over_bare": round(taken["bare step"] / taken["loop"], 3),
    }
    name = f"M={spec.latents} k={spec.k} N={spec.batch_tokens}"
    show(name, measured)
    if not arguments.no_record:
        record("loop", name, measured)


if __name__ == "__main__":
    main()
