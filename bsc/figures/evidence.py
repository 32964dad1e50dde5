"""What differences are made of: quantities of coders and their controls, as replicates that can be paired and subtracted.

Over documents the replicates of all coders are paired: every coder is spliced into the same sequences. Over latents those of
two coders are independent, for their latents have nothing to do with each other. A coder and its controls are paired over
latents where the latents are the same: under `shuffled` they are, and are asked the same questions by another explanation;
`binarised` ones fire where the coder's do, so that the same ones are scored. `random` ones are another coder's.

Latents count by their sampling weights.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from bsc import paths
from bsc.evaluation.bootstrap import ratios
from bsc.evaluation.differences import Replicates
from bsc.evaluation.metrics import ULTRA_HIGH, by_document
from bsc.figures.results import KEYS, MEASURES
from bsc.io import read_json, read_parquet
from bsc.paths import CoderId
from bsc.stages import FigureSpec, measure_of

Sums = tuple["pd.Series[float]", "pd.Series[float]"]
MATCH = 0.02
"""How much worse a score, or a share of firings, may be and still match (finding 2): *ours*, the paper gives no number."""
SCORE_FINDINGS = (2, 3)
"""The findings that are about scores, which controls have too."""
TRAINED, SHUFFLED, RANDOM, BINARISED = "trained", "shuffled", "random", "binarised"
CONTROLS = (SHUFFLED, RANDOM, BINARISED)


class Subject(NamedTuple):
    """What a quantity is of: a coder, as it was trained, or one of `CONTROLS` of it, which has scores alone."""

    coder: CoderId
    version: str = TRAINED

    @property
    def variant(self) -> str:
        """The variant that its scores are of, as paths have it: shuffled explanations are of the trained coder."""
        return TRAINED if self.version == SHUFFLED else self.version

    @property
    def name(self) -> str:
        """Its binariser's name, or which control it is."""
        return self.coder.binariser if self.version == TRAINED else self.version


@dataclass(frozen=True)
class Quantity:
    """A number that a finding is about. margin: how much worse one still counts as a match, where a claim allows for that.

    sums: numerators and denominators by unit, of which the index says which units they are. constant: (c, s) of a subject: the
    quantity is then c + s · ratio.
    """

    finding: int
    name: str
    unit: str
    sums: Callable[["Evidence", Subject], Sums]
    margin: float = 0.0
    constant: Callable[["Evidence", Subject], tuple[float, float]] = lambda evidence, subject: (0.0, 1.0)


