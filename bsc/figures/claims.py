"""Differences judged: `claims` (the paper's four findings, by the headline pair) and `comparisons` (all questions, all pairs).

Both sides of a difference are of one model, hookpoint, architecture and k (a *cell*). Within a cell it is taken seed by seed
where both sides have the seed, for equal seeds start from equal weights and see the batches in one order. Cells count alike.
The verdict over several is that of their mean, unless a claim holds in one and fails in another (`differences.over_cells`).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bsc.evaluation.bootstrap import Interval
from bsc.evaluation.differences import (
    DIFFERS,
    FAILS,
    HOLDS,
    UNDECIDED,
    Replicates,
    interval,
    over_cells,
    over_seeds,
    units_to_resolve,
    verdict,
    widened,
)
from bsc.figures.evidence import SCORE_FINDINGS, Evidence, Quantity, eligible_latents, firing_shares, quantities, subjects
from bsc.figures.questions import FINDINGS, Claim, Comparison, Seeds, compared, grouped
from bsc.figures.registry import cell
from bsc.figures.results import scores
from bsc.figures.style import write_csv
from bsc.stages import FigureSpec, coders_of

ALL = "all"
CELL = ("model", "hookpoint", "architecture", "k")
COLUMNS = (
    *(
        "question",
        "claim",
        "quantity",
        "binariser",
        "against",
        "value",
        "against_value",
        "difference",
        "low",
        "high",
        "verdict",
    ),
    *("n", "unit", "seeds", "cells", "note"),
)
"""Of `comparisons`, after the cell's. `value` is of `binariser`, `against_value` of `against`, which may be a control of it."""
CLAIMS = {
    **{name: name for name in ("finding", "claim", "quantity")},
    **{"value": "binary", "against_value": "continuous"},
    **{name: name for name in ("difference", "low", "high", "verdict", "n", "unit", "seeds", "cells")},
    **{"binariser": "binary_binariser", "against": "continuous_binariser", "note": "note"},
}
"""The columns of `claims`, by what they are called here."""
_NAMED = 3
"""How many cells a note names of those that are left out, or lie on one side."""


class Side(NamedTuple):
    """Replicates of a cell: of the one, of the other, and of their difference; and how many units and seeds it has."""

    cell: tuple[str, str, str, int]
    one: Replicates
    other: Replicates
    difference: Replicates
    units: int
    seeds: int


def draw(spec: FigureSpec, results: Path, output: Path) -> None:
    """Write `claims` or `comparisons`, whichever `spec.name` says."""
    found = scores(spec, results)
    asked = quantities(found["scorer"].unique())
    if spec.name == "claims":
        (headline, *_) = grouped(one for one in compared(subjects(found), set()) if one.question == FINDINGS)
        evidence = Evidence(spec, results, [subject for pair in headline for subject in pair.subjects])
        rows = [*_rows(evidence, asked, headline, " ".join(_left_out(spec, headline)))]
        table = pd.DataFrame(rows, columns=list(CLAIMS)).rename(columns=CLAIMS)
    else:
        evidence = Evidence(spec, results, subjects(found))
        held = {coder.binariser for coder in coders_of(spec.coders) if evidence.has_frequency_control(coder)}
        table = pd.DataFrame(_comparisons(evidence, asked, grouped(compared(subjects(found), held))), columns=[*CELL, *COLUMNS])
    write_csv(table, output)


def _comparisons(evidence: Evidence, asked: list[Quantity], groups: list[list[Comparison]]) -> Iterator[dict[str, Any]]:
    """Over all cells first, then each cell alone."""
    for cells in groups:
        for row in _rows(evidence, asked, cells):
            yield {**dict.fromkeys(CELL, ALL), **row}
    for cells in groups:
        for one in cells:
            for row in _rows(evidence, asked, [one]):
                yield {**dict(zip(CELL, one.cell, strict=True)), **row}


def _left_out(spec: FigureSpec, headline: list[Comparison]) -> Iterator[str]:
    """Which cells have a binary and a continuous coder, but not the headline's."""
    missing = sorted({cell(coder) for coder in coders_of(spec.coders)} - {one.cell for one in headline})
    if missing:
        lack = "1 cell lacks this pair and is" if len(missing) == 1 else f"{len(missing)} cells lack this pair and are"
        yield f"{lack} in comparisons.csv alone: {_named(missing)}."


