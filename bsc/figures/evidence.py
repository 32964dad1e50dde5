"""What the paper's findings are judged by: quantities of coders, as replicates that can be paired and subtracted.

Over sequences the replicates of all coders are paired: every coder is spliced into the same sequences. Over latents they are
independent, for the latents of two coders have nothing to do with each other.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from bsc import paths
from bsc.evaluation.differences import Replicates, replicates
from bsc.evaluation.metrics import ULTRA_HIGH
from bsc.figures.results import MEASURES, scores
from bsc.io import read_json, read_parquet
from bsc.paths import CoderId
from bsc.stages import FigureSpec, measure_of

Sums = tuple["pd.Series[float]", "pd.Series[float]"]
MATCH = 0.02
"""How much lower an F1, or an AUROC, may be and still match (finding 2): *ours*, the paper gives no number."""


@dataclass(frozen=True)
class Quantity:
    """A number that a finding is about. sign: of binary less continuous, as the finding says; margin: see `verdict`.

    sums: a coder's numerators and denominators by unit. constant: of a coder, (c, s): the quantity is then c + s · ratio.
    """

    finding: int
    name: str
    unit: str
    sign: int
    sums: Callable[["Evidence", CoderId], Sums]
    margin: float = 0.0
    constant: Callable[["Evidence", CoderId], tuple[float, float]] = lambda evidence, coder: (0.0, 1.0)


class Evidence:
    """The results that a spec's quantities are worked out from, each coder's replicates once."""

    def __init__(self, spec: FigureSpec, results: Path) -> None:
        self.spec, self.results = spec, results
        self._replicates: dict[tuple[str, CoderId], Replicates] = {}
        self._units: dict[tuple[str, CoderId], int] = {}

    def replicates(self, quantity: Quantity, coder: CoderId) -> Replicates | None:
        """A coder's quantity; None where it has no unit, or where it is undefined."""
        key = (quantity.name, coder)
        if key not in self._replicates:
            above, below = quantity.sums(self, coder)
            self._units[key] = len(below)
            self._replicates[key] = self._drawn(quantity, coder, above, below)
        found = self._replicates[key]
        return None if np.isnan(found[0]) else found

    def units(self, quantity: Quantity, coder: CoderId) -> int:
        """How many units a quantity of a coder is made of, once its replicates are there."""
        return self._units[quantity.name, coder]

    def _drawn(self, quantity: Quantity, coder: CoderId, above: "pd.Series[float]", below: "pd.Series[float]") -> Replicates:
        if not len(below):
            return np.full(1 + self.spec.resamples, np.nan)
        text = f"{self.spec.seed}/{coder}/{quantity.name}"
        own = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
        seed = self.spec.seed if quantity.unit == "sequences" else own
        shift, scale = quantity.constant(self, coder)
        return shift + scale * replicates(above, below, resamples=self.spec.resamples, seed=seed)

    def table(self, pattern: str, name: str, coder: CoderId, **wildcards: str) -> pd.DataFrame:
        """One of a coder's tables."""
        return read_parquet(self.results / coder.at(pattern, **wildcards) / name)


def quantities(spec: FigureSpec, results: Path) -> list[Quantity]:
    """Those of the four findings, in their order; a score for each scorer of the results."""
    scorers = sorted(scores(spec, results)["scorer"].unique())
    return [
        Quantity(1, "FVU", "sequences", 1, _fvu),
        Quantity(1, "CE increase (nats/token)", "sequences", 1, _ce_increase),
        *(Quantity(2, f"{_name(scorer)}, unweighted", "latents", 1, _scores(scorer), margin=MATCH) for scorer in scorers),
        *(one for scorer in scorers for one in _weighted(scorer)),
        Quantity(4, "latents on > 10% of tokens, of all", "latents", 1, _surge),
        Quantity(4, "firings of these latents, of all", "latents", 1, _surge_firings),
    ]


def _fvu(evidence: Evidence, coder: CoderId) -> Sums:
    table = evidence.table(paths.EVALUATION, "sequences.parquet", coder)
    return table["squared_error"], table["squared_deviation"]


def _ce_increase(evidence: Evidence, coder: CoderId) -> Sums:
    spliced = evidence.table(paths.EVALUATION, "sequences.parquet", coder)
    unspliced = evidence.table(paths.BASELINE, "sequences.parquet", coder)
    return (spliced["ce"] - unspliced["ce"]) * spliced["tokens"], spliced["tokens"]


def _surge(evidence: Evidence, coder: CoderId) -> Sums:
    latents = evidence.table(paths.EVALUATION, "latents.parquet", coder)
    return (latents["rate"] > ULTRA_HIGH).astype(float), pd.Series(1.0, latents.index)


def _surge_firings(evidence: Evidence, coder: CoderId) -> Sums:
    latents = evidence.table(paths.EVALUATION, "latents.parquet", coder)
    return latents["firings"] * (latents["rate"] > ULTRA_HIGH), latents["firings"]


def _scored(evidence: Evidence, coder: CoderId, scorer: str) -> pd.DataFrame:
    pattern = paths.interpreted(paths.SCORES, evidence.spec.explainers[0])
    table = evidence.table(pattern, "scores.parquet", coder, variant="trained")
    return table[(table["scorer"] == scorer) & (table["control"] == "none")]


def _name(scorer: str) -> str:
    return f"{scorer} {MEASURES[measure_of(scorer)]}"


def _scores(scorer: str) -> Callable[[Evidence, CoderId], Sums]:
    def sums(evidence: Evidence, coder: CoderId) -> Sums:
        table = _scored(evidence, coder, scorer)
        return table[measure_of(scorer)], pd.Series(1.0, table.index)

    return sums


def _weighted(scorer: str) -> list[Quantity]:
    """The frequency-weighted score with the too-dense latents left out, at a score of 0 and of 1."""

    def sums(evidence: Evidence, coder: CoderId) -> Sums:
        table = _scored(evidence, coder, scorer)
        return table[measure_of(scorer)] * table["firings"], table["firings"].astype(float)

    def at(score: float) -> Callable[[Evidence, CoderId], tuple[float, float]]:
        def constant(evidence: Evidence, coder: CoderId) -> tuple[float, float]:
            dense = dense_share(evidence, coder)
            return score * dense, 1 - dense

        return constant

    name = f"{_name(scorer)}, weighted"
    return [
        Quantity(3, name, "latents", -1, sums),
        Quantity(3, f"{name}, too dense at 0", "latents", -1, sums, constant=at(0.0)),
        Quantity(3, f"{name}, too dense at 1", "latents", -1, sums, constant=at(1.0)),
    ]


def firing_shares(evidence: Evidence, coder: CoderId) -> dict[str, float]:
    """The share of all firings of a coder's latents of each status: scored, too_rare, too_dense, not_sampled."""
    pattern = paths.interpreted(paths.SCORES, evidence.spec.explainers[0])
    found: dict[str, float] = read_json(evidence.results / coder.at(pattern, variant="trained") / "summary.json")[
        "firing_shares"
    ]
    return found


def dense_share(evidence: Evidence, coder: CoderId) -> float:
    """The too-dense latents' share of the firings of all latents but the too rare ones, as in `dense_band`."""
    shares = firing_shares(evidence, coder)
    rest = shares["scored"] + shares["not_sampled"] + shares["too_dense"]
    return shares["too_dense"] / rest if rest else 0.0
