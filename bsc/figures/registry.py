"""Every figure and table by name: what it shows, what it needs, and the module that draws it. No matplotlib in here."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from bsc.paths import CoderId

Need = Literal["evaluation", "references", "scores", "latents", "explanations"]


@dataclass(frozen=True)
class Figure:
    """module: where its `draw` is. needs: which results of each coder it reads. select: which coders of a grid it shows.

    kind: figure (PDF and PNG) or table (CSV, and LaTeX where `latex`). joint: joint evaluations are shown too.
    shows: a coder that the grid must have for there to be anything to show, in words. compares: every explainer, side by side.
    """

    module: str
    needs: tuple[Need, ...]
    select: Callable[[Sequence[CoderId]], list[CoderId]]
    kind: Literal["figure", "table"] = "figure"
    joint: bool = False
    latex: bool = False
    shows: str = "a coder"
    compares: bool = False

    def files(self, name: str) -> list[str]:
        """What it writes under the results folder, when its name is `name`; the CSV holds the numbers that it shows."""
        endings = ("pdf", "png", "csv") if self.kind == "figure" else ("csv", "tex") if self.latex else ("csv",)
        return [f"{self.kind}s/{name}.{ending}" for ending in endings]


def everything(coders: Sequence[CoderId]) -> list[CoderId]:
    """Every coder of the grid."""
    return list(coders)


def transcoders(coders: Sequence[CoderId]) -> list[CoderId]:
    """The skip-transcoders of the grid; where it has none, its transcoders, and then whatever it has."""
    for architecture in ("skip-transcoder", "transcoder", "sae"):
        if found := [coder for coder in coders if coder.architecture == architecture]:
            return found
    return []


def one_continuous(coders: Sequence[CoderId]) -> list[CoderId]:
    """The first `topk` coder at the largest k."""
    return _first(coders, ("topk", "groupmax"))


def one_binary(coders: Sequence[CoderId]) -> list[CoderId]:
    """The first binary coder at the largest k, `binary-topk` if there is one."""
    return _first(coders, ("binary-topk", "binary-topk-exact", "binary-groupmax", "gumbel", "reinmax", "binary-threshold"))


def _first(coders: Sequence[CoderId], order: tuple[str, ...]) -> list[CoderId]:
    shown = [coder for coder in transcoders(coders) if coder.binariser in order]
    return sorted(shown, key=lambda coder: (order.index(coder.binariser), -coder.k, coder))[:1]


FIGURES: dict[str, Figure] = {
    "fig1": Figure("bsc.figures.by_k", ("evaluation",), transcoders),
    "fig2": Figure("bsc.figures.by_k", ("scores",), transcoders),
    "fig3": Figure("bsc.figures.by_k", ("scores",), transcoders),
    "fig4": Figure("bsc.figures.windows", ("scores", "explanations", "latents"), one_continuous, shows="a `topk` coder"),
    "fig5": Figure("bsc.figures.windows", ("scores", "explanations", "latents"), one_binary, shows="a `binary-topk` coder"),
    "fig7": Figure("bsc.figures.by_k", ("evaluation",), everything),
    "fig16": Figure("bsc.figures.frequencies", ("latents",), everything),
    "explainers": Figure("bsc.figures.explainers", ("scores",), transcoders, compares=True),
    "table1": Figure("bsc.figures.tables", ("evaluation", "references", "scores"), everything, "table", True, True),
    "coders": Figure("bsc.figures.tables", ("evaluation", "references", "scores"), everything, "table", True),
}
