"""The stage `bsc choose`: which learning rate of a sweep is taken, and the curve that says why."""

import math
import sys
from pathlib import Path

from bsc.errors import UserError
from bsc.io import read_json, write_json
from bsc.stages import ChoiceSpec

RESULT = "choice.json"


def choose(spec: ChoiceSpec, trials: list[Path], output: Path) -> None:
    """Write `choice.json`: the `learning_rate` of the lowest held-out FVU, `at_edge`, and the whole `curve` by rate.

    trials: the folders that `bsc trial` wrote. Of equal FVUs the lower rate is taken. A choice at an end of the grid may not be
    the best that there is: `at_edge` records it, and stderr says it. Raises UserError when every rate has diverged.
    """
    tried = (read_json(folder / "trial.json") for folder in trials)
    curve = sorted(({key: row[key] for key in ("learning_rate", "fvu")} for row in tried), key=lambda row: row["learning_rate"])
    finished = [row for row in curve if row["fvu"] is not None and math.isfinite(row["fvu"])]
    if not finished:
        raise UserError(f"`{spec.name}` diverged at every rate of the sweep", where="tune.rates", fix="add lower rates")
    best = min(finished, key=lambda row: row["fvu"])
    at_edge = best in (curve[0], curve[-1])
    if at_edge:
        told = f"{spec.name}: {best['learning_rate']:g} is the best of the sweep and at an end of it: widen `tune.rates`"
        print(told, file=sys.stderr, flush=True)
    write_json(output / RESULT, {"learning_rate": best["learning_rate"], "at_edge": at_edge, "curve": curve})
