"""Explanations as token patterns, and answers by matching them: no language model (*ours*, after Foote et al. 2023, N2G).

A pattern is a token, with as much of its left context as it takes to be right. It is right where it ends on a token on which
the latent fires; its precision is estimated on the explanation half alone, over all positions of the explanation windows and
of as many silent ones. Every target is covered by the shortest pattern that ends on it and is precise enough, if there is
one; the patterns that cover most targets are kept. What this scores is a lower bound that a language model must beat.
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from bsc.autointerp.explainers.base import Access, Answered, Answers, Decode, Explainer, Explanation, LatentExamples, Questions

Pattern = tuple[int, ...]
_ANY, _OUTSIDE = -1, -2
"""No tokens: what is before a pattern, and before a window."""


def build(options: Mapping[str, Any], access: Access) -> "nullcontext[NgramExplainer]":
    """The explainer of a config's options: length, patterns, precision."""
    return nullcontext(NgramExplainer(**options))


@dataclass(frozen=True)
class NgramExplainer(Explainer):
    """At most `patterns` patterns of at most `length` tokens, each right at least `precision` of the times that it matches."""

    length: int
    patterns: int
    precision: float

    def explain(self, examples: Sequence[LatentExamples], decode: Decode) -> list[Explanation]:
        """One sentence a latent; its rules are the patterns, as lists of token ids, those that cover most targets first."""
        found = [self._patterns(example) for example in examples]
        return [Explanation(sentence(patterns, decode), [list(pattern) for pattern in patterns]) for patterns in found]

    def answer(self, asked: Sequence[tuple[Explanation, Questions]], decode: Decode | None = None) -> list[Answered]:
        """Whether a pattern matches in the window; of marked windows, whether one ends on half of the marked tokens or more."""
        return [Answered(_answer(explanation.rules, questions)) for explanation, questions in asked]

    def _patterns(self, example: LatentExamples) -> list[Pattern]:
        """The shortest precise patterns, by how many targets they cover; ties to the shorter, then to lower token ids."""
        tokens = np.concatenate([example.tokens, example.silent])
        silent = np.zeros(example.silent.shape, bool)
        fires, uncovered = (np.concatenate([one, silent]).ravel() for one in (example.activations > 0, example.targets))
        ends = _places(tokens.ravel(), tokens.ravel()[uncovered])
        grams = np.zeros(len(ends), np.int64)
        found: list[tuple[int, int, Pattern]] = []
        for length in range(1, self.length + 1):
            ends, grams = _longer(tokens, length, ends, grams, uncovered)
            times = np.bincount(grams)
            right = np.bincount(grams[fires[ends]], minlength=len(times))
            precise = right >= self.precision * times
            covered = precise[grams] & uncovered[ends]
            counts = np.bincount(grams[covered], minlength=len(times))[precise]
            uncovered[ends[covered]] = False
            somewhere = np.empty(len(times), np.int64)
            somewhere[grams] = ends
            spelled = tokens.ravel()[somewhere[precise][:, None] + np.arange(1 - length, 1)]
            found += [(-count, length, tuple(gram)) for count, gram in zip(counts.tolist(), spelled.tolist(), strict=True)]
        return [pattern for _, _, pattern in sorted(found)[: self.patterns]]


def _longer(
    tokens: Int[np.ndarray, "windows window"],
    length: int,
    ends: Int[np.ndarray, " ends"],
    grams: Int[np.ndarray, " ends"],
    uncovered: Bool[np.ndarray, " tokens"],
) -> tuple[Int[np.ndarray, " longer"], Int[np.ndarray, " longer"]]:
    """Where the grams of `length` tokens end that end on an uncovered target too, and their numbers, from 0 without gaps.

    ends, grams: the same for one token less. What is left out is no pattern, and neither is what ends like it. Positions are
    those of all windows in a row.
    """
    inside = ends % tokens.shape[1] >= length - 1
    ends = ends[inside]
    longer = grams[inside] * (1 + int(tokens.max())) + tokens.ravel()[ends - (length - 1)]
    wanted = np.unique(longer[uncovered[ends]])
    numbers = np.searchsorted(wanted, longer)
    kept = np.append(wanted, _OUTSIDE)[numbers] == longer
    return ends[kept], numbers[kept]


def _places(tokens: Int[np.ndarray, " tokens"], wanted: Int[np.ndarray, " some"]) -> Int[np.ndarray, " places"]:
    """Where in a row of tokens any of some is, ascending: as by `np.isin`, in a third of the time."""
    among = np.zeros(1 + max(tokens.max(initial=0), wanted.max(initial=0)), bool)
    among[wanted] = True
    return np.flatnonzero(among.take(tokens))


def matches(patterns: Sequence[Sequence[int]], tokens: Int[np.ndarray, "windows window"]) -> Bool[np.ndarray, "windows window"]:
    """The positions on which a pattern ends; one that would begin before the window does not match.

    Patterns are compared only where a token is the last of one, all at once, from the last token back.
    """
    found, row = np.zeros(tokens.size, bool), tokens.ravel()
    if not patterns:
        return found.reshape(tokens.shape)
    wanted = np.array(list(zip_longest(*(pattern[::-1] for pattern in patterns), fillvalue=_ANY)), tokens.dtype)
    ends = _places(row, wanted[0])
    steps = np.arange(len(wanted))[:, None]
    there = np.where(ends % tokens.shape[1] >= steps, row.take(ends - steps, mode="clip"), _OUTSIDE)
    fits = (wanted[:, :, None] == there[:, None]) | (wanted == _ANY)[:, :, None]
    found[ends] = fits.all(0).any(0)
    return found.reshape(tokens.shape)


def _answer(patterns: Sequence[Sequence[int]], questions: Questions) -> Answers:
    found = matches(patterns, questions.tokens)
    if questions.marks is None:
        return np.asarray(found.any(1), np.int8)
    marks = questions.marks.sum(1)
    fits = (2 * (found & questions.marks).sum(1) >= marks) & (marks > 0)
    return np.asarray(fits, np.int8)


def sentence(patterns: Sequence[Pattern], decode: Decode) -> str:
    """Patterns for a reader: `fires on " the", or "ing" after " run"`."""
    if not patterns:
        return "no pattern found"
    shown = [
        quoted(decode(pattern[-1:])) + (f" after {quoted(decode(pattern[:-1]))}" if len(pattern) > 1 else "")
        for pattern in patterns
    ]
    return "fires on " + ", or ".join(filter(None, (", ".join(shown[:-1]), shown[-1])))


def quoted(text: str) -> str:
    """Text between double quotes, with what does not print escaped as in Python."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    if not escaped.isprintable():
        escaped = "".join(mark if mark.isprintable() else mark.encode("unicode_escape").decode() for mark in escaped)
    return f'"{escaped}"'
