"""Explanations of a coder's latents, from windows of the explanation half. No torch."""

import json
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from bsc.autointerp.explainers import explainer_for
from bsc.autointerp.explainers.base import Access, Decode, Explanation, LatentExamples, Said, report
from bsc.autointerp.firings import LatentCache
from bsc.autointerp.samples import SCORED, census, sample_for_explanation
from bsc.autointerp.windows import Grid
from bsc.corpus.store import read_tokens_numpy
from bsc.errors import CorruptFile, UserError
from bsc.io import check, read_manifest, write_manifest, write_parquet
from bsc.progress import Progress, job_label
from bsc.stages import ExplainSpec, WindowsSpec

FILE = "explanations.parquet"
REPLIES = "replies.parquet"
SPLIT = "interpretation"
SERVER_LOG = "server.log"
_LATENTS_AT_ONCE = 512


def explain(
    spec: ExplainSpec,
    latents: Path,
    tokens: Path,
    model: Path,
    output: Path,
    llms: str | None = None,
    answers: Path | None = None,
) -> None:
    """Write `explanations.parquet`: a row a latent with its status (see `census`), its explanation and the explainer's rules.

    explanation: text; rules: JSON; both null unless the status is `scored`. model: for its tokenizer. A language model
    (llms, answers: see `Access`) leaves an explanation empty where it gave none that could be read, and its replies in
    `replies.parquet`, a row a latent. Raises UserError when the cache was not made from these tokens, or none of its
    replies, ten or more, could be read.
    """
    cache, grid = open_windows(spec.windows, latents, tokens)
    decode = decoder(model)
    table = census(cache, grid, spec.windows)
    scored = table.loc[table["status"] == SCORED, "latent"].tolist()
    explanations: list[Explanation] = []
    entered = explainer_for(spec.explainer, Access(llms, answers, output / SERVER_LOG))
    with entered as explainer, Progress(job_label("explain", output), len(scored), "latents") as progress:
        for batch in in_batches(scored):
            samples = [sample_for_explanation(cache, grid, spec.windows, latent) for latent in batch]
            examples = [LatentExamples.of(sample, grid, spec.windows.mark_above) for sample in samples]
            explanations += explainer.explain(examples, decode)
            progress.advance(len(batch))
    report(job_label("explain", output), [explanation.said for explanation in explanations if explanation.said])
    write_parquet(output / FILE, _with_explanations(table, scored, explanations))
    facts = {"windows": spec.windows.model_dump(), "explainer": spec.explainer, "scored": len(scored)}
    write_manifest(output, [FILE, *_write_replies(scored, explanations, output)], facts)


def _write_replies(scored: list[int], explanations: list[Explanation], output: Path) -> list[str]:
    said = [(latent, *explanation.said) for latent, explanation in zip(scored, explanations, strict=True) if explanation.said]
    if not said:
        return []
    write_parquet(output / REPLIES, pd.DataFrame(said, columns=["latent", *Said._fields]))
    return [REPLIES]


def open_windows(spec: WindowsSpec, latents: Path, tokens: Path) -> tuple[LatentCache, Grid]:
    """A latent cache and the grid of windows of its tokens; UserError when they do not belong together."""
    cache = LatentCache.open(latents)
    grid = Grid.cut(read_tokens_numpy(tokens, SPLIT), spec.window, spec.seed)
    grid.check(cache)
    return cache, grid


def in_batches(latents: list[int]) -> Iterator[list[int]]:
    """Latents in batches whose windows fit into memory at once."""
    for first in range(0, len(latents), _LATENTS_AT_ONCE):
        yield latents[first : first + _LATENTS_AT_ONCE]


def decoder(model: Path) -> Decode:
    """From token ids to text, by the tokenizer of a model folder. Raises CorruptFile when it is not what was written."""
    from tokenizers import Tokenizer

    path = model / "tokenizer.json"
    recorded = read_manifest(model, verify=False)["files"].get(path.name)
    if recorded is None:
        raise UserError("the model folder has no tokenizer.json", where=str(model), fix="use a model with a fast tokenizer")
    check(path, recorded)
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:
        raise CorruptFile(f"not a tokenizer ({error})", where=str(path), fix=f"delete {model} and run again") from error
    return lambda ids: str(tokenizer.decode(list(ids), skip_special_tokens=False))


def _with_explanations(table: pd.DataFrame, scored: list[int], explanations: list[Explanation]) -> pd.DataFrame:
    texts = pd.Series([explanation.text for explanation in explanations], index=scored, dtype="str")
    rules = pd.Series([json.dumps(explanation.rules) for explanation in explanations], index=scored, dtype="str")
    return table.assign(explanation=table["latent"].map(texts), rules=table["latent"].map(rules))
