"""Which learning rate suits each binariser: a sweep on the activations of a config's first hookpoint.

Trains every (architecture, binariser) of a config at its largest k with each rate, on the config's own budget, and prints the
held-out FVU (on the interpretation split). Needs the activations: run the config first. Rows are added to those that the
output holds.

    python benchmarks/learning_rates.py
    python benchmarks/learning_rates.py --binarisers gumbel --rates 0.064 0.128
"""

import argparse
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd

from bsc.coders.binarisers.registry import REGISTRY
from bsc.config import load
from bsc.paths import INDEX, CoderId
from bsc.stages import CoderSpec, Plan

RATES = (2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2, 6.4e-2)
KEY = ["architecture", "binariser", "k", "learning_rate"]


def run(spec: CoderSpec, train: Path, held: Path, *, first: str = "") -> float:
    """Train one coder in a process of its own and measure it. first: a statement that the process begins with."""
    from bsc.activations.store import ActivationStore
    from bsc.coders.load import load_coder
    from bsc.training.trial import held_out_fvu

    with tempfile.TemporaryDirectory() as folder:
        program = [sys.executable, "-c", f"{first}\nfrom bsc.cli import main\nraise SystemExit(main())"]
        options = ["train", "--spec", spec.json_text, "--activations", str(train), "--output", folder]
        finished = subprocess.run([*program, *options], capture_output=True, text=True)
        if finished.returncode:
            print(finished.stderr[-500:], file=sys.stderr)
            return float("nan")
        return held_out_fvu(load_coder(Path(folder)), ActivationStore.open(held, verify=False))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("config/config.yaml"))
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/learning_rates.csv"))
    parser.add_argument("--jobs", type=int, default=2, help="coders trained side by side")
    parser.add_argument("--rates", type=float, nargs="+", default=RATES)
    parser.add_argument("--binarisers", nargs="+", default=list(REGISTRY), help="which of the config's (all)")
    arguments = parser.parse_args()

    plan = Plan(load([arguments.config]))
    results = Path(plan.config.results)
    largest = max(coder.k for coder in plan.config.coder_ids)
    first = plan.config.coder_ids[0]
    kinds = sorted({(c.architecture, c.binariser) for c in plan.config.coder_ids if c.binariser in arguments.binarisers})
    stores = {
        split: results / INDEX.format(model=first.model, hookpoint=first.hookpoint, split=split)
        for split in ("train", "interpretation")
    }

    def measure(task: tuple[tuple[str, str], float]) -> dict[str, object]:
        (architecture, binariser), rate = task
        coder = CoderId(first.model, first.hookpoint, architecture, binariser, largest, 1)
        spec = plan.coder(coder).spec.model_copy(update={"learning_rate": rate})
        row = {"architecture": architecture, "binariser": binariser, "k": largest, "learning_rate": rate}
        row["fvu"] = run(spec, stores["train"], stores["interpretation"])
        print(row, flush=True)
        return row

    with ThreadPoolExecutor(arguments.jobs) as pool:
        rows = list(pool.map(measure, [(kind, rate) for kind in kinds for rate in arguments.rates]))
    known = [pd.read_csv(arguments.output)] if arguments.output.exists() else []
    frame = pd.concat([*known, pd.DataFrame(rows)]).drop_duplicates(KEY, keep="last").sort_values(KEY)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    frame.to_csv(arguments.output, index=False)
    best = frame.loc[frame.groupby(["architecture", "binariser"]).fvu.idxmin()]
    print(best.to_string(index=False))


if __name__ == "__main__":
    main()
