"""The stage that draws a figure or writes a table: it hands the spec to the module that the registry names."""

from importlib import import_module
from pathlib import Path

from bsc.errors import UserError
from bsc.figures.registry import FIGURES
from bsc.stages import FigureSpec


def draw(spec: FigureSpec, results: Path, output: Path) -> None:
    """Draw `spec.name` from the files under `results`; `output` is the path to write, without its ending.

    A figure is written as .pdf and .png, with its numbers in .csv; a table as .csv, and .tex where it has LaTeX.
    Raises UserError when there is no such figure, when the config has no coder of the kind that it shows, or when a result
    that it reads is missing or not readable.
    """
    if spec.name not in FIGURES:
        raise UserError(f"there is no figure `{spec.name}`; there are {', '.join(FIGURES)}", where="--spec")
    if not spec.coders:
        raise UserError(
            f"`{spec.name}` has nothing to show: the config asks for nothing that it shows",
            where=FIGURES[spec.name].block or "coders",
            fix=f"it needs {FIGURES[spec.name].lacks}",
        )
    import_module(FIGURES[spec.name].module).draw(spec, results, output)
