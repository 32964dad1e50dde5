"""Tables as LaTeX, with booktabs: text escaped, numbers with their standard error in parentheses."""

import math
from collections.abc import Sequence

_MORE_DIGITS = 4
"""How many decimals more a number may have for its error; what is smaller still is but rounding."""
_ESCAPES = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        **{character: f"\\{character}" for character in "&%$#_{}"},
    }
)


def escape(text: str) -> str:
    """Text as LaTeX shows it, character by character."""
    return text.translate(_ESCAPES)


def concise(value: float, error: float, digits: int) -> str:
    """A number with `digits` decimals and its standard error in units of the last one: 0.1234, 0.0041 is 0.123(4).

    More decimals where the error would be 0 otherwise: 0.1234, 0.0001 is 0.1234(1). A dash for NaN; without parentheses when
    there is no error. A minus is a proper one.
    """
    if math.isnan(value):
        return "--"
    if not math.isnan(error):
        longer = range(digits, digits + _MORE_DIGITS + 1)
        digits = next((enough for enough in longer if round(error * 10**enough)), digits)
    shown = f"{value:.{digits}f}"
    minus, plain = ("$-$", shown[1:]) if shown.startswith("-") else ("", shown)
    return minus + plain + ("" if math.isnan(error) else f"({round(error * 10**digits)})")


def table(header: Sequence[str], groups: Sequence[tuple[str, Sequence[Sequence[str]]]], caption: str, label: str) -> str:
    """A longtable: `header` cells, then groups of rows, each under its title. All cells are LaTeX already.

    The first two columns are text and left-aligned, the others numbers.
    """
    columns = "ll" + "r" * (len(header) - 2)
    lines = [
        "% needs \\usepackage{booktabs,longtable}",
        rf"\begin{{longtable}}{{{columns}}}",
        rf"\caption{{{caption}}}\label{{{label}}}\\",
        r"\toprule",
        _row(header),
        r"\midrule",
        r"\endfirsthead",
        r"\toprule",
        _row(header),
        r"\midrule",
        r"\endhead",
        r"\bottomrule",
        r"\endlastfoot",
    ]
    for number, (title, rows) in enumerate(groups):
        lines += [r"\addlinespace"] if number else []
        lines += [rf"\multicolumn{{{len(header)}}}{{l}}{{\textit{{{title}}}}}\\*", *map(_row, rows)]
    return "\n".join([*lines, r"\end{longtable}"]) + "\n"


def _row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r"\\"
