"""The paper's four findings, judged: `claims` (each finding by its headline pair) and `comparisons` (every pair, everywhere).

A pair is a binary and a continuous binariser at the same model, hookpoint, architecture and k (a *cell*). Within a cell the
difference is taken seed by seed where both have the seed, for equal seeds start from equal weights and see the batches in one
order. Cells count alike.
"""

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from bsc.coders.binarisers.registry import REGISTRY, kind_of
from bsc.evaluation.differences import UNDECIDED, Replicates, interval, over_seeds, units_to_resolve, verdict
from bsc.figures.evidence import Evidence, Quantity, firing_shares, quantities
from bsc.figures.registry import BINARY, CONTINUOUS, cell
from bsc.figures.style import write_csv
from bsc.paths import CoderId
from bsc.stages import FigureSpec, coders_of

FINDINGS = {
    1: "binary coders reconstruct worse",
    2: "unweighted scores of binary coders match or beat continuous ones'",
    3: "weighted by firing frequency, continuous coders score slightly better",
    4: "binary coders have a surge of ultra-high-frequency latents",
}
ALL = "all"
COLUMNS = (
    *("finding", "claim", "quantity", "binary", "continuous", "difference", "low", "high", "verdict", "n", "unit", "seeds"),
    *("cells", "binary_binariser", "continuous_binariser", "note"),
)
CELL = ("model", "hookpoint", "architecture", "k")


class Pair(NamedTuple):
    """The coders of one cell that are compared, by seed."""

    binary: dict[int, CoderId]
    continuous: dict[int, CoderId]


class Side(NamedTuple):
    """Replicates of a pair: what is binary, what is continuous, and their difference; and how many units and seeds it has."""

    binary: Replicates
    continuous: Replicates
    difference: Replicates
    units: int
    seeds: int


def draw(spec: FigureSpec, results: Path, output: Path) -> None:
    """Write `claims` or `comparisons`, whichever `spec.name` says."""
    evidence = Evidence(spec, results)
    asked = quantities(spec, results)
    rows: list[dict[str, Any]] = []
    for cells in _pairs(spec):
        if spec.name == "comparisons":
            rows += [row | _named(pair) for pair in cells for row in _rows(evidence, asked, [pair])]
        rows += [{**row, **dict.fromkeys(CELL, ALL)} for row in _rows(evidence, asked, cells)]
        if spec.name == "claims":
            break
    columns = list(COLUMNS) if spec.name == "claims" else [*CELL, *COLUMNS]
    write_csv(pd.DataFrame(rows, columns=columns), output)


def _pairs(spec: FigureSpec) -> list[list[Pair]]:
    """For each binary binariser and the continuous one that it is compared with, the headline first, the cells with both."""
    coders = coders_of(spec.coders)
    found: dict[tuple[str, str], list[Pair]] = {}
    for _, group in groupby(sorted(coders, key=lambda coder: (cell(coder), coder)), key=cell):
        here = list(group)
        there = {coder.binariser for coder in here}
        for binary in sorted((name for name in there if not REGISTRY[name].continuous), key=_rank(BINARY)):
            continuous = _counterpart(binary, there)
            pair = Pair(_by_seed(here, binary), _by_seed(here, continuous))
            if pair.binary and pair.continuous:
                found.setdefault((binary, continuous or ""), []).append(pair)
    return [found[names] for names in sorted(found, key=lambda names: _rank(BINARY)(names[0]))]


def _rank(order: tuple[str, ...]) -> Any:
    return lambda name: (order.index(name) if name in order else len(order), name)


def _counterpart(binary: str, there: set[str]) -> str | None:
    """`groupmax` for a grouped binariser and `topk` for another; where the cell lacks it, what continuous one it has.

    For a variant, their variants of that name come first: what is finetuned is compared with what is finetuned.
    """
    order = CONTINUOUS[::-1] if REGISTRY[binary].grouped else CONTINUOUS
    alike = [name + binary.removeprefix(kind_of(binary)) for name in order]
    return next((name for name in (*alike, *order) if name in there), None)


def _by_seed(coders: list[CoderId], binariser: str | None) -> dict[int, CoderId]:
    return {coder.seed: coder for coder in coders if coder.binariser == binariser}