class Evidence:
    """The results that a spec's quantities are worked out from, each table, and each subject's sums and replicates, once.

    asked: the subjects whose replicates will be asked for. Those that are paired are drawn together.
    """

    def __init__(self, spec: FigureSpec, results: Path, asked: Iterable[Subject]) -> None:
        self.spec, self.results, self._asked = spec, results, list(asked)
        self._tables: dict[Path, pd.DataFrame] = {}
        self._sums: dict[tuple[str, Subject], Sums] = {}
        self._replicates: dict[tuple[str, Subject, int | None], Replicates] = {}

    def replicates(self, quantity: Quantity, subject: Subject, without: int | None = None) -> Replicates | None:
        """A subject's quantity; None where it has no unit, or where it is undefined. without: a unit that is left out."""
        key = (quantity.name, subject, without)
        if key not in self._replicates:
            self._draw(quantity, [subject] if without is not None else self._paired(quantity, subject), without)
        found = self._replicates[key]
        return None if np.isnan(found[0]) else found

    def left_out(self, quantity: Quantity, subject: Subject, units: list[int]) -> "pd.Series[float]":
        """A subject's quantity without each of `units`; it has nothing of those that are others' alone."""
        above, below = (one.reindex(units, fill_value=0.0) for one in self._summed(quantity, subject))
        shift, scale = quantity.constant(self, subject)
        return shift + scale * (above.sum() - above) / (below.sum() - below)

    def all_units(self, quantity: Quantity, subjects: Iterable[Subject]) -> list[int]:
        """The units that any of the subjects has: coders of different models need not be evaluated on the same documents."""
        return sorted({int(unit) for subject in subjects for unit in self._summed(quantity, subject)[1].index})

    def units(self, quantity: Quantity, subject: Subject, without: int | None = None) -> int:
        """How many units a quantity of a subject is made of. without: a unit that is left out."""
        index = self._summed(quantity, subject)[1].index
        return len(index) - (without in index)

    def _summed(self, quantity: Quantity, subject: Subject) -> Sums:
        key = (quantity.name, subject)
        if key not in self._sums:
            self._sums[key] = quantity.sums(self, subject)
        return self._sums[key]

    def _draw(self, quantity: Quantity, paired: list[Subject], without: int | None) -> None:
        """The replicates of subjects that are paired."""
        sums = [self._summed(quantity, subject) for subject in paired]
        if without is not None:
            sums = [(above.drop(without, errors="ignore"), below.drop(without, errors="ignore")) for above, below in sums]
        resamples = self.spec.resamples
        if len(sums[0][1]):
            drawn = ratios(sums, resamples=resamples, seed=self._seed(quantity, paired[0]))
        else:
            drawn = np.full((len(paired), 1 + resamples), np.nan)
        for subject, found in zip(paired, drawn, strict=True):
            shift, scale = quantity.constant(self, subject)
            self._replicates[quantity.name, subject, without] = shift + scale * found

    def _paired(self, quantity: Quantity, subject: Subject) -> list[Subject]:
        """The subjects asked for that are drawn with the seed of this one and have as many units, itself among them."""
        seed, units = self._seed(quantity, subject), self.units(quantity, subject)
        if quantity.finding in SCORE_FINDINGS:
            near = [one for one in self._asked if one.coder == subject.coder]
        else:
            near = [one for one in self._asked if one.version == TRAINED]
        return [one for one in near if self._seed(quantity, one) == seed and self.units(quantity, one) == units]

    def _seed(self, quantity: Quantity, subject: Subject) -> int:
        """What replicates are drawn with, the same for what is paired (see the module)."""
        if quantity.unit == "documents":
            return self.spec.seed
        text = f"{self.spec.seed}/{subject.coder}/{quantity.name}"
        if subject.version != TRAINED and not self._has_the_latents(quantity, subject):
            text += f"/{subject.version}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")

    def _has_the_latents(self, quantity: Quantity, control: Subject) -> bool:
        """Whether a control's latents are the coder's: random weights may score latents of the same numbers, yet others."""
        own, its = (self._summed(quantity, one)[1].index for one in (Subject(control.coder), control))
        return control.version != RANDOM and its.equals(own)

    def table(self, pattern: str, name: str, coder: CoderId, **wildcards: str) -> pd.DataFrame:
        """One of a coder's tables."""
        path = self.results / coder.at(pattern, **wildcards) / name
        if path not in self._tables:
            self._tables[path] = read_parquet(path)
        return self._tables[path]

    def latents(self, subject: Subject) -> int:
        """How many latents a subject's coder has."""
        return len(self.table(paths.EVALUATION, "latents.parquet", subject.coder))

    def has_frequency_control(self, coder: CoderId) -> bool:
        """Whether training held its latents' firing rates down, by a penalty or by a bias."""
        spec = read_json(self.results / coder.at(paths.CODERS) / "config.json")["spec"]
        return spec.get("frequency") is not None


def subjects(found: pd.DataFrame) -> list[Subject]:
    """The coders of a table of scores (`results.scores`), and the controls that each has."""
    rows = found[[*KEYS, "variant", "control"]].drop_duplicates().to_dict("records")
    known = {
        (TRAINED, "none"): TRAINED,
        (TRAINED, SHUFFLED): SHUFFLED,
        (RANDOM, "none"): RANDOM,
        (BINARISED, "none"): BINARISED,
    }
    return [
        Subject(CoderId(**{key: row[key] for key in KEYS}), known[row["variant"], row["control"]])
        for row in rows
        if (row["variant"], row["control"]) in known
    ]


def quantities(scorers: Iterable[str]) -> list[Quantity]:
    """Those of the four findings, in their order; a score for each scorer."""
    named = sorted(scorers)
    return [
        Quantity(1, "FVU", "documents", _fvu),
        Quantity(1, "CE increase (nats/token)", "documents", _change("ce", 1)),
        Quantity(1, "top-1 accuracy decrease", "documents", _change("accuracy", -1)),
        *(Quantity(2, f"{_name(scorer)}, unweighted", "latents", _scores(scorer), margin=MATCH) for scorer in named),
        *(one for scorer in named for one in _weighted(scorer)),
        Quantity(4, "latents on > 10% of tokens, of all", "latents", _surge),
        Quantity(4, "firings of these latents, of all", "latents", _surge_firings, margin=MATCH),
    ]


