"""Tables of coders, as CSV and LaTeX: `coders`, one row each; `table1`, means over seeds; `table2`, the same at one k."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bsc.coders.binarisers.registry import rank
from bsc.figures import latex
from bsc.figures.panels import ARCHITECTURE_NAMES, place, sites
from bsc.figures.results import (
    ABLATED,
    BOUNDS,
    EFFECTIVE,
    KEYS,
    KIND,
    LINEAR,
    METRICS,
    SCORES,
    STATUSES,
    UNEXPLAINED,
    UNPARSED,
    evaluations,
    references,
    scores,
)
from bsc.figures.style import write_csv
from bsc.io import write_text
from bsc.paths import ARCHITECTURES
from bsc.stages import FigureSpec, measure_of

SHOWN = (
    ("ce_increase", "CE incr.", 1, 3),
    ("accuracy_decrease", r"acc.\ decr.\ (\%)", 100, 2),
    ("fvu", "FVU", 1, 3),
    ("l0", "$L_0$", 1, 1),
    ("dead_fraction", r"dead (\%)", 100, 1),
    ("ultra_high_fraction", r"$>$10\% (\%)", 100, 2),
    ("detection_unweighted", "detection", 1, 3),
    ("fuzzing_unweighted", "fuzzing", 1, 3),
    ("fuzzing_weighted", "weighted", 1, 3),
    ("embedding_auroc_unweighted", "embedding", 1, 3),
)
"""Columns of the LaTeX table: name, heading, what it is multiplied by, decimals."""

_CAPTION = (
    r"Coders spliced into the model: means over seeds, with the standard error of the mean in units of the last digit where "
    r"there are several. CE increase in nats a token; $>$10\%: share of the latents that fire on over 10\% of tokens; "
    r"detection, fuzzing: F1, mean of the scored latents; weighted: fuzzing F1 by firing frequency. "
    r"Last: the hooked module put to zero, to its mean and, where coders read its input, to a linear map of that."
)
_EMBEDDING = r" embedding: AUROC of explanations' cosine similarity to windows, mean of the scored latents."


def draw(spec: FigureSpec, results: Path, output: Path) -> None:
    """Write `coders`, `table1` or `table2`, whichever `spec.name` says."""
    coders, compared = every_coder(spec, results), references(spec, results)
    if spec.name == "coders":
        write_csv(pd.concat([coders.assign(kind="coder"), compared], ignore_index=True)[_columns(coders)], output)
        return
    means = over_seeds(coders, compared)
    write_csv(means, output)
    write_text(output.with_name(output.name + ".tex"), as_latex(means, spec))


def _columns(coders: pd.DataFrame) -> list[str]:
    return ["kind", *coders.columns]


def every_coder(spec: FigureSpec, results: Path) -> pd.DataFrame:
    """One row a coder: keys, metrics and scores, each with `_low` and `_high`, the ends of its 95% interval.

    Scores are `SCORER_SCORE`, with the variant in front where it is not the trained coder, and the control behind the scorer
    where there is one: `fuzzing_weighted`, `fuzzing_shuffled_unweighted`, `random_detection_unweighted`. They are F1, and AUROC
    where the scorer is `embedding_auroc`, which asks nothing and has no `unparsed_share`.
    """
    return evaluations(spec, results, joint=True).merge(_wide(scores(spec, results)), on=KEYS, how="left", validate="1:1")


def _wide(table: pd.DataFrame) -> pd.DataFrame:
    if not len(table):
        return pd.DataFrame(columns=KEYS)
    rows = []
    for key, group in table.groupby(KEYS, sort=True):
        row: dict[str, Any] = dict(zip(KEYS, key, strict=True))
        for found in group.to_dict("records"):
            row |= _score_columns(found)
        rows.append(row)
    return pd.DataFrame(rows)


def _score_columns(found: dict[Any, Any]) -> Iterator[tuple[str, Any]]:
    variant = "" if found["variant"] == "trained" else f"{found['variant']}_"
    control = "" if found["control"] == "none" else f"{found['control']}_"
    measure = measure_of(found["scorer"])
    name = f"{variant}{found['scorer']}_{control}" if measure == "f1" else f"{variant}{found['scorer']}_{measure}_{control}"
    for score in SCORES:
        for end in ("", "_low", "_high"):
            yield f"{name}{score}{end}", found[f"{score}{end}"]
    for beside in (*BOUNDS, EFFECTIVE):
        yield f"{name}weighted_{beside}", found[beside]
    if measure == "f1":
        yield f"{name}{UNPARSED}", found[UNPARSED]
    yield f"{variant}{UNEXPLAINED}", found[UNEXPLAINED]
    for status in STATUSES:
        for count in (f"latents_{status}", f"firing_share_{status}"):
            yield f"{variant}{count}", found[count]


def over_seeds(coders: pd.DataFrame, compared: pd.DataFrame) -> pd.DataFrame:
    """One row a kind of coder: `seeds`, and the mean and standard error (`_sem`, NaN for one seed) of all metrics and scores.

    `variance_left_out` is of the text, not of the coder, and has no error. The references, `compared`, follow without seeds or
    errors.
    """
    values = [*METRICS, *(name for name in map(str, coders) if name.endswith(SCORES))]
    grouped = coders.groupby(KIND, sort=True)
    means = grouped["seed"].size().rename("seeds").to_frame()
    means["variance_left_out"] = grouped["variance_left_out"].mean()
    for name in values:
        means[name] = grouped[name].mean()
        means[f"{name}_sem"] = grouped[name].std(ddof=1) / np.sqrt(grouped[name].count())
    return pd.concat([means.reset_index().assign(kind="coder"), compared], ignore_index=True)[["kind", *KIND, *means]]


def as_latex(means: pd.DataFrame, spec: FigureSpec) -> str:
    """The table in LaTeX: a group of rows for each model and hookpoint, its references last."""
    shown = [column for column in SHOWN if column[0] in means]
    groups = []
    for model, hookpoint in sites(means):
        here = means[(means["model"] == model) & (means["hookpoint"] == hookpoint)]
        rows = [_latex_row(row, shown, spec) for row in sorted(here.to_dict("records"), key=_order)]
        groups.append((f"{latex.escape(model)}, {place(hookpoint)}", rows))
    header = ["coder", "binariser", "$k$", "seeds", *(heading for _, heading, _, _ in shown)]
    caption = _CAPTION + (_EMBEDDING if "embedding_auroc_unweighted" in means else "")
    return latex.table(header, groups, caption, f"tab:{spec.name}")


def _order(row: dict[Any, Any]) -> tuple[Any, ...]:
    if row["kind"] != "coder":
        return (1, (*ABLATED, LINEAR).index(row["kind"]))
    return (0, ARCHITECTURES.index(row["architecture"]), rank(row["binariser"]), int(row["k"]))


def _latex_row(row: dict[Any, Any], shown: list[tuple[str, str, int, int]], spec: FigureSpec) -> list[str]:
    cells = [latex.concise(row[name] * by, row[f"{name}_sem"] * by, digits) for name, _, by, digits in shown]
    if row["kind"] != "coder":
        return [latex.escape(row["kind"]), "", "", "", *cells]
    names = (ARCHITECTURE_NAMES[row["architecture"]], spec.labels[row["binariser"]])
    return [*map(latex.escape, names), f"{row['k']:.0f}", f"{row['seeds']:.0f}", *cells]
