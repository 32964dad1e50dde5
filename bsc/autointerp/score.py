"""Scores of explanations, on windows of the test half, which the explainer did not see. No torch."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from bsc.autointerp.embedding.windows import WindowEmbeddings
from bsc.autointerp.explain import FILE as EXPLANATIONS
from bsc.autointerp.explain import REPLIES, SERVER_LOG, decoder, in_batches, open_windows
from bsc.autointerp.explainers import explainer_for
from bsc.autointerp.explainers.base import UNPARSED, Access, Answered, Decode, Explainer, Explanation, Said, report
from bsc.autointerp.metrics import COUNTS, OUTCOME, auroc, coder_scores, latent_counts, outcome, unparsed_share
from bsc.autointerp.negatives import drawer
from bsc.autointerp.samples import SCORED, Sample
from bsc.autointerp.scorers import scorer_named
from bsc.autointerp.scorers.base import Exam
from bsc.autointerp.scorers.embedding import Comparer, Similarities
from bsc.autointerp.windows import Grid
from bsc.errors import UserError
from bsc.io import read_manifest, read_parquet, write_json, write_manifest, write_parquet
from bsc.progress import Progress, job_label
from bsc.stages import EMBEDDING, RANDOM, ScoreSpec, measure_of

SCORES, ANSWERS, SUMMARY = "scores.parquet", "answers.parquet", "summary.json"
SIMILARITIES = "similarities.parquet"
NONE, SHUFFLED = "none", "shuffled"
_KEYS = ["latent", "scorer", "control"]
_EXAM, _DONOR = 3, 4
"""Streams of random numbers, beside those of `bsc.autointerp.samples`."""


def score(
    spec: ScoreSpec,
    latents: Path,
    explanations: Path,
    tokens: Path,
    output: Path,
    model: Path | None = None,
    llms: str | None = None,
    answers: Path | None = None,
    embedder: Path | None = None,
    embeddings: Path | None = None,
) -> None:
    """Write `scores.parquet`, `answers.parquet` and `summary.json`.

    scores: a row for each (latent, scorer, control): the columns of `outcome`, and the latent's firings and sampling weight, of
    `census`. answers: a row a question: latent, scorer, control, window, firing, answer (1, 0, or null when it could not be
    read). summary: `scorers`, by scorer and control `coder_scores` and `unparsed_share`, the share of the answers that are null
    (null itself where nothing is asked); `latent_counts`; and `unexplained`, how many scored latents have no explanation, by
    which nothing can be asked: all of their answers are null. control: `none`, or `shuffled`
    (*ours*): each latent is scored by another scored latent's explanation. A language model (model: for its tokenizer; llms,
    answers: see `Access`) leaves its replies in `replies.parquet`, a row a prompt, and their counts under `replies` in the
    summary.

    The scorer `embedding` asks nothing: of `outcome` it has the AUROC alone, the rest is null, and `similarities.parquet` has a
    row a window (latent, control, window, firing, similarity). It needs embedder (a folder of `bsc embedder`) and embeddings
    (of `bsc embed`), which the `nearest` negatives need too. Raises UserError when the explanations were made from other
    windows, what is needed is not given, or none of a language model's replies, ten or more, could be read.
    """
    cache, grid = open_windows(spec.windows, latents, tokens)
    embedded = None if embeddings is None else WindowEmbeddings.open(embeddings, grid)
    table = _explained(spec, explanations)
    scored = table[table["status"] == SCORED]
    judged: list[_Judged] = []
    compared: list[Similarities] = []
    filled: list[int] = []
    draw = drawer(spec, cache, grid, embedded)
    comparer = _comparer(spec, scored, embedder, embedded)
    decode = None if model is None else decoder(model)
    entered = explainer_for(spec.explainer, Access(llms, answers, output / SERVER_LOG))
    with entered as judge, Progress(job_label("score", output), len(scored), "latents") as progress:
        said = said_by_control(spec, scored)
        for places in in_batches(list(range(len(scored)))):
            tested = [draw(latent) for latent in scored["latent"].iloc[places]]
            samples, filled = [one.sample for one in tested], filled + [one.filled for one in tested if one.filled]
            here = {control: [said[control][place] for place in places] for control in said}
            judged += _judge(spec, grid, samples, here, judge, decode)
            compared += [] if comparer is None else comparer.compare(samples, here)
            progress.advance(len(places))
    report(job_label("score", output), [said for one in judged for said in one.answered.said])
    scores = _scores(judged, compared, table)
    write_parquet(output / SCORES, scores)
    write_parquet(output / ANSWERS, _answers(judged))
    replies = _replies(judged)
    write_json(output / SUMMARY, {**_summary(spec, scores, table), **_reply_counts(replies), **_hard(spec, filled)})
    further = {REPLIES: replies, SIMILARITIES: _similarities(compared)}
    kept = {name: frame for name, frame in further.items() if len(frame)}
    for name, frame in kept.items():
        write_parquet(output / name, frame)
    files = [SCORES, ANSWERS, SUMMARY, *kept]
    write_manifest(output, files, {"scorers": spec.scorers, "scored": len(scored)})


class _Judged(NamedTuple):
    """One latent's answers by one scorer under one control; windows, firing and answers are by question."""

    latent: int
    scorer: str
    control: str
    windows: Int[np.ndarray, " questions"]
    firing: Bool[np.ndarray, " questions"]
    answered: Answered