def _fvu(evidence: Evidence, subject: Subject) -> Sums:
    table = evidence.table(paths.EVALUATION, "sequences.parquet", subject.coder)
    return by_document(table, table["squared_error"], table["squared_deviation"])


def _change(column: str, sign: int) -> Callable[[Evidence, Subject], Sums]:
    """The mean over tokens of a column with a coder spliced in less that without, or with a sign of -1 the other way round."""

    def sums(evidence: Evidence, subject: Subject) -> Sums:
        spliced = evidence.table(paths.EVALUATION, "sequences.parquet", subject.coder)
        unspliced = evidence.table(paths.BASELINE, "sequences.parquet", subject.coder)
        return by_document(spliced, sign * (spliced[column] - unspliced[column]) * spliced["tokens"], spliced["tokens"])

    return sums


def _surge(evidence: Evidence, subject: Subject) -> Sums:
    latents = evidence.table(paths.EVALUATION, "latents.parquet", subject.coder)
    return (latents["rate"] > ULTRA_HIGH).astype(float), pd.Series(1.0, latents.index)


def _surge_firings(evidence: Evidence, subject: Subject) -> Sums:
    latents = evidence.table(paths.EVALUATION, "latents.parquet", subject.coder)
    return latents["firings"] * (latents["rate"] > ULTRA_HIGH), latents["firings"]


def _scored(evidence: Evidence, subject: Subject, scorer: str) -> pd.DataFrame:
    pattern = paths.interpreted(paths.SCORES, evidence.spec.explainers[0])
    table = evidence.table(pattern, "scores.parquet", subject.coder, variant=subject.variant)
    control = SHUFFLED if subject.version == SHUFFLED else "none"
    return table[(table["scorer"] == scorer) & (table["control"] == control)].set_index("latent")


def _name(scorer: str) -> str:
    return f"{scorer} {MEASURES[measure_of(scorer)]}"


def _scores(scorer: str) -> Callable[[Evidence, Subject], Sums]:
    def sums(evidence: Evidence, subject: Subject) -> Sums:
        table = _scored(evidence, subject, scorer)
        return table[measure_of(scorer)] * table["sampling_weight"], table["sampling_weight"]

    return sums


def _weighted(scorer: str) -> list[Quantity]:
    """The frequency-weighted score with the too-dense latents left out, at a score of 0 and of 1."""

    def sums(evidence: Evidence, subject: Subject) -> Sums:
        table = _scored(evidence, subject, scorer)
        weights = table["sampling_weight"] * table["firings"]
        return table[measure_of(scorer)] * weights, weights

    def at(score: float) -> Callable[[Evidence, Subject], tuple[float, float]]:
        def constant(evidence: Evidence, subject: Subject) -> tuple[float, float]:
            dense = dense_share(evidence, subject)
            return score * dense, 1 - dense

        return constant

    name = f"{_name(scorer)}, weighted"
    return [
        Quantity(3, name, "latents", sums, margin=MATCH),
        Quantity(3, f"{name}, too dense at 0", "latents", sums, margin=MATCH, constant=at(0.0)),
        Quantity(3, f"{name}, too dense at 1", "latents", sums, margin=MATCH, constant=at(1.0)),
    ]


def firing_shares(evidence: Evidence, subject: Subject) -> dict[str, float]:
    """The share of all firings of a subject's latents of each status: scored, too_rare, too_dense, not_sampled."""
    found: dict[str, float] = _summary(evidence, subject)["firing_shares"]
    return found


def eligible_latents(evidence: Evidence, subject: Subject) -> int:
    """How many of a subject's latents can be scored: those that are, and those that were not sampled."""
    latents = _summary(evidence, subject)["latents"]
    return int(latents["scored"] + latents["not_sampled"])


def _summary(evidence: Evidence, subject: Subject) -> dict[str, Any]:
    pattern = paths.interpreted(paths.SCORES, evidence.spec.explainers[0])
    found: dict[str, Any] = read_json(evidence.results / subject.coder.at(pattern, variant=subject.variant) / "summary.json")
    return found


def dense_share(evidence: Evidence, subject: Subject) -> float:
    """The too-dense latents' share of the firings of all latents but the too rare ones, as in `dense_band`."""
    shares = firing_shares(evidence, subject)
    rest = shares["scored"] + shares["not_sampled"] + shares["too_dense"]
    return shares["too_dense"] / rest if rest else 0.0
