"""A coder's latents, for a reader: how often each fires, what was said of it and how that scored, and its windows as text.

No stage uses this; docs/latents.md shows how to. No torch.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Int

from bsc import paths
from bsc.autointerp.explain import FILE as EXPLANATIONS
from bsc.autointerp.explain import decoder, open_windows
from bsc.autointerp.explainers.base import Decode
from bsc.autointerp.firings import LatentCache
from bsc.autointerp.llm.shown import window_text
from bsc.autointerp.samples import NOT_SAMPLED, SCORED
from bsc.autointerp.score import NONE, SCORES
from bsc.autointerp.windows import EXPLANATION, NEITHER, TEST, FiringWindows, Grid, activations
from bsc.errors import UserError
from bsc.io import read_manifest, read_parquet
from bsc.stages import WindowsSpec, measure_of

HALVES = {EXPLANATION: "explanation", TEST: "test", NEITHER: "neither"}


@dataclass(frozen=True)
class Latents:
    """The interpreted latents of a coder.

    table: a row a latent, by its number: status (see `census`), firings, rate (the share of the tokens on which it fires),
    sampling_weight (see there too), explanation, and a column for each scorer with its F1, of `embedding` its AUROC; NaN where
    the latent was not scored.
    """

    table: pd.DataFrame
    cache: LatentCache
    grid: Grid
    decode: Decode

    @classmethod
    def open(cls, results: Path | str, coder: str, *, variant: str = "trained", explainer: str = paths.NGRAM) -> "Latents":
        """Of a results folder. coder: its path in `coders`; variant: itself (`trained`) or a control; explainer: whose words.

        Raises UserError or CorruptFile when `coder` is no such path, there is no such variant or explainer, or a file is
        missing or was altered.
        """
        parts = Path(coder).parts
        if len(parts) != 4:
            fix = "name it as MODEL/HOOKPOINT/KIND/SEED, its folder under `coders`"
            raise UserError(f"`{coder}` names no coder", where=str(results), fix=fix)
        wildcards = dict(zip(("model", "hookpoint", "kind", "seed"), parts, strict=True))
        folder = Path(results, "autointerp", coder)
        _check("variant", variant, folder, [found.parent.name for found in folder.glob("*/latents")])
        latents = folder / variant / "latents"
        words = [found.parent for found in (*latents.parent.glob("scores"), *latents.parent.glob("*/scores"))]
        _check("explainer", explainer, latents.parent, [paths.NGRAM if one == latents.parent else one.name for one in words])
        explanations, scores = (
            latents.parent / ("" if explainer == paths.NGRAM else explainer) / one for one in ("explanations", "scores")
        )
        windows = WindowsSpec.model_validate(read_manifest(explanations)["windows"])
        tokens, model = (Path(results, pattern.format(**wildcards)) for pattern in (paths.TOKENS, paths.MODEL))
        cache, grid = open_windows(windows, latents, tokens)
        read_manifest(scores)
        table = _table(read_parquet(explanations / EXPLANATIONS), read_parquet(scores / SCORES), cache)
        return cls(table, cache, grid, decoder(model))

    def windows(self, latent: int, most: int = 10, *, seed: int = 0) -> pd.DataFrame:
        """The windows in which a latent fires most strongly: window (its number), half, activation (its largest) and text.

        half: which half of the documents it is of, `explanation`, `test` or `neither`. Ties, which are all of a binary latent's
        windows, come in random order. In the text `<<` and `>>` stand around the tokens on which the latent fires.
        Raises IndexError when the coder has no such latent.
        """
        self._check_latent(latent)
        firing = FiringWindows.of(self.cache, latent, self.grid.window)
        shuffled = np.random.default_rng(seed).permutation(len(firing.maxima))
        order = np.lexsort((shuffled, -firing.maxima))[:most]
        windows = firing.windows[order]
        halves = [HALVES[half] for half in self.grid.halves[windows].tolist()]
        facts = {"window": windows, "half": halves, "activation": firing.maxima[order]}
        return pd.DataFrame({**facts, "text": self.texts(latent, windows)})

    def texts(self, latent: int, windows: Iterable[int]) -> list[str]:
        """Windows, by their numbers, as lines of text with `<<` and `>>` around the tokens on which a latent fires.

        Raises IndexError when there is no such latent or window.
        """
        self._check_latent(latent)
        numbers: Int[np.ndarray, " windows"] = np.fromiter(windows, np.int64)
        have = len(self.grid.tokens)
        if len(outside := numbers[(numbers < 0) | (numbers >= have)]):
            raise IndexError(f"there is no window {outside[0]}: the text has {have}")
        fires = activations(self.cache, latent, numbers, self.grid.window) > 0
        return [window_text(self.grid.tokens[one], marks, self.decode) for one, marks in zip(numbers, fires, strict=True)]

    def _check_latent(self, latent: int) -> None:
        have = len(self.cache.offsets) - 1
        if not 0 <= latent < have:
            raise IndexError(f"there is no latent {latent}: the coder has {have}")


def _check(kind: str, name: str, folder: Path, have: list[str]) -> None:
    if name not in have:
        known = f", but {', '.join(f'`{one}`' for one in sorted(have))}" if have else ""
        fix = "name one that is there, or run the rules that make it"
        raise UserError(f"there is no {kind} `{name}`{known}", where=str(folder), fix=fix)


def _table(explanations: pd.DataFrame, scores: pd.DataFrame, cache: LatentCache) -> pd.DataFrame:
    own = scores[scores["control"] == NONE]
    if "sampling_weight" not in explanations:
        explanations = explanations.assign(sampling_weight=_uniform(explanations["status"]))
    table = explanations.set_index("latent")[["status", "firings", "sampling_weight", "explanation"]]
    table.insert(2, "rate", table["firings"] / cache.facts["usable_rows"])
    for scorer, rows in own.groupby("scorer"):
        table[str(scorer)] = rows.set_index("latent")[measure_of(str(scorer))]
    return table


def _uniform(status: "pd.Series[str]") -> "pd.Series[float]":
    """The sampling weights of results from before there was a column of them, when all eligible latents had one chance."""
    scored = status == SCORED
    return scored * float((scored | (status == NOT_SAMPLED)).sum() / max(scored.sum(), 1))
