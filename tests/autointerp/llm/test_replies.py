"""What is read from replies, and what prompts look like."""

import json
import math

import numpy as np
import pytest

from bsc.autointerp.explainers.base import Explanation, LatentExamples, Questions
from bsc.autointerp.explainers.llm import explanation_request, question_requests
from bsc.autointerp.llm.messages import Reply, Request, Sampling
from bsc.autointerp.llm.replies import answers, explanation, probabilities, schema
from bsc.autointerp.llm.shown import window_text
from bsc.autointerp.prompts import digests

OPTIONS = {
    "temperature": 0.0,
    "explanation_tokens": 9,
    "answer_tokens": 5,
    "structured": False,
    "logprobs": False,
    "show_activations": False,
    "prompts": digests(),
}
UNREAD = [-1, -1, -1]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[1, 0, 1]", [1, 0, 1]),
        ("[1,0,1,]", [1, 0, 1]),
        ('{"answers": [0, 0, 1]}', [0, 0, 1]),
        ("```json\n[0, 1, 1]\n```", [0, 1, 1]),
        ("Of [0, 0, 0] and the like, I say [1, 1, 1].", [1, 1, 1]),
        ("<think>maybe [0, 0, 0]</think>\n[1, 1, 0]", [1, 1, 0]),
        ("<think>maybe [0, 0, 0]</think> none", UNREAD),
        ("<think>maybe [0, 0, 0]", UNREAD),
        ("maybe [0, 0, 0]</think>\n[1, 1, 0]", [1, 1, 0]),  # the prompt ended with <think>
        ("[" * 100_000, UNREAD),
        ("<think>maybe</think>[1, 0, 1]<think>or [0, 0, 0]", [1, 0, 1]),
        ("[1, 0]", UNREAD),
        ("[1, 0, 1, 1]", UNREAD),
        ("[1, 0, 2]", UNREAD),
        ("[1, 0, 1", UNREAD),
        ('{"answers": [1, 0', UNREAD),
        ('{"answers": [true, false, true]}', UNREAD),
        ("Yes, no, and yes.", UNREAD),
        ("", UNREAD),
    ],
)
def test_lists(text, expected) -> None:
    assert answers(text, 3).tolist() == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[EXPLANATION]: Verbs of motion.", "Verbs of motion."),
        ("[EXPLANATION]:\n\n Verbs of motion.\nMore of it.", "Verbs of motion."),
        ("Let me see.\nExplanation: **Verbs of motion.**", "Verbs of motion."),
        ("Verbs of motion.", "Verbs of motion."),
        ("Of motion.\nOr not.</think>\n\nVerbs.", "Verbs."),
        ('[EXPLANATION]: Headings such as "Explanation:" in a docstring.', 'Headings such as "Explanation:" in a docstring.'),
        ("<think>[EXPLANATION]: nouns</think>[EXPLANATION]: verbs", "verbs"),
        ("<think>\nThe tokens are [EXPLANATION]: nouns", ""),
        ("[EXPLANATION]: \n", ""),
        ("", ""),
    ],
)
def test_explanations(text, expected) -> None:
    assert explanation(text) == expected


def _reply(text: str, pairs: list[tuple[str, dict[str, float]]]) -> Reply:
    return Reply(text, "stop", 1, 1, 1, tuple(((token, others[token]), *others.items()) for token, others in pairs))


def test_probabilities_are_of_one_against_zero() -> None:
    odds = {"1": math.log(0.6), "0": math.log(0.2), "x": math.log(0.2)}
    pairs = [("[", {"[": -0.1}), ("1", odds), (", ", {", ": 0.0}), (" 0", {" 0": -0.5}), ("]", {"]": 0.0})]
    assert probabilities(_reply("[1, 0]", pairs), 2) == pytest.approx([0.75, 0.0])
    assert np.isnan(probabilities(_reply("[1, 0]", pairs), 3)).all()
    more = [*pairs, (" since", {" since": 0.0}), (" 0", {" 0": 0.0, " 1": 0.0}), (" fits", {" fits": 0.0})]
    assert probabilities(_reply("[1, 0] since 0 fits", more), 2) == pytest.approx([0.75, 0.0])
    assert np.isnan(probabilities(_reply("[0, 0]", pairs), 2)).all()  # not what was read
    assert np.isnan(probabilities(_reply("so so", pairs), 2)).all()
    assert np.isnan(probabilities(_reply("[1, 0]", []), 2)).all()


