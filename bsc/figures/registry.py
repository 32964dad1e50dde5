"""Every figure and table by name: what it shows, what it needs, and the module that draws it. No matplotlib in here."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from bsc.coders.binarisers.registry import REGISTRY, kind_of
from bsc.paths import CoderId

CONTINUOUS = tuple(name for name, entry in REGISTRY.items() if entry.continuous and not entry.between)
BINARY = tuple(name for name, entry in REGISTRY.items() if not entry.continuous and not entry.between)
"""In the order in which they stand for their kind where a figure shows one."""
BETWEEN = tuple(name for name, entry in REGISTRY.items() if entry.between)

Need = Literal[
    "evaluation", "references", "scores", "latents", "explanations", "choice", "training", "ablation", "probing", "runtime"
]


@dataclass(frozen=True)
class Figure:
    """module: where its `draw` is. needs: which results of each coder it reads. select: which coders of a grid it shows.

    kind: figure (PDF and PNG) or table (CSV, and LaTeX where `latex`). joint: joint evaluations are shown too.
    shows: a coder that the grid must have for there to be anything to show, in words. block: a block of the config without
    which its results are not made. scorer: whose scores it shows, where it is of one scorer alone. compares: every explainer,
    side by side. trained: no finetuned coders, whose steps are of another kind.
    """

    module: str
    needs: tuple[Need, ...]
    select: Callable[[Sequence[CoderId]], list[CoderId]]
    kind: Literal["figure", "table"] = "figure"
    joint: bool = False
    latex: bool = False
    shows: str = "a coder"
    block: str | None = None
    scorer: Literal["detection", "fuzzing"] | None = None
    compares: bool = False
    trained: bool = False

    @property
    def lacks(self) -> str:
        """What a config lacks for which it has nothing to show."""
        if self.compares:
            return "a language model under `autointerp.llms`"
        also = f", and `{self.block}` in the config" if self.block else ""
        return f"{self.shows} in the grid{also}" + (f", and `{self.scorer}` in `autointerp.scorers`" if self.scorer else "")

    def files(self, name: str) -> list[str]:
        """What it writes under the results folder, when its name is `name`; the CSV holds the numbers that it shows."""
        endings = ("pdf", "png", "csv") if self.kind == "figure" else ("csv", "tex") if self.latex else ("csv",)
        return [f"{self.kind}s/{name}.{ending}" for ending in endings]


def everything(coders: Sequence[CoderId]) -> list[CoderId]:
    """Every coder of the grid."""
    return list(coders)


def transcoders(coders: Sequence[CoderId]) -> list[CoderId]:
    """The skip-transcoders of the grid; where it has none, its transcoders, and then whatever it has."""
    return next((found for found in _by_architecture(coders) if found), [])


def _by_architecture(coders: Sequence[CoderId]) -> list[list[CoderId]]:
    """The coders of each architecture, in the order in which a figure of one architecture prefers them."""
    return [[coder for coder in coders if coder.architecture == one] for one in ("skip-transcoder", "transcoder", "sae")]


def autoencoders(coders: Sequence[CoderId]) -> list[CoderId]:
    """The SAEs of the grid."""
    return [coder for coder in coders if coder.architecture == "sae"]


def at_one_k(coders: Sequence[CoderId]) -> list[CoderId]:
    """The coders at the k that most kinds of coder have; of several, at the paper's 32, else at the largest."""
    kinds: dict[int, set[tuple[str, str, str, str]]] = {}
    for coder in coders:
        kinds.setdefault(coder.k, set()).add((coder.model, coder.hookpoint, coder.architecture, coder.binariser))
    best = max(kinds, key=lambda k: (len(kinds[k]), k == 32, k), default=None)
    return [coder for coder in coders if coder.k == best]


def timed(coders: Sequence[CoderId]) -> list[CoderId]:
    """Of the first architecture's coders at one k, the first hookpoint and seed of each model and binariser."""
    return _firsts(at_one_k(transcoders(coders)), lambda coder: (coder.model, coder.binariser))


def first_at_one_k(coders: Sequence[CoderId]) -> list[CoderId]:
    """Of the coders at one k, the first seed of each kind."""
    return _firsts(sorted(at_one_k(coders)), lambda coder: (cell(coder), coder.binariser))


def _firsts(coders: Sequence[CoderId], kind: Callable[[CoderId], object]) -> list[CoderId]:
    """The first coder of each kind, in their order."""
    found: dict[object, CoderId] = {}
    for coder in coders:
        found.setdefault(kind(coder), coder)
    return list(found.values())


def by_bits(coders: Sequence[CoderId]) -> list[CoderId]:
    """At the k that most kinds of coder have: the n-bit coders, and `topk` and `binary-topk`, which are their ends."""
    ends = ("topk", "binary-topk")
    shown = [coder for coder in at_one_k(coders) if kind_of(coder.binariser) == "nbit" or coder.binariser in ends]
    return shown if any(kind_of(coder.binariser) == "nbit" for coder in shown) else []


def of_several_models(coders: Sequence[CoderId]) -> list[CoderId]:
    """The coders of the first architecture, in the order of `transcoders`, that more than one model has."""
    return next((found for found in _by_architecture(coders) if len({coder.model for coder in found}) > 1), [])