def _named(cells: list[tuple[str, str, str, int]]) -> str:
    """The first cells of a list, for a note."""
    named = [f"{model}/{hookpoint}/{architecture}, k = {k}" for model, hookpoint, architecture, k in cells[:_NAMED]]
    return "; ".join([*named, "..."] if len(cells) > _NAMED else named)


def _rows(evidence: Evidence, asked: list[Quantity], cells: list[Comparison], note: str = "") -> Iterator[dict[str, Any]]:
    """A row for each quantity that the question is about. note: what is to be said with each."""
    question, names = cells[0].question, dict(zip(("binariser", "against"), cells[0].names, strict=True))
    for quantity in asked:
        if quantity.finding not in question.claims or (question.only and quantity.name not in question.only):
            continue
        sides = _sides(evidence, quantity, cells)
        judged = _judged(evidence, quantity, cells, sides) if sides else _undefined(quantity)
        said = {"question": question.name, "finding": quantity.finding, "claim": question.claims[quantity.finding].text}
        yield {**said, "quantity": quantity.name, **names, **judged, "note": f"{judged['note']} {note}".strip()}


def _undefined(quantity: Quantity) -> dict[str, Any]:
    return {"verdict": UNDECIDED, "unit": quantity.unit, "n": 0, "seeds": 0, "cells": 0, "note": "nothing could be scored"}


def _sides(evidence: Evidence, quantity: Quantity, cells: list[Comparison], without: int | None = None) -> list[Side]:
    """Of the cells in which both sides are defined. without: a unit that is left out."""
    return [side for one in cells if (side := _compared(evidence, quantity, one, without)) is not None]


def _compared(evidence: Evidence, quantity: Quantity, cells: Comparison, without: int | None) -> Side | None:
    """One cell: seed by seed where seeds are shared, means over seeds apart where none is; None where a side is undefined."""
    pair = (cells.one, cells.other)
    found = [
        {
            seed: drawn
            for seed, subject in side.items()
            if (drawn := evidence.replicates(quantity, subject, without)) is not None
        }
        for side in pair
    ]
    shared = sorted(found[0].keys() & found[1].keys())
    if not found[0] or not found[1]:
        return None
    start = evidence.spec.seed
    if shared:
        ones, others = (np.stack([side[seed] for seed in shared]) for side in found)
        one, other, less = (over_seeds(side, seed=start) for side in (ones, others, ones - others))
    else:
        one, other = (over_seeds(np.stack(list(side.values())), seed=start + place) for place, side in enumerate(found))
        less = one - other
    taken = [side[seed] for side, drawn in zip(pair, found, strict=True) for seed in shared or drawn]
    units = min(evidence.units(quantity, subject, without) for subject in taken)
    return Side(cells.cell, one, other, less, units=units, seeds=len(shared) or min(map(len, found)))


