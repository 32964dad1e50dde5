"""The training loop on stored activations beside the bare step on one batch that is in memory already, in the same run.

    python benchmarks/loop.py

Needs the activations of config/config.yaml: run the demo first. Prints, and writes to benchmarks/results/loop.json, tokens a
second of `Trainer.advance` on one batch over and over, and of the loop of `bsc train` (rows gathered from the memory-mapped
shards by a thread ahead of it), for a coder of the config; and their ratio.
"""

import argparse
from contextlib import closing
from pathlib import Path

import torch
from machine import facts, medians, record

from bsc.activations.store import ActivationStore
from bsc.config import load
from bsc.device import device, keep_freed_memory
from bsc.paths import INDEX
from bsc.stages import Plan
from bsc.training.batches import Batches, prefetched
from bsc.training.trainer import Trainer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("config/config.yaml"))
    parser.add_argument("--steps", type=int, default=40, help="steps a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="of the step; a job of the demo has one core")
    arguments = parser.parse_args()

    keep_freed_memory()
    torch.set_num_threads(arguments.threads)
    plan = Plan(load([arguments.config]))
    coder = plan.config.coder_ids[0]
    spec = plan.coder(coder).spec
    index = Path(plan.config.results) / INDEX.format(model=coder.model, hookpoint=coder.hookpoint, split="train")
    batches = Batches(ActivationStore.open(index), spec.batch_tokens, spec.seed, "input", device())
    first = batches.at(0)
    trainer = Trainer(spec.model_copy(update={"tokens": 10**9}), first, device())

    def bare() -> None:
        for _ in range(arguments.steps):
            trainer.advance(first)
            trainer.log.fetch()

    def loop() -> None:
        with closing(prefetched(batches.at, range(trainer.step, trainer.step + arguments.steps))) as upcoming:
            for batch in upcoming:
                trainer.advance(batch)
                trainer.log.fetch()

    taken = medians({"bare step": bare, "loop": loop}, arguments.rounds)
    tokens = arguments.steps * spec.batch_tokens
    measured = {
        "coder": str(coder),
        "tokens_per_second": {case: round(1e3 * tokens / milliseconds) for case, milliseconds in taken.items()},
        "loop_over_bare": round(taken["bare step"] / taken["loop"], 3),
    }
    print(facts(), measured, sep="\n")
    record("loop", f"M={spec.latents} k={spec.k} N={spec.batch_tokens}", measured)


if __name__ == "__main__":
    main()
