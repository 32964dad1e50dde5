"""Whether bfloat16 products change what is learned: final held-out FVU beside float32's, seed by seed.

    python benchmarks/precision.py

Trains coders of a config at its largest k with the same activations, batches and initial weights in both precisions, and
prints their FVU on the interpretation split. Needs the activations: run the config first. Writes
benchmarks/results/precision.json.
"""

import argparse
import statistics
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from learning_rates import run
from machine import record, show

from bsc.config import load
from bsc.paths import INDEX, CoderId
from bsc.stages import Plan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("config/config.yaml"))
    parser.add_argument("--binarisers", nargs="+", default=["topk", "binary-topk"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--jobs", type=int, default=2, help="coders trained side by side")
    arguments = parser.parse_args()

    plan = Plan(load([arguments.config]))
    results, first = Path(plan.config.results), plan.config.coder_ids[0]
    k = max(coder.k for coder in plan.config.coder_ids)
    train, held = (
        results / INDEX.format(model=first.model, hookpoint=first.hookpoint, split=split)
        for split in ("train", "interpretation")
    )

    def measure(task: tuple[str, int, str]) -> float:
        binariser, seed, dtype = task
        coder = CoderId(first.model, first.hookpoint, "skip-transcoder", binariser, k, 1)
        fvu = run(plan.coder(coder).spec.model_copy(update={"seed": seed, "dtype": dtype}), train, held)
        print(*task, f"{fvu:.5f}", flush=True)
        return fvu

    tasks = [(b, seed, dtype) for b in arguments.binarisers for seed in arguments.seeds for dtype in ("float32", "bfloat16")]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        fvu = dict(zip(tasks, pool.map(measure, tasks), strict=True))
    measured = {
        binariser: {
            "float32": [round(fvu[binariser, seed, "float32"], 5) for seed in arguments.seeds],
            "bfloat16": [round(fvu[binariser, seed, "bfloat16"], 5) for seed in arguments.seeds],
            "mean_relative_difference": round(
                statistics.mean(
                    fvu[binariser, seed, "bfloat16"] / fvu[binariser, seed, "float32"] - 1 for seed in arguments.seeds
                ),
                5,
            ),
        }
        for binariser in arguments.binarisers
    }
    show(f"k={k}, {arguments.seeds} seeds", measured)
    record("precision", f"k={k}, {arguments.seeds} seeds", measured)


if __name__ == "__main__":
    main()
