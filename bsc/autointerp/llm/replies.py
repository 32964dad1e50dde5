"""From a model's words to an explanation, or to a list of 0 and 1 with probabilities where it gave them. No torch."""

import json
import math
import re
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from bsc.autointerp.explainers.base import UNPARSED
from bsc.autointerp.llm.messages import Reply

_THOUGHT = re.compile(r"\A.*</think>|<think>.*\Z", re.DOTALL)
"""What a model thought: without `<think>` where that ends the prompt, and without `</think>` where it was cut short."""
_LABELS = [re.compile(label, re.IGNORECASE) for label in (r"\[explanation\]\s*:", r"explanation\s*:")]
"""The one that the prompt asks for, and what models make of it."""
_LIST = re.compile(r"\[\s*[01]\s*(?:,\s*[01]\s*)*,?\s*\]")
_ANSWERS = "answers"


def schema(count: int) -> dict[str, Any]:
    """The JSON schema of an answer to `count` questions."""
    listed = {"type": "array", "items": {"type": "integer", "enum": [0, 1]}, "minItems": count, "maxItems": count}
    return {"type": "object", "properties": {_ANSWERS: listed}, "required": [_ANSWERS], "additionalProperties": False}


def explanation(text: str) -> str:
    """The sentence that a reply gives: its first line after the label, or without one its first line; "" if there is none."""
    said = _THOUGHT.sub("", text)
    labelled = next(filter(None, (list(label.finditer(said)) for label in _LABELS)), None)
    rest = said[labelled[-1].end() :] if labelled else said
    lines = [line.strip().strip('*"').strip() for line in rest.splitlines()]
    return next(filter(None, lines), "")


def answers(text: str, count: int) -> Int[np.ndarray, " questions"]:
    """The answers to `count` questions: the list that a reply gives, as JSON or as the last list in its prose.

    All UNPARSED when there is none, or it is too short or too long.
    """
    said = _THOUGHT.sub("", text)
    found = _from_json(said)
    if found is None and (lists := _LIST.findall(said)):
        found = [int(digit) for digit in re.findall(r"[01]", lists[-1])]
    if found is None or len(found) != count:
        return np.full(count, UNPARSED, np.int8)
    return np.array(found, np.int8)


def _from_json(said: str) -> list[int] | None:
    try:
        body = json.loads(said)
    except (ValueError, RecursionError):  # of brackets without end
        return None
    found = body.get(_ANSWERS) if isinstance(body, dict) else None
    if not isinstance(found, list) or any(isinstance(answer, bool) or answer not in (0, 1) for answer in found):
        return None
    return [int(answer) for answer in found]


def probabilities(reply: Reply, count: int) -> Float[np.ndarray, " questions"]:
    """The probability of 1 against 0 at the token of each answer, from the log-probabilities; NaN where there are none.

    The answers' tokens are the last run of those that are a 0 or a 1 and nothing else which says what was read.
    """
    read = [str(answer) for answer in answers(reply.text, count)]
    digits = [position for position in reply.logprobs if position[0][0].strip() in ("0", "1")]
    for begin in range(len(digits) - count, -1, -1):
        run = digits[begin : begin + count]
        if [position[0][0].strip() for position in run] == read:
            return np.array([_probability(position) for position in run])
    return np.full(count, np.nan)


def _probability(position: tuple[tuple[str, float], ...]) -> float:
    best = {"0": -math.inf, "1": -math.inf}
    for token, logprob in position:
        if (digit := token.strip()) in best:
            best[digit] = max(best[digit], logprob)
    return 1 / (1 + math.exp(min(best["0"] - best["1"], 700.0)))
