"""Text panels: where one latent of a continuous coder fires, by decile, and one of a binary coder with its explanation.

Paper, Figs. 4 and 5. The continuous latent is the one with the median score, the binary one has the best (*ours*: the choice is
stated on the figure).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Int

from bsc import paths
from bsc.autointerp.explain import decoder, open_windows
from bsc.autointerp.explainers.base import Decode
from bsc.autointerp.firings import LatentCache
from bsc.autointerp.windows import DECILES, TEST, FiringWindows, Grid, activations
from bsc.figures import style
from bsc.figures.panels import ARCHITECTURE_NAMES, place
from bsc.figures.results import PREFERRED, interpreted, preferred, scores
from bsc.figures.sheet import Passage, Sheet
from bsc.io import read_manifest, read_parquet
from bsc.paths import CoderId
from bsc.stages import FigureSpec, WindowsSpec, coders_of

_A_DECILE = 2
_FIRING = 8
_COUNTEREXAMPLES = 6
_MEANINGS = {
    (True, 0): "fires, answered no",
    (False, 1): "silent, answered yes",
    (True, -1): "fires, answer not read",
    (False, -1): "silent, answer not read",
}


def draw(spec: FigureSpec, results: Path, output: Path) -> None:
    """Draw `fig4` (the deciles of a continuous latent) or `fig5` (a binary latent, its explanation and counterexamples)."""
    coder = coders_of(spec.coders)[0]
    latents = Interpreted.open(results, coder, spec.explainers[0])
    with style.styled(spec.style):
        sheet = Sheet(style.width_inches(3, spec.style), spec.style)
        shown = latents.choose(best=spec.name == "fig5")
        sheet.paragraph(_title(spec, coder, shown), bold=True)
        if shown is None:
            sheet.paragraph("No latent of this coder fires on the interpretation split.")
            style.save(sheet.figure(), latents.table(-1, "", np.zeros(0, np.int64)), output)
            return
        sheet.paragraph(f"{coder.model}. {shown.why}; {latents.frequency(shown.latent)}.", small=True)
        sheet.paragraph(f"Explanation: {latents.explanation(shown.latent)}")
        sheet.gap()
        numbers = _deciles(sheet, latents, shown) if spec.name == "fig4" else _examples(sheet, latents, shown)
        sheet.gap()
        sheet.paragraph(_sample(spec, results), small=True)
        style.save(sheet.figure(), numbers, output)


@dataclass(frozen=True)
class Choice:
    """The latent that is shown. why: its score and its place among the others. scorer: whose score, None where none is."""

    latent: int
    why: str
    scorer: str | None


def _sample(spec: FigureSpec, results: Path) -> str:
    """What the latent is one of."""
    table = scores(spec, results)
    return f"{interpreted(spec, table[table['scorer'] == preferred(table)])} Shown is one latent of one seed, so no interval."


def _title(spec: FigureSpec, coder: CoderId, shown: Choice | None) -> str:
    latent = "" if shown is None else f", latent {shown.latent:,}"
    architecture = ARCHITECTURE_NAMES[coder.architecture].lower() if coder.architecture != "sae" else "SAE"
    return f"{spec.labels[coder.binariser]} {architecture}, {place(coder.hookpoint)}, k = {coder.k}, seed {coder.seed}{latent}"


@dataclass(frozen=True)
class Interpreted:
    """What is known of a coder's latents: where they fire, their explanations, and how these scored."""

    cache: LatentCache
    grid: Grid
    decode: Decode
    explanations: pd.DataFrame
    scores: pd.DataFrame
    answers: pd.DataFrame

    @classmethod
    def open(cls, results: Path, coder: CoderId, explainer: str) -> "Interpreted":
        """Read it all from the results folder. Raises UserError or CorruptFile where a file is missing or not readable."""
        explained = (paths.interpreted(pattern, explainer) for pattern in (paths.EXPLANATIONS, paths.SCORES))
        latents, explanations, scores = (
            results / coder.at(pattern, variant="trained") for pattern in (paths.LATENTS, *explained)
        )
        windows = WindowsSpec.model_validate(read_manifest(explanations)["windows"])
        cache, grid = open_windows(windows, latents, results / coder.at(paths.TOKENS))
        return cls(
            cache=cache,
            grid=grid,
            decode=decoder(results / coder.at(paths.MODEL)),
            explanations=read_parquet(explanations / "explanations.parquet").set_index("latent"),
            scores=_uncontrolled(read_parquet(scores / "scores.parquet")),
            answers=_uncontrolled(read_parquet(scores / "answers.parquet")),
        )

    def choose(self, *, best: bool) -> Choice | None:
        """The latent with the best or the median F1, by fuzzing where that was scored; ties go to the more frequent one.

        The median is by sampling weight. Where no latent is scored, the one that fires most; None where none fires.
        """
        scorer = next((name for name in PREFERRED if (self.scores["scorer"] == name).any()), None)
        if scorer is not None:
            scored = self.scores[self.scores["scorer"] == scorer].sort_values(["f1", "firings", "latent"])
            below = scored["sampling_weight"].cumsum().to_numpy()
            row = scored.iloc[-1 if best else int(np.searchsorted(below, below[-1] / 2))]
            median = "the weighted median" if scored["sampling_weight"].nunique() > 1 else "the median"
            rank = "the best" if best else median
            why = f"{scorer.capitalize()} F1 {row['f1']:.2f}, {rank} of {len(scored):,} scored latents"
            return Choice(int(row["latent"]), why, scorer)
        if not self.cache.firings.any():
            return None
        why = "No latent of this coder could be scored: this is the one that fires most"
        return Choice(int(self.cache.firings.argmax()), why, None)

    def frequency(self, latent: int) -> str:
        """How often a latent fires, in words."""
        firings, tokens = int(self.cache.firings[latent]), self.cache.facts["usable_rows"]
        return f"fires on {firings:,} of {tokens:,} tokens ({100 * firings / tokens:.2g}%)"

    def explanation(self, latent: int) -> str:
        """The explanation of a latent, or that there is none."""
        text = self.explanations["explanation"].get(latent)
        return text if isinstance(text, str) and text else "none was made"

    def table(self, latent: int, group: str, windows: Int[np.ndarray, " windows"]) -> pd.DataFrame:
        """One row for each token of some windows: latent, group, window, position, token, text, activation."""
        size = self.grid.window
        values = activations(self.cache, latent, windows, size) if len(windows) else np.zeros((0, size))
        tokens = self.grid.tokens[windows].ravel()
        return pd.DataFrame(
            {
                "latent": latent,
                "group": group,
                "window": np.repeat(windows, size),
                "position": np.tile(np.arange(size), len(windows)),
                "token": tokens,
                "text": [self.decode([int(token)]) for token in tokens],
                "activation": values.ravel(),
            }
        )

    def passages(self, table: pd.DataFrame, labels: Sequence[str], notes: Sequence[str], strongest: float) -> list[Passage]:
        """The windows of `table` as passages. strongest: the activation that is shaded darkest."""
        groups = [group for _, group in table.groupby("window", sort=False)]
        return [
            Passage(label, list(group["text"]), list(group["activation"] / strongest), note)
            for group, label, note in zip(groups, labels, notes, strict=True)
        ]