def _judged(evidence: Evidence, quantity: Quantity, cells: list[Comparison], sides: list[Side]) -> dict[str, Any]:
    difference = _pooled(sides)
    claim = cells[0].question.claims[quantity.finding]
    (pooled,) = _verdicts(claim, quantity, [difference])
    said = over_cells(pooled, _verdicts(claim, quantity, widened(_alone(sides))))
    return {
        "value": float(np.mean([side.one[0] for side in sides])),
        "against_value": float(np.mean([side.other[0] for side in sides])),
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


def _pooled(sides: list[Side]) -> Interval:
    return interval(np.mean([side.difference for side in sides], axis=0), min(side.units for side in sides))


def _alone(sides: list[Side]) -> list[Interval]:
    return [interval(side.difference, side.units) for side in sides]


def _verdicts(claim: Claim, quantity: Quantity, differences: list[Interval]) -> list[str]:
    return [verdict(one, sign=claim.sign, margin=_margin(claim, quantity)) for one in differences]


def _margin(claim: Claim, quantity: Quantity) -> float:
    return quantity.margin if claim.matches else 0.0


def _notes(evidence: Evidence, quantity: Quantity, cells: list[Comparison], sides: list[Side], said: str) -> Iterator[str]:
    """What a reader must know of a row: how it was judged, what is missing from it, and what would decide it."""
    difference = _pooled(sides)
    claim = cells[0].question.claims[quantity.finding]
    if margin := _margin(claim, quantity):
        yield f"No worse than {margin:g} {'below' if claim.sign > 0 else 'above'} counts as a match."
    yield from _by_cell(claim, quantity, sides, said)
    if said == UNDECIDED and margin and verdict(difference, sign=-claim.sign) == HOLDS:
        yield "The interval includes that, and excludes zero."
    elif said == UNDECIDED and (
        needed := units_to_resolve(difference, min(side.units for side in sides), -claim.sign * margin)
    ):
        yield f"The interval includes {'that' if margin else 'zero'}; {_resolved(evidence, quantity, cells, needed)}."
    if np.isnan(difference.low):
        yield f"An interval needs two {quantity.unit} or more."
    elif said == UNDECIDED and quantity.unit == "documents" and min(side.units for side in sides) > 2:
        yield from _swayed(evidence, quantity, cells, difference)
    if quantity.finding in SCORE_FINDINGS:
        one, other = cells[0].names
        shares = [_unscored(evidence, [getattr(pair, side) for pair in cells]) for side in ("one", "other")]
        yield f"Unscored, of all firings: {shares[0]} ({one}), {shares[1]} ({other})."
    if missing := len(cells) - len(sides):
        yield f"{missing} cells could not be compared: no latent was scored on one side."


def _by_cell(claim: Claim, quantity: Quantity, sides: list[Side], said: str) -> Iterator[str]:
    """Where a claim that differs by cell holds and fails; else in how many it does, unless all have the pooled verdict."""
    if said == DIFFERS:
        by = ", by intervals widened for so many cells" if len(sides) > 2 else ""
        holds, fails = (_where(claim, quantity, sides, one) for one in (HOLDS, FAILS))
        yield f"It holds {holds} and does not hold {fails}{by}."
        return
    own = _verdicts(claim, quantity, _alone(sides))
    if set(own) != {said}:
        fails = f" and does not hold in {own.count(FAILS)}" if FAILS in own else ""
        yield f"By itself it holds in {own.count(HOLDS)} of {len(own)} cells{fails}."


def _where(claim: Claim, quantity: Quantity, sides: list[Side], said: str) -> str:
    """In which cells a verdict is this one, by intervals that can be searched for it."""
    judged = zip(sides, _verdicts(claim, quantity, widened(_alone(sides))), strict=True)
    found = [side.cell for side, own in judged if own == said]
    return f"in {len(found)} of {len(sides)} cells ({_named(found)})" if found else "on average"


def _resolved(evidence: Evidence, quantity: Quantity, cells: list[Comparison], needed: int) -> str:
    """What would resolve a difference of this size: so many units, or seeds where a coder has not so many latents."""
    if quantity.unit == "latents":
        scored = quantity.finding in SCORE_FINDINGS
        most = min(
            eligible_latents(evidence, subject) if scored else evidence.latents(subject)
            for pair in cells
            for subject in pair.subjects
        )
        if needed > most:
            which = " that can be scored" if scored else ""
            return f"all {most:,} latents of a coder{which} would not resolve a difference of this size, but more seeds may"
    return f"about {needed:,} {quantity.unit} a coder would resolve a difference of this size"


def _swayed(evidence: Evidence, quantity: Quantity, cells: list[Comparison], difference: Interval) -> Iterator[str]:
    """What an undecided difference owes to its most influential document, and that it has the wrong sign if it has."""
    claim = cells[0].question.claims[quantity.finding]
    if claim.sign * difference.value < 0:
        yield "The difference has the other sign."
    units = evidence.all_units(quantity, [subject for pair in cells for subject in pair.subjects])
    without = np.mean([_without_each(evidence, quantity, one, units) for one in cells], axis=0)
    most = units[int(np.abs(without - difference.value).argmax())]
    left = _pooled(_sides(evidence, quantity, cells, most))
    (said,) = _verdicts(claim, quantity, [left])
    yield f"Without document {most}, which moves it most, it is {left.value:.2g} [{left.low:.2g}, {left.high:.2g}]: {said}."


def _without_each(evidence: Evidence, quantity: Quantity, cells: Comparison, units: list[int]) -> NDArray[np.float64]:
    """The difference of a cell without each document: seeds count alike on each side, where they are shared or not."""
    shared = cells.one.keys() & cells.other.keys()
    one, other = (
        np.mean([evidence.left_out(quantity, side[seed], units) for seed in shared or side], axis=0)
        for side in (cells.one, cells.other)
    )
    return np.asarray(one - other)


def _unscored(evidence: Evidence, by_cell: list[Seeds]) -> str:
    shares = [firing_shares(evidence, subject)["scored"] for side in by_cell for subject in side.values()]
    return f"{100 * (1 - float(np.mean(shares))):.0f}%"
