"""Explanations and answers by a language model (paper, Sec. 4). No torch, unless the model runs in this process.

A prompt that was refused or whose every attempt failed, and a reply that cannot be read, make no explanation, or an answer that
counts as wrong; the replies are kept as they came, with what became of them. Where none can be read, that is an error.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from bsc.autointerp import prompts
from bsc.autointerp.explainers.base import (
    FAILED,
    READ,
    UNPARSED,
    UNREAD,
    Access,
    Answered,
    Decode,
    Explainer,
    Explanation,
    LatentExamples,
    Questions,
    Said,
)
from bsc.autointerp.llm import replies
from bsc.autointerp.llm.messages import Failure, Outcome, Reply, Request, Sampling
from bsc.autointerp.llm.reach import Asked, reached
from bsc.autointerp.llm.settings import Settings
from bsc.autointerp.llm.shown import numbered, strengths, window_text
from bsc.errors import UserError
from bsc.progress import Progress

_FEW = 10
"""Fewer replies than this may all be unreadable: of one latent, whose explanation is what confuses a model."""
_SHOWN = 300


@contextmanager
def build(options: Mapping[str, Any], access: Access) -> Iterator["LlmExplainer"]:
    """The explainer of a spec's options, and the model that it asks, until it is left.

    Raises UserError when the prompt files are not those of the spec, or nothing says how the model is reached.
    """
    prompts.check(options["prompts"])
    if access.llms is None or access.answers is None:
        raise UserError("a language model needs `--llms` and `--answers`", fix="copy the rule's shell line whole")
    settings = Settings.of(options["llm"], access.llms)
    with reached(settings, access.answers, access.log) as model:
        yield LlmExplainer(options, model)


class LlmExplainer(Explainer):
    """Asks a model for explanations, and judges by explanations with the prompts of detection and fuzzing.

    Raises UserError from either once it has asked ten prompts or more and no reply could be read.
    """

    def __init__(self, options: Mapping[str, Any], model: Asked) -> None:
        self._options, self._model = options, model
        self._unread: list[Said] | None = []
        """What came, until something of it could be read."""

    def explain(self, examples: Sequence[LatentExamples], decode: Decode) -> list[Explanation]:
        """One sentence a latent; "" where there is none to be had."""
        requests = [explanation_request(example, self._options, decode) for example in examples]
        explanations = [_explanation(outcome) for outcome in self._outcomes(requests)]
        self._check((explanation.said for explanation in explanations if explanation.said), "explanation_tokens")
        return explanations

    def answer(self, asked: Sequence[tuple[Explanation, Questions]], decode: Decode | None = None) -> list[Answered]:
        """The answers, five windows (or `a_prompt`) to a prompt; where there is no explanation, nothing is asked."""
        if decode is None:
            raise UserError("a language model reads text: scoring by one needs `--model`, for its tokenizer")
        asking = [question_requests(said, questions, self._options, decode) for said, questions in asked]
        outcomes = iter(self._outcomes([request for requests in asking for request in requests]))
        answers = [
            _answered(questions, [next(outcomes) for _ in requests])
            for (_, questions), requests in zip(asked, asking, strict=True)
        ]
        self._check((said for answered in answers for said in answered.said), "answer_tokens")
        return answers

    def _check(self, said: Iterable[Said], limit: str) -> None:
        """Look at what came. limit: the key that bounds its length. Raises UserError when nothing so far could be read."""
        if self._unread is None:
            return
        self._unread += said
        if any(one.status == READ for one in self._unread):
            self._unread = None
            return
        if len(self._unread) < _FEW:
            return
        first = next((one for one in self._unread if one.status == UNREAD), self._unread[0])
        how = "failed" if first.status == FAILED else f"ended by `{first.finish}`"
        shown = " ".join(first.reply.split())[:_SHOWN] or "(empty)"
        read = (
            f"raise `{limit}` where replies end by `length` (a model that thinks first may need thousands), or have a server's "
            "model not think, by `parameters`; else use one that keeps to the format"
        )
        raise UserError(
            f"none of {len(self._unread):,} prompts got a reply that could be read; the first {how}: {shown}",
            where=f"llms.{self._options['llm']}",
            fix="mend that, then run the same command again" if first.status == FAILED else read,
        )

    def _outcomes(self, requests: list[Request]) -> list[Outcome]:
        with Progress(f"{self._options['llm']}", len(requests), "prompts") as progress:
            outcomes = []
            for outcome in self._model.ask(requests):
                outcomes.append(outcome)
                progress.advance(1)
            return outcomes


def sampling(options: Mapping[str, Any], tokens: int, *, logprobs: bool = False) -> Sampling:
    """How the replies to a spec's prompts are drawn, at most so many tokens each."""
    return Sampling(options["temperature"], tokens, logprobs, options.get("parameters", {}))


def explanation_request(example: LatentExamples, options: Mapping[str, Any], decode: Decode) -> Request:
    """The prompt that asks for a latent's explanation, its windows strongest first."""
    most = float(example.activations.max())
    shown = []
    for line in reversed(range(len(example.tokens))):
        text = window_text(example.tokens[line], example.targets[line], decode)
        if options["show_activations"]:
            text += "\n" + strengths(example.tokens[line], example.activations[line], most, decode)
        shown.append(text)
    system, user = prompts.filled(prompts.EXPLAIN, examples=numbered(shown, "Excerpt"))
    return Request(system, user, sampling(options, options["explanation_tokens"]))


def question_requests(said: Explanation, questions: Questions, options: Mapping[str, Any], decode: Decode) -> list[Request]:
    """The prompts that ask one latent's questions; none where nothing was said of it."""
    if not said.text:
        return []
    marks = questions.marks
    name = prompts.DETECTION if marks is None else prompts.FUZZING
    shown = [
        window_text(tokens, None if marks is None else marks[line], decode) for line, tokens in enumerate(questions.tokens)
    ]
    drawn = sampling(options, options["answer_tokens"], logprobs=options["logprobs"])
    made = []
    for first in range(0, len(shown), questions.a_prompt):
        part = shown[first : first + questions.a_prompt]
        windows = numbered(part, "Excerpt")
        system, user = prompts.filled(name, explanation=said.text, windows=windows, count=len(part))
        made.append(Request(system, user, drawn, replies.schema(len(part)) if options["structured"] else None))
    return made


def _explanation(outcome: Outcome) -> Explanation:
    if isinstance(outcome, Failure):
        return Explanation("", said=Said(FAILED, outcome.reason))
    text = replies.explanation(outcome.text)
    return Explanation(text, said=_said(outcome, READ if text else UNREAD))


def _said(reply: Reply, status: str) -> Said:
    return Said(status, reply.text, reply.prompt_tokens, reply.completion_tokens, reply.finish)


def _answered(questions: Questions, outcomes: Sequence[Outcome]) -> Answered:
    """The outcomes of one latent's prompts, joined."""
    answers = np.full(len(questions.tokens), UNPARSED, np.int8)
    chances = np.full(len(answers), np.nan)
    said = []
    for number, outcome in enumerate(outcomes):
        span = slice(number * questions.a_prompt, (number + 1) * questions.a_prompt)
        count = len(answers[span])
        if isinstance(outcome, Failure):
            said.append(Said(FAILED, outcome.reason))
            continue
        answers[span] = replies.answers(outcome.text, count)
        chances[span] = replies.probabilities(outcome, count)
        said.append(_said(outcome, UNREAD if (answers[span] == UNPARSED).any() else READ))
    return Answered(answers, chances, tuple(said))
