"""What `bsc claims` prints: the paper's four findings with their intervals, as the workflow's `claims.csv` has them."""

import math
import shlex
import textwrap
from pathlib import Path
from typing import Any

from bsc import config as bsc_config
from bsc import paths
from bsc.errors import UserError
from bsc.figures.registry import FIGURES
from bsc.stages import Plan

_WIDTH = 112
_FOOT = (
    "Differences are binary less continuous, the mean over cells (a model, hookpoint, architecture and k), with 95% intervals "
    "over documents (paired) or latents, and over seeds where each cell has several; with one, other seeds may give something "
    "else. A finding that holds in one cell and not in another differs by cell, and its mean speaks for neither. Other pairs, "
    "each cell alone, and what the paper leaves open (the best trade between binary and continuous, prevention of "
    "ultra-high-frequency latents, the best binariser of a kind, fair controls) are in comparisons.csv beside claims.csv."
)


def report(files: list[Path]) -> str:
    """The findings of a config's results, in lines for a terminal.

    Raises UserError when the config is at fault, has nothing that could be judged, or has no `claims.csv` yet.
    """
    plan = Plan(bsc_config.load(files))
    path = Path(plan.config.results) / (paths.TABLE.format(table="claims") + ".csv")
    if not plan.figure_coders("claims"):
        fix = f"have {FIGURES['claims'].lacks}"
        raise UserError("there is no finding to judge", where=shlex.join(map(str, files)), fix=fix)
    if not path.is_file():
        command = ["snakemake", "-c2", "--configfile", *map(str, files), "--", str(path)]
        raise UserError("the findings are not judged yet", where=str(path), fix=f"run `{shlex.join(command)}`")
    import pandas as pd

    lines: list[str] = []
    for finding, rows in pd.read_csv(path).groupby("finding", sort=True):
        lines += ["", f"{finding}. {rows['claim'].iloc[0]}"]
        for row in rows.fillna({"note": ""}).to_dict("records"):
            lines += _row(row)
    return "\n".join([*lines, "", *textwrap.wrap(_FOOT, _WIDTH)]).lstrip("\n")


def _row(row: dict[Any, Any]) -> list[str]:
    if row["cells"] == 0:
        return [f"   {row['quantity']}: {row['verdict']} ({row['note']})"]
    sides = f"{row['binary_binariser']} {row['binary']:.4g}, {row['continuous_binariser']} {row['continuous']:.4g}"
    interval = "without an interval" if math.isnan(row["low"]) else f"[{row['low']:+.4g}, {row['high']:+.4g}]"
    difference = f"difference {row['difference']:+.4g} {interval}"
    counts = f"{row['n']:,} {row['unit']}, seeds: {row['seeds']}, cells: {row['cells']}"
    wrapped = textwrap.wrap(f"{counts}. {row['note']}".strip(), _WIDTH - 16, break_on_hyphens=False)
    note = [" " * 8 + line for line in wrapped]
    return [f"   {row['quantity']}: {row['verdict']}", f"        {sides}; {difference}", *note]