def _named(pair: Pair) -> dict[str, Any]:
    coder = next(iter(pair.binary.values()))
    return {name: getattr(coder, name) for name in CELL}


def _rows(evidence: Evidence, asked: list[Quantity], cells: list[Pair]) -> Iterator[dict[str, Any]]:
    for quantity in asked:
        sides = [side for pair in cells if (side := _compared(evidence, quantity, pair)) is not None]
        binary, continuous = (next(iter(side.values())).binariser for side in cells[0])
        names = {"binary_binariser": binary, "continuous_binariser": continuous}
        yield {"finding": quantity.finding, "claim": FINDINGS[quantity.finding], "quantity": quantity.name, **names} | (
            _judged(evidence, quantity, cells, sides) if sides else _undefined(quantity)
        )


def _undefined(quantity: Quantity) -> dict[str, Any]:
    return {"verdict": UNDECIDED, "unit": quantity.unit, "n": 0, "seeds": 0, "cells": 0, "note": "nothing could be scored"}


def _compared(evidence: Evidence, quantity: Quantity, pair: Pair) -> Side | None:
    """One cell: seed by seed where seeds are shared, means over seeds apart where none is; None where a side is undefined."""
    found = [
        {seed: drawn for seed, coder in side.items() if (drawn := evidence.replicates(quantity, coder)) is not None}
        for side in pair
    ]
    shared = sorted(found[0].keys() & found[1].keys())
    if not found[0] or not found[1]:
        return None
    seed = evidence.spec.seed
    if shared:
        binary, continuous = (np.stack([side[number] for number in shared]) for side in found)
        one, other, less = (over_seeds(side, seed=seed) for side in (binary, continuous, binary - continuous))
    else:
        one, other = (over_seeds(np.stack(list(side.values())), seed=seed + place) for place, side in enumerate(found))
        less = one - other
    units = min(evidence.units(quantity, coder) for side in pair for coder in side.values())
    return Side(one, other, less, units=units, seeds=len(shared) or min(map(len, found)))


def _judged(evidence: Evidence, quantity: Quantity, cells: list[Pair], sides: list[Side]) -> dict[str, Any]:
    difference = interval(np.mean([side.difference for side in sides], axis=0))
    said = verdict(difference, sign=quantity.sign, margin=quantity.margin)
    return {
        "binary": float(np.mean([side.binary[0] for side in sides])),
        "continuous": float(np.mean([side.continuous[0] for side in sides])),
        "difference": difference.value,
        "low": difference.low,
        "high": difference.high,
        "verdict": said,
        "n": min(side.units for side in sides),
        "unit": quantity.unit,
        "seeds": min(side.seeds for side in sides),
        "cells": len(sides),
        "note": " ".join(_notes(evidence, quantity, cells, sides, said)),
    }


def _notes(evidence: Evidence, quantity: Quantity, cells: list[Pair], sides: list[Side], said: str) -> Iterator[str]:
    """What a reader must know of a row: how it was judged, what is missing from it, and what would decide it."""
    difference = interval(np.mean([side.difference for side in sides], axis=0))
    if quantity.margin:
        yield f"No worse than {quantity.margin:g} below counts as a match."
    if said == UNDECIDED and quantity.margin and difference.high < 0:
        yield "The interval includes that, and excludes zero."
    elif said == UNDECIDED and (needed := units_to_resolve(difference, min(side.units for side in sides))):
        yield f"The interval includes zero; about {needed:,} {quantity.unit} a coder would resolve a difference of this size."
    if quantity.finding in (2, 3):
        shares = [_unscored(evidence, side) for side in zip(*((pair.binary, pair.continuous) for pair in cells), strict=True)]
        yield f"Unscored, of all firings: {shares[0]} (binary), {shares[1]} (continuous)."
    if missing := len(cells) - len(sides):
        yield f"{missing} cells could not be compared: no latent was scored on one side."


def _unscored(evidence: Evidence, by_cell: tuple[dict[int, CoderId], ...]) -> str:
    shares = [firing_shares(evidence, coder)["scored"] for side in by_cell for coder in side.values()]
    return f"{100 * (1 - float(np.mean(shares))):.0f}%"
