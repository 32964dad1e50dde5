"""Eight coders of a hookpoint trained in one job that makes its activations, beside the parts that this cannot avoid.

    python benchmarks/cohort.py

Needs the model and the tokens of config/config.yaml: `snakemake -c2 results/tokens/smollm2-135m-instruct/manifest.json`. In one
run and in turn: the loop of `bsc cohort` on streamed activations; the language model's forward up to the hookpoint on the same
tokens; and for each coder the bare step on one batch that is in memory already. Prints, and writes to
benchmarks/results/cohort.json, milliseconds a thousand tokens of each, and the cohort over the sum of the others.
"""

import argparse
import tempfile
from collections.abc import Callable
from itertools import cycle
from pathlib import Path

from machine import medians, record, show

from bsc.activations.recipe import write_recipe
from bsc.activations.stream import Forward
from bsc.config import load
from bsc.device import device, keep_freed_memory
from bsc.paths import CoderId
from bsc.stages import CoderSpec, Plan, RecipeSpec
from bsc.training.batches import Batch
from bsc.training.loop import Task, run
from bsc.training.trainer import Trainer

_EVER = 1e9  # seconds: no checkpoints


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("config/config.yaml"))
    parser.add_argument("--results", type=Path, default=Path("results"), help="the folder that models and tokens are in")
    parser.add_argument("--steps", type=int, default=32, help="steps a round")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()

    keep_freed_memory()
    plan = Plan(load([arguments.config]))
    name, hooked = next(iter(plan.config.models.items()))
    specs = _members(plan, name, hooked.hookpoints[0], arguments.steps)
    tokens = arguments.steps * specs[0].batch_tokens
    recipe = _recipe(plan, name, hooked.hookpoints[0], tokens)
    folders = [arguments.results / part / name for part in ("models", "tokens")]
    longer = recipe.model_copy(update={"contexts": recipe.contexts + 1})
    forward = Forward([longer], *folders, kept_rows=1, between=lambda: None)
    rows, firsts = recipe.contexts * forward.context, cycle((forward.context, 0))  # in turn: the last one made is kept
    x, y = (side[: specs[0].batch_tokens].float() for side in forward.shard(recipe.hookpoint, 0, rows))

    def cohort() -> None:
        with tempfile.TemporaryDirectory(dir=arguments.results) as folder:
            index = Path(folder, "index.json")
            write_recipe(recipe, *folders, index)
            run([Task(spec, Path(folder, str(number)), index) for number, spec in enumerate(specs)], _EVER)

    def start() -> None:
        Forward([recipe], *folders, kept_rows=1, between=lambda: None)

    cases: dict[str, Callable[[], object]] = {"cohort": cohort, "loading the model": start}
    cases["forward"] = lambda: forward.shard(recipe.hookpoint, next(firsts), rows)
    for number, spec in enumerate(specs):
        cases[f"{number}: {spec.binariser}, k = {spec.k}"] = _bare(spec, Batch(x, y), arguments.steps)
    taken = medians(cases, arguments.rounds)
    starting = taken.pop("loading the model")
    taken["cohort"] -= starting
    parts = sum(taken.values()) - taken["cohort"]
    measured = {
        "latents": specs[0].latents,
        "milliseconds_a_thousand_tokens": {case: round(1e3 * spent / tokens, 1) for case, spent in taken.items()},
        "cohort_over_its_parts": round(taken["cohort"] / parts, 3),
    }
    name = f"{len(specs)} coders, M={specs[0].latents} N={specs[0].batch_tokens}"
    show(name, measured)
    record("cohort", name, measured)


def _members(plan: Plan, model: str, hookpoint: str, steps: int) -> list[CoderSpec]:
    """Eight skip-transcoders, four binarisers at two k."""
    binarisers = ("topk", "binary-topk", "binary-groupmax", "gumbel")
    found = [
        plan.coder(CoderId(model, hookpoint, "skip-transcoder", binariser, k, 1)).spec
        for binariser in binarisers
        for k in (16, 32)
    ]
    return [spec.model_copy(update={"tokens": steps * spec.batch_tokens}) for spec in found if isinstance(spec, CoderSpec)]


def _recipe(plan: Plan, model: str, hookpoint: str, tokens: int) -> RecipeSpec:
    """Contexts enough for so many usable rows, once."""
    spec = plan.recipe(model, hookpoint).spec
    assert isinstance(spec, RecipeSpec)
    context = plan.context("train")
    contexts = -(-tokens // (context - 1))
    return spec.model_copy(update={"contexts": contexts, "shard_contexts": contexts})


def _bare(spec: CoderSpec, batch: Batch, steps: int) -> Callable[[], object]:
    trainer = Trainer(spec.model_copy(update={"tokens": 10**9}), batch, device())

    def advance() -> None:
        for _ in range(steps):
            trainer.advance(batch)
            trainer.log.fetch()

    return advance


if __name__ == "__main__":
    main()