def _uncontrolled(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["control"] == "none"]


def _deciles(sheet: Sheet, latents: Interpreted, shown: Choice) -> pd.DataFrame:
    """Windows of each decile of the maximum activation, the strongest first, among those that the latent is tested on."""
    firing = FiringWindows.of(latents.cache, shown.latent, latents.grid.window).within(latents.grid, TEST)
    if not len(firing.windows):
        sheet.paragraph("It fires in no window of the half of the documents that tests are made of.")
        return latents.table(shown.latent, "", firing.windows)
    deciles = firing.deciles(np.random.default_rng(shown.latent))
    tables = []
    for decile in reversed(range(DECILES)):
        members = np.flatnonzero(deciles == decile)
        members = members[np.argsort(-firing.maxima[members], kind="stable")]
        picked = _spread(members, _A_DECILE)
        tables.append(latents.table(shown.latent, f"decile {decile + 1}", firing.windows[picked]))
    numbers = pd.concat(tables, ignore_index=True)
    windows = numbers.groupby("window", sort=False)
    labels = _once(windows["group"].first().tolist())
    maxima = windows["activation"].max()
    sheet.passages(latents.passages(numbers, labels, [f"{value:.2f}" for value in maxima], float(firing.maxima.max())))
    sheet.gap()
    sheet.paragraph(
        f"Deciles of the window's maximum activation, which stands at the right (10: the strongest), by its rank among the "
        f"{len(firing.windows):,} firing windows of {latents.grid.window} tokens in the half of the documents that tests are "
        f"made of. Shading: activation, relative to the latent's largest.",
        small=True,
    )
    return numbers


