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
from typing import Any

import pandas as pd

from bsc.activations.store import ActivationStore
from bsc.coders.binarisers.registry import REGISTRY
from bsc.coders.load import load_coder
from bsc.config import load
from bsc.paths import INDEX, CoderId
from bsc.stages import Plan
from bsc.training.trial import held_out_fvu

RATES = (2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2, 6.4e-2)
KEY = ["architecture", "binariser", "k", "learning_rate"]


def parser(description: str | None) -> argparse.ArgumentParser:
    """Of a benchmark's arguments: the config, and how many coders are trained side by side."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--config", type=Path, default=Path("config/config.yaml"))
    made.add_argument("--jobs", type=int, default=2, help="coders trained side by side")
    return made


class Trainings:
    """Of a config whose activations are there: its plan, its first coder and its largest k."""

    def __init__(self, config: Path) -> None:
        self.plan = Plan(load([config]))
        coders = self.plan.config.coder_ids
        self.first, self.k = coders[0], max(coder.k for coder in coders)
        self._train, self._held = (
            Path(self.plan.config.results) / INDEX.format(model=self.first.model, hookpoint=self.first.hookpoint, split=split)
            for split in ("train", "interpretation")
        )

    def fvu(self, architecture: str, binariser: str, *, statement: str = "", **changes: Any) -> float:
        """Of a coder of the largest k, on the interpretation split; NaN where training fails.

        statement: what its process begins with. changes: of its spec.
        """
        coder = CoderId(self.first.model, self.first.hookpoint, architecture, binariser, self.k, 1)
        spec = self.plan.coder(coder).spec.model_copy(update=changes)
        with tempfile.TemporaryDirectory() as folder:
            program = [sys.executable, "-c", f"{statement}\nfrom bsc.cli import main\nraise SystemExit(main())"]
            options = ["train", "--spec", spec.json_text, "--activations", str(self._train), "--output", folder]
            finished = subprocess.run([*program, *options], capture_output=True, text=True)
            if finished.returncode:
                print(finished.stderr[-500:], file=sys.stderr)
                return float("nan")
            return held_out_fvu(load_coder(Path(folder)), ActivationStore.open(self._held, verify=False))


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--output", type=Path, default=Path("benchmarks/results/learning_rates.csv"))
    options.add_argument("--rates", type=float, nargs="+", default=RATES)
    options.add_argument("--binarisers", nargs="+", default=list(REGISTRY), help="which of the config's (all)")
    arguments = options.parse_args()

    trainings = Trainings(arguments.config)
    coders = trainings.plan.config.coder_ids
    kinds = sorted({(c.architecture, c.binariser) for c in coders if c.binariser in arguments.binarisers})

    def measure(task: tuple[tuple[str, str], float]) -> dict[str, object]:
        kind, rate = task
        row = {**dict(zip(KEY, (*kind, trainings.k, rate), strict=True)), "fvu": trainings.fvu(*kind, learning_rate=rate)}
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