def of_several_seeds(coders: Sequence[CoderId]) -> list[CoderId]:
    """The coders that there are several of, but for their seed."""
    counts = Counter((cell(coder), coder.binariser) for coder in coders)
    return [coder for coder in coders if counts[cell(coder), coder.binariser] > 1]


def one_continuous(coders: Sequence[CoderId]) -> list[CoderId]:
    """The first `topk` coder at the largest k."""
    return _first(coders, CONTINUOUS)


def one_binary(coders: Sequence[CoderId]) -> list[CoderId]:
    """The first binary coder at the largest k, `binary-topk` if there is one."""
    return _first(coders, BINARY)


def cell(coder: CoderId) -> tuple[str, str, str, int]:
    """Where a binary and a continuous coder can be compared: model, hookpoint, architecture and k."""
    return coder.model, coder.hookpoint, coder.architecture, coder.k


def compared(coders: Sequence[CoderId]) -> list[CoderId]:
    """The binary and continuous coders of the cells that have both; what lies between is on neither side."""
    sides = [coder for coder in coders if kind_of(coder.binariser) in (*CONTINUOUS, *BINARY)]
    kinds: dict[object, set[bool]] = {}
    for coder in sides:
        kinds.setdefault(cell(coder), set()).add(kind_of(coder.binariser) in CONTINUOUS)
    return [coder for coder in sides if len(kinds[cell(coder)]) == 2]


def _first(coders: Sequence[CoderId], order: tuple[str, ...]) -> list[CoderId]:
    shown = [coder for coder in transcoders(coders) if coder.binariser in order]
    return sorted(shown, key=lambda coder: (order.index(coder.binariser), -coder.k, coder))[:1]


BOTH = "a binary and a continuous coder of one architecture, hookpoint and k"

FIGURES: dict[str, Figure] = {
    "fig1": Figure("bsc.figures.by_k", ("evaluation", "references"), transcoders),
    "fig2": Figure("bsc.figures.by_k", ("scores",), transcoders, scorer="fuzzing"),
    "fig3": Figure("bsc.figures.by_k", ("scores",), transcoders, scorer="fuzzing"),
    "fig4": Figure("bsc.figures.windows", ("scores", "explanations", "latents"), one_continuous, shows="a `topk` coder"),
    "fig5": Figure("bsc.figures.windows", ("scores", "explanations", "latents"), one_binary, shows="a `binary-topk` coder"),
    "fig6": Figure("bsc.figures.by_k", ("evaluation", "references"), everything),
    "fig7": Figure("bsc.figures.by_k", ("evaluation", "references"), everything),
    "fig8": Figure("bsc.figures.by_k", ("evaluation",), everything),
    "fig9": Figure("bsc.figures.training", ("training",), everything, trained=True),
    "fig10": Figure("bsc.figures.training", ("training",), everything, trained=True),
    "fig11": Figure("bsc.figures.by_k", ("scores",), transcoders, scorer="detection"),
    "fig12": Figure("bsc.figures.by_k", ("scores",), transcoders, scorer="detection"),
    "fig13": Figure("bsc.figures.by_k", ("evaluation",), autoencoders, shows="an `sae`"),
    "fig14": Figure("bsc.figures.by_k", ("scores",), autoencoders, shows="an `sae`", scorer="fuzzing"),
    "fig15": Figure("bsc.figures.by_k", ("scores",), autoencoders, shows="an `sae`", scorer="fuzzing"),
    "fig16": Figure("bsc.figures.frequencies", ("latents",), everything),
    "frequency-control": Figure("bsc.figures.control", ("evaluation",), everything, block="frequency"),
    "learning-rates": Figure("bsc.figures.sweeps", ("choice",), everything, block="tune"),
    "fig17": Figure("bsc.figures.distributions", ("scores", "latents"), at_one_k),
    "fig18": Figure("bsc.figures.ablation", ("ablation", "latents"), first_at_one_k, block="ablation"),
    "fig19": Figure("bsc.figures.compared", ("evaluation", "scores"), at_one_k),
    "fig20": Figure(
        "bsc.figures.training",
        ("evaluation", "training"),
        of_several_models,
        shows="coders of a second model, of one architecture with the first's,",
        trained=True,
    ),
    "fig21": Figure("bsc.figures.probing", ("probing",), first_at_one_k, block="probing"),
    "fig22": Figure("bsc.figures.bits", ("evaluation", "scores", "training"), by_bits, shows="an `nbit` coder at the common k"),
    "runtime": Figure("bsc.figures.runtime", ("runtime",), timed, block="runtime", trained=True),
    "score-distribution": Figure("bsc.figures.distributions", ("scores", "latents"), at_one_k),
    "seeds": Figure("bsc.figures.compared", ("evaluation", "scores"), of_several_seeds, shows="a second seed of a coder"),
    "explainers": Figure("bsc.figures.explainers", ("scores",), transcoders, compares=True),
    "table1": Figure("bsc.figures.tables", ("evaluation", "references", "scores"), everything, "table", True, True),
    "table2": Figure("bsc.figures.tables", ("evaluation", "references", "scores"), at_one_k, "table", latex=True),
    "coders": Figure("bsc.figures.tables", ("evaluation", "references", "scores"), everything, "table", True),
    "claims": Figure("bsc.figures.claims", ("evaluation", "scores"), compared, "table", shows=BOTH),
    "comparisons": Figure("bsc.figures.claims", ("evaluation", "scores", "training"), everything, "table"),
}