def _spread(members: Int[np.ndarray, " members"], most: int) -> Int[np.ndarray, " picked"]:
    """At most `most` of the members, evenly spread over their order, away from its ends."""
    places = (np.arange(most) + 0.5) / most * len(members)
    return members[np.unique(places.astype(np.int64))] if len(members) else members


def _once(labels: Sequence[str]) -> list[str]:
    """Labels with repeats of the line above left out."""
    return ["" if before == label else label for before, label in zip(["", *labels], labels, strict=False)]


def _examples(sheet: Sheet, latents: Interpreted, shown: Choice) -> pd.DataFrame:
    """Firing windows of a binary latent, then the windows about which its explanation was wrong."""
    answers = latents.answers[latents.answers["latent"] == shown.latent].assign(
        answer=lambda table: table["answer"].fillna(-1).astype(int), firing=lambda table: table["firing"].astype(bool)
    )
    right = answers[(answers["scorer"] == shown.scorer) & answers["firing"] & (answers["answer"] == 1)]
    windows = np.sort(right["window"].to_numpy())
    if not len(windows):
        windows = FiringWindows.of(latents.cache, shown.latent, latents.grid.window).windows
    windows = windows[:_FIRING]
    numbers = latents.table(shown.latent, "firing", windows)
    sheet.paragraph("Fires" + (", and the explanation says so" if len(right) else ""), bold=True)
    sheet.passages(latents.passages(numbers, [""] * len(windows), [""] * len(windows), 1.0))
    wrong = answers[answers["answer"] != answers["firing"].astype(int)].sort_values(["scorer", "firing", "window"])
    sheet.gap()
    if not len(wrong):
        tested = f"none among {answers['window'].nunique():,} test windows" if len(answers) else "none, as it was not tested"
        sheet.paragraph(f"Counterexamples: {tested}", bold=True)
        return numbers
    return pd.concat([numbers, _counterexamples(sheet, latents, shown, wrong, len(answers))], ignore_index=True)


def _counterexamples(sheet: Sheet, latents: Interpreted, shown: Choice, wrong: pd.DataFrame, asked: int) -> pd.DataFrame:
    picked = wrong.head(_COUNTEREXAMPLES)
    some = f"all {len(wrong)}" if len(picked) == len(wrong) else f"{len(picked)} of {len(wrong)}"
    said = "the one wrong answer" if len(wrong) == 1 else f"{some} wrong answers"
    sheet.paragraph(f"Counterexamples: {said} among {asked}", bold=True)
    tables = []
    for row in picked.to_dict("records"):
        meaning = f"{row['scorer']}: {_MEANINGS[row['firing'], row['answer']]}"
        table = latents.table(shown.latent, meaning, np.array([row["window"]], dtype=np.int64))
        sheet.paragraph(meaning, small=True)
        sheet.passages(latents.passages(table, [""], [""], 1.0))
        tables.append(table)
    return pd.concat(tables, ignore_index=True)