def test_further_parameters_are_part_of_what_is_asked_and_of_its_key() -> None:
    plain = Request("s", "u", Sampling(0.0, 9))
    assert json.loads(plain.body("m")) == {
        "model": "m",
        "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}],
        "temperature": 0.0,
        "max_tokens": 9,
    }
    further = {"max_tokens": None, "max_completion_tokens": 300, "reasoning_effort": "low"}
    asked = Request("s", "u", Sampling(None, 9, parameters=further))
    said = json.loads(asked.body("m"))
    assert said.keys() == {"model", "messages", "max_completion_tokens", "reasoning_effort"}
    assert asked.key("m") != plain.key("m")
    assert (plain.dearest[1], asked.dearest[1]) == (9, 300)
    logprobs = Request("s", "u", Sampling(0.0, 9, logprobs=True, parameters={"top_logprobs": 2, "seed": None}))
    assert json.loads(logprobs.body("m"))["top_logprobs"] == 2


def test_the_schema_holds_as_many_answers_as_questions() -> None:
    listed = schema(4)["properties"]["answers"]
    assert (listed["minItems"], listed["maxItems"], listed["items"]["enum"]) == (4, 4, [0, 1])


def _decode(ids) -> str:
    return "".join({0: " the", 1: " cat", 2: "s", 3: "\n", 4: "\\"}[token] for token in ids)


def test_windows_are_one_line_and_runs_of_marks_stand_in_one_pair() -> None:
    tokens = np.array([0, 1, 2, 3, 4, 0])
    marks = np.array([0, 1, 1, 0, 0, 1], bool)
    assert window_text(tokens, None, _decode) == " the cats\\n\\\\ the"
    assert window_text(tokens, marks, _decode) == " the<< cats>>\\n\\\\<< the>>"


def test_text_of_a_window_neither_breaks_the_line_nor_reaches_the_terminal() -> None:
    said = window_text(np.array([0]), None, lambda ids: "a\u2028b\x85c\x0bd\x1b[2J\te\r\n\x00")
    assert said == "a\\u2028b\\x85c\\x0bd\\x1b[2J\te\\r\\n\\x00"


def test_the_explainer_sees_the_strongest_first_and_activations_where_asked() -> None:
    tokens = np.array([[0, 1], [1, 2]])
    dense = np.array([[0, 0.5], [2.0, 0.1]], np.float32)
    example = LatentExamples(3, tokens, dense, dense > 0.3 * dense.max(1, keepdims=True), tokens)
    plain = explanation_request(example, OPTIONS, _decode)
    assert "Excerpt 1: << cat>>s\nExcerpt 2:  the<< cat>>\n" in plain.user
    assert plain.sampling.max_tokens == 9
    shown = explanation_request(example, {**OPTIONS, "show_activations": True}, _decode)
    assert 'Excerpt 1: << cat>>s\nActivations: (" cat", 10), ("s", 0)\n' in shown.user


def test_five_windows_a_prompt_and_a_rest() -> None:
    tokens = np.zeros((7, 2), int)
    marks = np.eye(7, 2, dtype=bool)
    said = Explanation("$the ${x} price")
    plain = question_requests(said, Questions(tokens, None, 5), OPTIONS, _decode)
    marked = question_requests(said, Questions(tokens, marks, 5), {**OPTIONS, "structured": True}, _decode)
    assert [request.user.count("Excerpt") for request in plain] == [5, 2]
    assert "list of 2 numbers" in plain[1].user
    assert "Description: $the ${x} price" in plain[0].user
    assert "<<" not in plain[0].user.split("Excerpt 1")[1]
    assert marked[0].user.count("<< the>>") == 2
    assert [request.schema["properties"]["answers"]["minItems"] for request in marked] == [5, 2]
    assert plain[0].system != marked[0].system
    assert question_requests(Explanation(""), Questions(tokens, None, 5), OPTIONS, _decode) == []
