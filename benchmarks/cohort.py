"""A cohort of 8 coders that makes its activations as it goes, over one forward pass and 8 bare steps, in the same run.

    python benchmarks/cohort.py

Needs the model and the tokens of config/config.yaml: run the demo first. Prints, and writes to benchmarks/results/cohort.json,
microseconds of processor time a token (of all threads, so that other work on the machine counts little): of the model up to the
hookpoint, of `Trainer.advance` of 8 coders on a batch that is there, and of the loop of `bsc cohort`; and the last over the
sum of the others. Of the cohort it is the difference between two lengths of training, which leaves loading out.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from machine import facts, record

from bsc.activations.recipe import write_recipe
from bsc.activations.stream import open_activations
from bsc.config import load
from bsc.device import device, keep_freed_memory
from bsc.paths import MODEL, TOKENS
from bsc.stages import Plan
from bsc.training import batches, loop
from bsc.training.trainer import Trainer

MEMBERS, SHARD, STEPS_A_SHARD = 8, 16, 4
"""Coders; contexts in a shard; steps that a shard lasts for, so that no length leaves a part of one."""


def processor_seconds(case: Callable[[], object]) -> float:
    begun = time.process_time()
    case()
    return time.process_time() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("config/config.yaml"))
    parser.add_argument("--results", type=Path, help="the results folder, by default the config's")
    parser.add_argument("--shards", type=int, default=3, help="shards a round")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()

    keep_freed_memory()
    torch.set_num_threads(1)
    plan = Plan(load([arguments.config]))
    results = arguments.results or Path(plan.config.results)
    coders = [coder for coder in plan.config.coder_ids if coder.seed == 1 and coder.architecture != "sae"][:MEMBERS]
    name, hookpoint, context = coders[0].model, coders[0].hookpoint, plan.context("train")
    tokens = SHARD * (context - 1) // STEPS_A_SHARD
    steps = arguments.shards * STEPS_A_SHARD
    window = SHARD * context * 4 * plan.config.models[name].width
    loop.WINDOW_BYTES = batches.WINDOW_BYTES = window

    with tempfile.TemporaryDirectory() as folder:
        index = Path(folder) / "recipe.json"
        recipe = plan.recipe(name, hookpoint).spec.model_copy(update={"shard_contexts": SHARD})
        write_recipe(recipe, results / MODEL.format(model=name), results / TOKENS.format(model=name), index)

        def cohort(length: int) -> None:
            changes = {"batch_tokens": tokens, "tokens": length * tokens, "warmup_steps": 1}
            specs = [plan.coder(coder).spec.model_copy(update=changes) for coder in coders]
            with tempfile.TemporaryDirectory() as output:
                loop.run([loop.Task(spec, Path(output) / str(n)) for n, spec in enumerate(specs)], index, 1e9)

        store = open_activations(index, kept_bytes=window, between=lambda: None)
        changes = {"batch_tokens": tokens, "tokens": 10**9}
        batch = batches.Batches(store, tokens, 1, "input", device()).at(0)
        trainers = [Trainer(plan.coder(coder).spec.model_copy(update=changes), batch, device()) for coder in coders]

        def forward() -> None:
            for shard in store.shards[1 : arguments.shards + 1]:
                shard.source.shard(shard.first_row, shard.rows)  # type: ignore[attr-defined]

        def bare() -> None:
            for trainer in trainers * steps:
                trainer.advance(batch)
                trainer.log.fetch()

        cases: dict[str, Callable[[], float]] = {
            "forward": lambda: processor_seconds(forward),
            "8 bare steps": lambda: processor_seconds(bare),
            "cohort": lambda: processor_seconds(lambda: cohort(2 * steps)) - processor_seconds(lambda: cohort(steps)),
        }
        taken = {case: statistics.median(measure() for _ in range(arguments.rounds)) for case, measure in cases.items()}
    measured = {
        "coders": [str(coder) for coder in coders],
        "microseconds_a_token": {case: round(1e6 * seconds / (steps * tokens), 1) for case, seconds in taken.items()},
        "cohort_over_parts": round(taken["cohort"] / (taken["forward"] + taken["8 bare steps"]), 3),
    }
    print(facts(), measured, sep="\n")
    record("cohort", f"M={plan.config.latents(name)} N={tokens}", measured)


if __name__ == "__main__":
    main()
