"""What differences between coders are to answer: the paper's findings, questions that it leaves open, and settings.

A question has a claim for each finding whose quantities it is about, and a verdict judges the claim. It is asked of two sides
of one cell (a model, hookpoint, architecture and k), each a binariser by seed:

- the findings, of a binary binariser and the continuous one that it is compared with;
- the best trade, of `nbit` and `hybrid` and both ends, `topk` and `binary-topk`;
- prevention, of what has frequency control and its binariser without, and the continuous one;
- the best of a kind, of a continuous or a binary binariser and the first one of that kind (`topk`, `binary-topk`);
- fair controls, of a coder and each of its controls;
- settings, of any other variant and its binariser.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from bsc.coders.binarisers.registry import REGISTRY, in_order, kind_of
from bsc.figures.evidence import CONTROLS, TRAINED, Subject
from bsc.figures.registry import BETWEEN, BINARY, CONTINUOUS, cell

Seeds = dict[int, Subject]


class Claim(NamedTuple):
    """What is said of one side less the other, with the sign of the difference if it is so.

    matches: a difference the other way within the quantity's margin still counts.
    """

    text: str
    sign: int
    matches: bool = False


class Question(NamedTuple):
    """A question and its claims, by the finding whose quantities they are about. only: of these quantities alone."""

    name: str
    claims: dict[int, Claim]
    only: tuple[str, ...] = ()


class Comparison(NamedTuple):
    """Two sides of one cell by seed, and the question that their difference answers."""

    question: Question
    one: Seeds
    other: Seeds

    @property
    def names(self) -> tuple[str, str]:
        """Whose difference it is: a binariser less another, or less one of its controls."""
        first, second = (next(iter(side.values())).name for side in (self.one, self.other))
        return first, second

    @property
    def subjects(self) -> list[Subject]:
        """Of both sides."""
        return [*self.one.values(), *self.other.values()]

    @property
    def cell(self) -> tuple[str, str, str, int]:
        """Model, hookpoint, architecture and k."""
        return cell(next(iter(self.one.values())).coder)


FINDINGS = Question(
    "the paper's findings",
    {
        1: Claim("binary coders reconstruct worse", 1),
        2: Claim("unweighted scores of binary coders match or beat continuous ones'", 1, matches=True),
        3: Claim("weighted by firing frequency, continuous coders score slightly better", -1),
        4: Claim("binary coders have a surge of ultra-high-frequency latents", 1),
    },
)
_TRADE = "where between binary and continuous is the best trade"
TRADE_CONTINUOUS = Question(
    _TRADE,
    {
        1: Claim("what lies between reconstructs worse than continuous coders", 1),
        2: Claim("unweighted scores of what lies between match or beat continuous ones'", 1, matches=True),
        3: Claim("weighted scores of what lies between match or beat continuous ones'", 1, matches=True),
        4: Claim("what lies between has a surge of ultra-high-frequency latents", 1),
    },
)
TRADE_BINARY = Question(
    _TRADE,
    {
        1: Claim("what lies between reconstructs better than binary coders", -1),
        2: Claim("unweighted scores of what lies between match or beat binary ones'", 1, matches=True),
        3: Claim("weighted scores of what lies between match or beat binary ones'", 1, matches=True),
        4: Claim("what lies between has fewer ultra-high-frequency latents than binary coders", -1),
    },
)
_PREVENTED = "can ultra-high-frequency latents be prevented"
PREVENTED = Question(
    _PREVENTED,
    {
        1: Claim("frequency control makes reconstruction worse", 1),
        2: Claim("unweighted scores with frequency control match or beat those without", 1, matches=True),
        3: Claim("weighted scores with frequency control match or beat those without", 1, matches=True),
        4: Claim("frequency control leaves fewer ultra-high-frequency latents", -1),
    },
)
PREVENTED_CONTINUOUS = Question(
    _PREVENTED,
    {
        1: Claim("with frequency control, binary coders still reconstruct worse than continuous ones", 1),
        4: Claim(
            "with frequency control, ultra-high-frequency latents have no more firings than in continuous coders", -1, True
        ),
    },
    only=("CE increase (nats/token)", "firings of these latents, of all"),
)
FAIR = Question(
    "do scores survive fair controls",
    {
        2: Claim("a coder's unweighted score is above its control's", 1),
        3: Claim("a coder's weighted score is above its control's", 1),
    },
)
SETTINGS = Question(
    "what does a setting change",
    {
        1: Claim("the variant reconstructs better than its binariser", -1),
        2: Claim("unweighted scores of the variant match or beat its binariser's", 1, matches=True),
        3: Claim("weighted scores of the variant match or beat its binariser's", 1, matches=True),
        4: Claim("the variant has fewer ultra-high-frequency latents than its binariser", -1),
    },
)
OF_A_KIND = Question(
    "which binariser of a kind is best",
    {
        1: Claim("the binariser reconstructs better than the first of its kind", -1),
        2: Claim("unweighted scores of the binariser match or beat the first's", 1, matches=True),
        3: Claim("weighted scores of the binariser match or beat the first's", 1, matches=True),
        4: Claim("the binariser has fewer ultra-high-frequency latents than the first", -1),
    },
)
_ORDER = (FINDINGS, TRADE_CONTINUOUS, TRADE_BINARY, PREVENTED, PREVENTED_CONTINUOUS, OF_A_KIND, FAIR, SETTINGS)


def grouped(comparisons: Iterator[Comparison]) -> list[list[Comparison]]:
    """Comparisons of one question and two names, a cell each; questions in their order, then headline pairs first."""
    found: dict[tuple[int, tuple[str, str]], list[Comparison]] = {}
    for one in comparisons:
        found.setdefault((_ORDER.index(one.question), one.names), []).append(one)
    return [found[key] for key in sorted(found, key=lambda key: (key[0], *_ranks(*key[1])))]


def _ranks(one: str, other: str) -> tuple[Any, Any]:
    return _rank(BINARY, one), _rank((*_continuous(one), *CONTROLS), other)


def _rank(order: Sequence[str], name: str) -> tuple[int, str]:
    return (order.index(name) if name in order else len(order), name)


def compared(subjects: Sequence[Subject], held: set[str]) -> Iterator[Comparison]:
    """Every comparison, cell by cell. held: the binarisers and variants with frequency control."""
    ordered = sorted(subjects, key=lambda subject: (cell(subject.coder), subject))
    for _, group in groupby(ordered, key=lambda subject: cell(subject.coder)):
        here = list(group)
        there = {name: _by_seed(here, name, TRAINED) for name in in_order(subject.coder.binariser for subject in here)}
        for question, one, other in _asked(set(there), held):
            yield Comparison(question, there[one], there[other])
        for name, seeds in there.items():
            for control in CONTROLS:
                if controls := _by_seed(here, name, control):
                    yield Comparison(FAIR, seeds, controls)


def _by_seed(subjects: list[Subject], binariser: str, version: str) -> Seeds:
    return {one.coder.seed: one for one in subjects if (one.coder.binariser, one.version) == (binariser, version)}


def _asked(there: set[str], held: set[str]) -> Iterator[tuple[Question, str, str]]:
    """The questions that a cell with these binarisers answers."""
    for name in in_order(there):
        kind = kind_of(name)
        if kind in BINARY and (continuous := continuous_counterpart(name, there)):
            yield FINDINGS, name, continuous
            if name in held:
                yield PREVENTED_CONTINUOUS, name, continuous
        if kind in BETWEEN and (end := counterpart(name, there, ("topk",))):
            yield TRADE_CONTINUOUS, name, end
        if kind in BETWEEN and (end := counterpart(name, there, ("binary-topk",))):
            yield TRADE_BINARY, name, end
        first = next((one for kinds in (CONTINUOUS, BINARY) if name in kinds for one in kinds if one in there), name)
        if first != name:
            yield OF_A_KIND, name, first
        if name != kind and kind in there:
            yield (PREVENTED if name in held and kind not in held else SETTINGS), name, kind


def _continuous(binariser: str) -> tuple[str, ...]:
    """Those that are grouped first for what is grouped, and last for another."""
    return tuple(sorted(CONTINUOUS, key=lambda one: REGISTRY[one].grouped != REGISTRY[binariser].grouped))


def continuous_counterpart(binariser: str, there: set[str]) -> str | None:
    """The continuous binariser, of those that a cell has, that one which is not is compared with."""
    return counterpart(binariser, there, _continuous(binariser))


def counterpart(binariser: str, there: set[str], order: Sequence[str]) -> str | None:
    """The first of `order` that a cell has; None where it has none.

    For a variant, their variants of that name come first: what is finetuned is compared with what is finetuned. Last of all
    come their other variants.
    """
    alike = [name + binariser.removeprefix(kind_of(binariser)) for name in order]
    others = [name for kind in order for name in in_order(there) if kind_of(name) == kind]
    return next((name for name in (*alike, *order, *others) if name in there), None)