def _comparer(
    spec: ScoreSpec, scored: pd.DataFrame, embedder: Path | None, embedded: WindowEmbeddings | None
) -> Comparer | None:
    if EMBEDDING not in spec.scorers:
        return None
    if embedder is None or embedded is None:
        raise UserError(
            "the embedding scorer needs `--embedder` and `--embeddings`",
            where="scorers",
            fix="copy the rule's shell line whole",
        )
    return Comparer(scored["explanation"].tolist(), embedder, embedded)


def _explained(spec: ScoreSpec, explanations: Path) -> pd.DataFrame:
    made = read_manifest(explanations)
    if made["windows"] != spec.windows.model_dump():
        raise UserError(
            "the explanations were made from other windows than those that are to be scored",
            where=str(explanations),
            fix="explain again with the same `windows`",
        )
    return read_parquet(explanations / EXPLANATIONS)


def said_by_control(spec: ScoreSpec, scored: pd.DataFrame) -> dict[str, list[Explanation]]:
    """The explanation by which each scored latent is judged, under each control. One latent alone cannot be shuffled."""
    texts = zip(scored["explanation"], scored["rules"], strict=True)
    own = [Explanation(text, json.loads(rules)) for text, rules in texts]
    if not spec.shuffled or len(own) < 2:
        return {NONE: own}
    donors = donors_of(scored["sampling_weight"].to_numpy(), [spec.windows.seed, _DONOR])
    return {NONE: own, SHUFFLED: [own[donor] for donor in donors]}


def donors_of(weights: Float[np.ndarray, " count"], seed: list[int]) -> Int[np.ndarray, " count"]:
    """For each latent another one, whose explanation it is judged by: a derangement where all weigh the same.

    Else drawn by sampling weight, so that they are as if drawn from all eligible latents: the frequent ones, of which a sample
    has too many, have explanations that say yes to more.
    """
    if (weights == weights[0]).all():
        return derangement(len(weights), seed)
    generator = np.random.default_rng(seed)
    others = (np.delete(np.arange(len(weights)), latent) for latent in range(len(weights)))
    return np.array([generator.choice(rest, p=weights[rest] / weights[rest].sum()) for rest in others])


def derangement(count: int, seed: list[int]) -> Int[np.ndarray, " count"]:
    """A permutation without a fixed point, one random cycle through all; count: 2 or more."""
    cycle = np.random.default_rng(seed).permutation(count)
    donors = np.empty(count, np.int64)
    donors[cycle] = np.roll(cycle, 1)
    return donors


def _judge(
    spec: ScoreSpec,
    grid: Grid,
    samples: list[Sample],
    said: dict[str, list[Explanation]],
    judge: Explainer,
    decode: Decode | None,
) -> Iterator[_Judged]:
    """A batch of latents. Every control is asked the same questions."""
    for scorer in spec.asking:
        exams = [exam_of(spec, grid, sample, scorer) for sample in samples]
        for control, explanations in said.items():
            asked = [(explanation, exam.questions) for explanation, exam in zip(explanations, exams, strict=True)]
            for sample, exam, answered in zip(samples, exams, judge.answer(asked, decode), strict=True):
                yield _Judged(sample.latent, scorer, control, exam.windows, exam.firing, answered)


def exam_of(spec: ScoreSpec, grid: Grid, sample: Sample, scorer: str) -> Exam:
    """What a scorer asks about one latent's explanation, whoever gave it."""
    return scorer_named(scorer)(sample, grid, spec, np.random.default_rng([spec.windows.seed, _EXAM, sample.latent]))


