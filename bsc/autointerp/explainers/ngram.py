"""Explanations as token patterns, and answers by matching them: no language model (*ours*, after Foote et al. 2023, N2G).

A pattern is a token, with as much of its left context as it takes to be right. It is right where it ends on a token on which
the latent fires; its precision is estimated on the explanation half alone, over all positions of the explanation windows and
of as many silent ones. Every target is covered by the shortest pattern that ends on it and is precise enough, if there is
one; the patterns that cover most targets are kept. What this scores is a lower bound that a language model must beat.
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from bsc.autointerp.explainers.base import Access, Answered, Answers, Decode, Explainer, Explanation, LatentExamples, Questions

Pattern = tuple[int, ...]
_NOWHERE = -1


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
        fires = np.concatenate([example.activations > 0, silent])
        open_targets = np.concatenate([example.targets, silent])
        covered: dict[Pattern, int] = {}
        unigrams = grams = np.unique(tokens, return_inverse=True)[1].reshape(tokens.shape)
        for length in range(1, self.length + 1):
            if length > 1:
                grams = _longer(grams, unigrams)
            good = _is_precise(grams, fires, self.precision) & open_targets
            open_targets &= ~good
            _, places, counts = np.unique(grams[good], return_index=True, return_counts=True)
            for (line, end), count in zip(np.argwhere(good)[places], counts, strict=True):
                covered[tuple(tokens[line, end - length + 1 : end + 1].tolist())] = int(count)
        ranked = sorted(covered, key=lambda pattern: (-covered[pattern], len(pattern), pattern))
        return ranked[: self.patterns]


def _longer(grams: Int[np.ndarray, "windows window"], unigrams: Int[np.ndarray, "windows window"]) -> Int[np.ndarray, "..."]:
    """The number of the gram, one token longer than `grams`, that ends on each position; where it would begin outside, -1."""
    pairs = grams[:, :-1] * (unigrams.max() + 1) + unigrams[:, 1:]
    inside = grams[:, :-1] != _NOWHERE
    longer = np.full_like(grams, _NOWHERE)
    longer[:, 1:][inside] = np.unique(pairs[inside], return_inverse=True)[1]
    return longer


def _is_precise(
    grams: Int[np.ndarray, "windows window"], fires: Bool[np.ndarray, "windows window"], precision: float
) -> Bool[np.ndarray, "windows window"]:
    """Whether the gram that ends on each position is right at least `precision` of the times that it is there."""
    inside = grams != _NOWHERE
    times = np.bincount(grams[inside])
    right = np.bincount(grams[inside & fires], minlength=len(times))
    precise = np.append(right >= precision * times, False)
    return np.asarray(precise[grams])


def matches(patterns: Sequence[Sequence[int]], tokens: Int[np.ndarray, "windows window"]) -> Bool[np.ndarray, "windows window"]:
    """The positions on which a pattern ends; one that would begin before the window does not match."""
    found = np.zeros(tokens.shape, bool)
    for pattern in patterns:
        ends = found[:, len(pattern) - 1 :]
        ends |= np.logical_and.reduce([tokens[:, step : step + ends.shape[1]] == token for step, token in enumerate(pattern)])
    return found


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
    return f'"{"".join(mark if mark.isprintable() else mark.encode("unicode_escape").decode() for mark in escaped)}"'
