"""Whether screening and bfloat16 products change what is learned: final held-out FVU beside the float32 product's, by seeds.

    python benchmarks/precision.py

Trains coders of a config at its largest k with the same activations, batches and initial weights: selected from the float32
product; by screening, where this CPU does that; and from the bfloat16 product, where that is fast. Prints their FVU on the
interpretation split. Needs the activations: run the config first. Writes benchmarks/results/precision.json.
"""

import statistics
from concurrent.futures import ThreadPoolExecutor

import torch
from learning_rates import Trainings, parser
from machine import record, show

from bsc.coders.kernels import screening
from bsc.device import has_fast_bfloat16

FLOAT32 = "float32 product"
_DENSE = "from bsc.coders.kernels import screening; screening.pays = lambda *sizes: False"
WAYS = {FLOAT32: ("float32", _DENSE), "screened": ("float32", ""), "bfloat16": ("bfloat16", _DENSE)}
"""The config's dtype, and what the process begins with."""


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--binarisers", nargs="+", default=["topk", "binary-topk"])
    options.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    arguments = options.parse_args()

    trainings = Trainings(arguments.config)

    def measure(task: tuple[str, int, str]) -> float:
        binariser, seed, way = task
        dtype, statement = WAYS[way]
        fvu = trainings.fvu("skip-transcoder", binariser, statement=statement, seed=seed, dtype=dtype)
        print(*task, f"{fvu:.5f}", flush=True)
        return fvu

    spec, k = trainings.plan.coder(trainings.first).spec, trainings.k
    screened = screening.pays(spec.batch_tokens, spec.latents, k)
    ways = [FLOAT32, *(["screened"] if screened else []), *(["bfloat16"] if has_fast_bfloat16(torch.device("cpu")) else [])]
    tasks = [(binariser, seed, way) for binariser in arguments.binarisers for seed in arguments.seeds for way in ways]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        fvu = dict(zip(tasks, pool.map(measure, tasks), strict=True))
    measured = {}
    for binariser in arguments.binarisers:
        for way in ways:
            of_seeds = [fvu[binariser, seed, way] for seed in arguments.seeds]
            plain = [fvu[binariser, seed, FLOAT32] for seed in arguments.seeds]
            measured[f"{binariser}, {way}"] = statistics.mean(of_seeds)
            if way != FLOAT32:
                ratios = [one / other for one, other in zip(of_seeds, plain, strict=True)]
                measured[f"{binariser}, {way}: over the float32 product's, less 1"] = statistics.mean(ratios) - 1
                measured[f"{binariser}, {way}: the same, largest of a seed"] = max((ratio - 1 for ratio in ratios), key=abs)
    measured = {case: round(value, 5) for case, value in measured.items()}
    show(f"k={k}, {arguments.seeds} seeds", measured)
    record("precision", f"k={k}, {arguments.seeds} seeds", measured)


if __name__ == "__main__":
    main()