def _scores(judged: list[_Judged], compared: list[Similarities], table: pd.DataFrame) -> pd.DataFrame:
    rows: list[dict[str, Any]] = [
        {**_keys(one), **outcome(one.firing, one.answered.answers, one.answered.probabilities)} for one in judged
    ]
    rows += [{**_keys(one), "auroc": auroc(one.firing, one.similarity.astype(np.float64))} for one in compared]
    scores = pd.DataFrame(rows, columns=[*_KEYS, *OUTCOME])
    counted = dict.fromkeys(COUNTS, "Int64") if compared else {}  # with nulls: what asks nothing has no counts
    scores = scores.astype({"latent": "int64", "scorer": "str", "control": "str", **OUTCOME, **counted})
    by_latent = table.set_index("latent")
    scores["firings"] = scores["latent"].map(by_latent["firings"]).astype("int64")
    scores["sampling_weight"] = scores["latent"].map(by_latent["sampling_weight"]).astype("float64")
    return scores.sort_values(["scorer", "control", "latent"], ignore_index=True)


def _keys(one: _Judged | Similarities) -> dict[str, Any]:
    return {name: getattr(one, name) for name in _KEYS}


def _answers(judged: list[_Judged]) -> pd.DataFrame:
    """A row for each window that was asked about."""
    judged = sorted(judged, key=_place)
    given = np.concatenate([[], *(one.answered.answers for one in judged)])
    answers = pd.array(given.astype(np.int8), dtype="Int8")
    answers[given == UNPARSED] = pd.NA
    return _by_window(judged).assign(answer=answers)


def _similarities(compared: list[Similarities]) -> pd.DataFrame:
    """A row for each window that an explanation was compared with."""
    compared = sorted(compared, key=_place)
    similarity = np.concatenate([[], *(one.similarity for one in compared)]).astype(np.float32)
    return _by_window(compared).drop(columns="scorer").assign(similarity=similarity)


def _place(one: _Judged | Similarities) -> tuple[str, str, int]:
    return one.scorer, one.control, one.latent


def _by_window(found: Sequence[_Judged | Similarities]) -> pd.DataFrame:
    """A row for each window: latent, scorer, control, window, firing."""
    keys = pd.DataFrame([_keys(one) for one in found], columns=_KEYS)
    windows, firing = (np.concatenate([[], *(getattr(one, name) for one in found)]) for name in ("windows", "firing"))
    rows = keys.loc[keys.index.repeat([len(one.windows) for one in found])]
    return rows.assign(window=windows.astype(np.int64), firing=firing.astype(bool))


def _hard(spec: ScoreSpec, filled: list[int]) -> dict[str, Any]:
    """What the silent windows are, and how many of how many latents are no hard ones; nothing where any would do."""
    if spec.negatives == RANDOM:
        return {}
    return {"negatives": {"kind": spec.negatives, "random_windows": sum(filled), "latents_with_random": len(filled)}}


def _replies(judged: list[_Judged]) -> pd.DataFrame:
    """A row for each prompt that a language model was asked."""
    rows = [[*one[: len(_KEYS)], number, *said] for one in judged for number, said in enumerate(one.answered.said)]
    return pd.DataFrame(rows, columns=[*_KEYS, "prompt", *Said._fields])


def _reply_counts(replies: pd.DataFrame) -> dict[str, Any]:
    """How many replies have each status, and the tokens of all; nothing where no language model was asked."""
    if replies.empty:
        return {}
    tokens = {name: int(replies[name].sum()) for name in ("prompt_tokens", "completion_tokens")}
    return {"replies": {**replies["status"].value_counts().sort_index().to_dict(), **tokens}}


def _summary(spec: ScoreSpec, scores: pd.DataFrame, table: pd.DataFrame) -> dict[str, Any]:
    firings = table.groupby("status")["firings"].sum()
    found: dict[str, Any] = {}
    for scorer in spec.scorers:
        found[scorer] = {}
        for control in (NONE, *([SHUFFLED] if spec.shuffled else [])):
            rows = scores[(scores["scorer"] == scorer) & (scores["control"] == control)]
            measured = coder_scores(rows, firings, resamples=spec.resamples, seed=spec.windows.seed, measure=measure_of(scorer))
            found[scorer][control] = {**measured, "unparsed_share": unparsed_share(rows)}
    measures = {"measures": {scorer: measure_of(scorer) for scorer in spec.scorers}} if EMBEDDING in spec.scorers else {}
    return {"scorers": found, **measures, **latent_counts(table), "unexplained": int((table["explanation"] == "").sum())}
