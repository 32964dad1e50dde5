"""What an explainer is given, what it says, and what it is asked afterwards. No torch."""

import sys
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from bsc.autointerp.samples import Sample
from bsc.autointerp.windows import Grid

Decode = Callable[[Sequence[int]], str]
"""From token ids to text."""

UNPARSED = -1
"""The answer that could not be read; 1 is yes and 0 is no."""

READ, UNREAD, FAILED = "read", "unparsed", "failed"
"""What became of a reply."""


@dataclass(frozen=True)
class LatentExamples:
    """What an explainer sees of a latent: windows of the explanation half, strongest decile last.

    activations: 0 where it does not fire. targets: the tokens to be explained, at more than `mark_above` of their window's
    maximum. silent: windows in which it never fires.
    """

    latent: int
    tokens: Int[np.ndarray, "firing window"]
    activations: Float[np.ndarray, "firing window"]
    targets: Bool[np.ndarray, "firing window"]
    silent: Int[np.ndarray, "silent window"]

    @classmethod
    def of(cls, sample: Sample, grid: Grid, mark_above: float) -> "LatentExamples":
        """The examples that a sample of windows stands for."""
        dense = sample.activations
        targets = dense > mark_above * dense.max(1, keepdims=True)
        return cls(sample.latent, grid.tokens[sample.firing], dense, targets, grid.tokens[sample.silent])


class Said(NamedTuple):
    """One reply of a language model, as it came. status: READ, UNREAD or FAILED; reply: its text, or why there is none.

    finish: why it ended, `stop` or `length`; "" where there is none.
    """

    status: str
    reply: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    finish: str = ""


def report(job: str, said: Sequence[Said]) -> None:
    """Say in the log how many replies failed or could not be read; nothing where no language model was asked."""
    if said:
        found = Counter(one.status for one in said)
        counts = f"{found[FAILED]} failed, {found[UNREAD]} unparsed of {len(said)} replies"
        print(f"{job}: {counts}", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Explanation:
    """text: a sentence for a reader. rules: what the explainer itself answers by, as JSON; None where the text is all.

    said: the reply that it was read from, where a language model explained.
    """

    text: str
    rules: Any = None
    said: Said | None = None


@dataclass(frozen=True)
class Questions:
    """Windows about which one latent's explanation is asked, in the order shown, `a_prompt` to a prompt.

    marks: the marked tokens, where the question is whether the marks fit; None where it is whether the window fits. Which
    windows fire is not in here.
    """

    tokens: Int[np.ndarray, "questions window"]
    marks: Bool[np.ndarray, "questions window"] | None
    a_prompt: int


Answers = Int[np.ndarray, " questions"]
"""1, 0 or UNPARSED for each question."""


@dataclass(frozen=True)
class Answered:
    """One latent's answers. probabilities: of yes, where they are known, else NaN; said: the replies, one a prompt."""

    answers: Answers
    probabilities: Float[np.ndarray, " questions"] | None = None
    said: tuple[Said, ...] = ()


@dataclass(frozen=True)
class Access:
    """How language models are reached; no part of a spec, since none of it changes an answer.

    llms: settings by name, as JSON; answers: folder of the answer caches; log: what a server that the job starts prints.
    """

    llms: str | None = None
    answers: Path | None = None
    log: Path = Path("server.log")


class Explainer(ABC):
    """Explains latents, and answers questions by explanations, its own or another latent's."""

    @abstractmethod
    def explain(self, examples: Sequence[LatentExamples], decode: Decode) -> list[Explanation]:
        """One explanation for each latent."""

    @abstractmethod
    def answer(self, asked: Sequence[tuple[Explanation, Questions]], decode: Decode | None = None) -> list[Answered]:
        """The answers to each latent's questions, by the explanation beside them and nothing else.

        decode: for those that read text.
        """
