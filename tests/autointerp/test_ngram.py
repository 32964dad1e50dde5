import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bsc.autointerp.explainers import explainer_for
from bsc.autointerp.explainers.base import Access, Explanation, LatentExamples, Questions
from bsc.autointerp.explainers.ngram import NgramExplainer, matches, quoted, sentence

NGRAM = {"kind": "ngram", "length": 3, "patterns": 24, "precision": 0.5}


def _decode(ids) -> str:
    return " ".join(f"w{token}" for token in ids)


def _examples(tokens, activations, silent, above: float = 0.3) -> LatentExamples:
    tokens, dense = np.array(tokens), np.array(activations, np.float32)
    return LatentExamples(0, tokens, dense, dense > above * dense.max(1, keepdims=True), np.array(silent))


def _rules(examples: LatentExamples, **changes):
    with explainer_for({**NGRAM, **changes}, Access()) as explainer:
        (explanation,) = explainer.explain([examples], _decode)
    return explanation.rules


def test_a_token_that_suffices_is_the_pattern() -> None:
    assert _rules(_examples([[1, 2, 3], [4, 2, 5]], [[0, 1, 0], [0, 1, 0]], [[6, 7, 8]])) == [[2]]


def test_left_context_is_added_where_the_token_alone_is_not_precise() -> None:
    tokens, fires = [[9, 1, 2, 3], [8, 1, 2, 2]], [[0, 0, 1, 0], [0, 0, 1, 0]]
    silent = [[4, 2, 5, 2], [2, 6, 7, 8]]
    assert _rules(_examples(tokens, fires, silent)) == [[1, 2]]
    # Right 2 times of 6: enough for a lower bar.
    assert _rules(_examples(tokens, fires, silent), precision=1 / 3) == [[2]]
    assert _rules(_examples(tokens, fires, silent), length=1) == []


def test_a_weak_firing_is_right_but_need_not_be_covered() -> None:
    examples = _examples([[1, 2, 1]], [[1.0, 0.2, 0.2]], [[3, 4, 5]])
    assert _rules(examples, precision=1.0) == [[1]]


def test_the_patterns_that_cover_most_come_first_and_are_kept() -> None:
    tokens = [[1, 1, 1, 2], [2, 3, 9, 9]]
    fires = [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert _rules(_examples(tokens, fires, [[9, 9, 9, 9]])) == [[1], [2], [3]]
    assert _rules(_examples(tokens, fires, [[9, 9, 9, 9]]), patterns=2) == [[1], [2]]


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.3, 0.5, 0.9, 1.0]),
    st.integers(1, 4),
    st.tuples(st.integers(1, 9), st.integers(0, 6), st.integers(1, 8)),
    st.sampled_from([2, 4, 50_000]),
)
def test_patterns_are_the_shortest_precise_ones(seed, precision, length, shape, vocabulary) -> None:
    generator = np.random.default_rng(seed)
    (firing, quiet, window), most = shape, vocabulary
    tokens, silent = (generator.integers(0, most, size=(count, window)).astype(np.int32) for count in (firing, quiet))
    dense = generator.random((firing, window)) * (generator.random((firing, window)) < 0.3)
    dense[:, generator.integers(0, window)] += 0.01
    examples = _examples(tokens, dense, silent)
    windows = [*tokens.tolist(), *silent.tolist()]
    fires = [*(examples.activations > 0).tolist(), *np.zeros(silent.shape, bool).tolist()]

    def precise(gram: tuple[int, ...]) -> bool:
        ends = [
            (line, end)
            for line, window in enumerate(windows)
            for end in range(len(gram) - 1, len(window))
            if tuple(window[end - len(gram) + 1 : end + 1]) == gram
        ]
        return sum(fires[line][end] for line, end in ends) >= precision * len(ends)

    expected: dict[tuple[int, ...], int] = {}
    for line, end in np.argwhere(examples.targets):
        grams = [tuple(tokens[line, end - size + 1 : end + 1].tolist()) for size in range(1, min(length, end + 1) + 1)]
        if found := next(filter(precise, grams), None):
            expected[found] = expected.get(found, 0) + 1
    ranked = sorted(expected, key=lambda gram: (-expected[gram], len(gram), gram))
    assert _rules(examples, precision=precision, length=length) == [list(gram) for gram in ranked[:24]]


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 5),
    st.integers(1, 7),
    st.lists(st.integers(1, 9), max_size=6),
    st.sampled_from([1, 3, 50_000]),
)
def test_matches_are_where_a_pattern_ends(seed, windows, window, sizes, vocabulary) -> None:
    generator = np.random.default_rng(seed)
    tokens = generator.integers(0, vocabulary, size=(windows, window)).astype(np.int32)
    patterns = [generator.integers(0, vocabulary, size=size).tolist() for size in sizes]
    patterns += [tokens[0, :size].tolist() for size in sizes]  # shorter where the window ends: these are there
    expected = np.zeros(tokens.shape, bool)
    for line, window in enumerate(tokens.tolist()):
        for end in range(len(window)):
            expected[line, end] = any(end + 1 >= len(p) and window[end + 1 - len(p) : end + 1] == p for p in patterns)
    np.testing.assert_array_equal(matches(patterns, tokens), expected)


def test_answers_to_unmarked_and_marked_windows() -> None:
    explainer, explanation = NgramExplainer(3, 24, 0.5), Explanation("", [[1], [2, 3]])
    tokens = np.array([[1, 9, 9, 9], [9, 2, 3, 9], [9, 3, 2, 9], [1, 9, 2, 3]])
    (plain,) = explainer.answer([(explanation, Questions(tokens, None, 5))])
    assert plain.answers.tolist() == [1, 1, 0, 1]
    marks = np.array([[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [1, 1, 1, 1]], bool)
    (fitting,) = explainer.answer([(explanation, Questions(tokens, marks, 5))])
    assert fitting.answers.tolist() == [1, 0, 0, 1]
    (empty,) = explainer.answer([(Explanation("", []), Questions(tokens, marks, 5))])
    assert empty.answers.tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("patterns", "text"),
    [
        ([], "no pattern found"),
        ([(1,)], 'fires on "w1"'),
        ([(1,), (2, 3)], 'fires on "w1", or "w3" after "w2"'),
        ([(1,), (4, 2, 3), (5,)], 'fires on "w1", "w3" after "w4 w2", or "w5"'),
    ],
)
def test_sentences(patterns, text) -> None:
    assert sentence(patterns, _decode) == text


@pytest.mark.parametrize(
    ("text", "shown"), [(" the", '" the"'), ('a"b\\', '"a\\"b\\\\"'), ("\n\t\u202e", '"\\n\\t\\u202e"'), ("é�", '"é�"')]
)
def test_what_does_not_print_is_escaped(text, shown) -> None:
    assert quoted(text) == shown
