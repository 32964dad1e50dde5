"""`bsc autointerp estimate`: what language models are still to be asked, in prompts, tokens and money. No torch.

What is there already is used: the latent caches say how many latents are scored, the explanations what is asked about them, and
the answer caches what is answered and how many tokens a prompt has. Of each coder some latents' prompts are made, as the stages
make them, and stand for the others. Before there is a latent cache, all latents that may be scored are counted.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from bsc import paths
from bsc.autointerp.embedding.windows import WindowEmbeddings
from bsc.autointerp.explain import FILE, decoder, open_windows
from bsc.autointerp.explainers.base import Decode, LatentExamples
from bsc.autointerp.explainers.llm import explanation_request, question_requests
from bsc.autointerp.firings import LatentCache
from bsc.autointerp.llm.answers import AnswerCache, Totals
from bsc.autointerp.llm.messages import Request, Sampling
from bsc.autointerp.llm.settings import Settings
from bsc.autointerp.negatives import drawer
from bsc.autointerp.prompts import DETECTION, EXPLAIN, filled
from bsc.autointerp.samples import SCORED, census, sample_for_explanation
from bsc.autointerp.score import exam_of, said_by_control
from bsc.autointerp.windows import Grid
from bsc.config import load
from bsc.io import MANIFEST, read_manifest, read_parquet
from bsc.paths import CoderId
from bsc.stages import NEAREST, RANDOM, ExplainSpec, Plan, ScoreSpec

_LATENTS = 16
"""Of each coder whose prompts are made."""
_CHARACTERS_A_TOKEN = 4.0
"""Of English, until a server has counted some."""
_HEADER = ("coder", "asks", "latents", "prompts", "answered", "tokens in", "tokens out", "money")


@dataclass(frozen=True)
class Cost:
    """Prompts of one stage; answered: how many of them are in the cache; tokens: of the others."""

    prompts: float = 0.0
    answered: float = 0.0
    tokens_in: float = 0.0
    tokens_out: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Cost(*(one + two for one, two in pairs))

    def times(self, factor: float) -> "Cost":
        """So many times as much."""
        return Cost(*(value * factor for value in vars(self).values()))


class Asked:
    """One model: its settings, what it has answered, and what a prompt costs by that."""

    def __init__(self, plan: Plan, name: str) -> None:
        self.settings = Settings(name=name, **plan.llm_settings[name])
        path = Path(plan.answers) / f"{name}.sqlite"
        self.cache = AnswerCache(path) if path.exists() else None
        self.totals = self.cache.totals() if self.cache else Totals(0, 0, 0, 0)

    def cost(self, request: Request, prompts: float = 1.0) -> Cost:
        """Of a request, or of so many like it."""
        if self.cache is not None and self.cache.get([request.key(self.settings.known_as)]):
            return Cost(prompts, prompts)
        counted = self.totals.prompt_tokens > 0
        each = self.totals.characters / self.totals.prompt_tokens if counted else _CHARACTERS_A_TOKEN
        return Cost(prompts, 0, prompts * request.characters / each, prompts * request.sampling.max_tokens)

    def money(self, cost: Cost) -> float:
        """What the tokens cost."""
        return self.settings.cost(cost.tokens_in, cost.tokens_out)


def report(files: list[Path]) -> str:
    """A row for each coder and stage, the sum for each model, and its budget. Raises UserError when the config has faults."""
    plan = Plan(load(files))
    names = ", ".join(map(str, files))
    if len(plan.explainers) == 1:
        return f"{names}: no language model is asked (`autointerp.llms` names none)"
    models = {name: Asked(plan, name) for name in plan.config.llms}
    rows: list[tuple[str, ...]] = [_HEADER]
    sums = dict.fromkeys(models, Cost())
    for explainer in plan.explainers[1:]:
        for coder in plan.config.coder_ids:
            for variant in plan.variants(coder):
                for asks, name, latents, cost in _coder(plan, models, coder, variant, explainer):
                    rows.append((f"{coder} {variant}", asks, f"{latents:,}", *_cells(models[name], cost)))
                    sums[name] += cost
    notes = (_total(models[name], cost) for name, cost in sums.items() if cost.prompts)
    return "\n".join([f"{names}: what language models are asked", "", *_table(rows), "", *notes, *_assumed(models)])


def _coder(
    plan: Plan, models: dict[str, Asked], coder: CoderId, variant: str, explainer: str
) -> Iterator[tuple[str, str, int, Cost]]:
    """(what is asked, of which model, about how many latents, its cost) for both stages of a coder."""
    judge = plan.judge(explainer)
    explained = cast(ExplainSpec, plan.explanations(coder, variant, explainer).spec)
    scored = cast(ScoreSpec, plan.scores(coder, variant, explainer).spec)
    drawn = Drawn.open(plan, coder, variant, explained)
    if drawn is None:
        latents = min(plan.config.autointerp.latents or plan.config.latents(coder.model), plan.config.latents(coder.model))
        yield f"{explainer} explains", explainer, latents, _typical(models[explainer], explained, latents)
        yield f"{judge} scores", judge, latents, _typical_scores(models[judge], scored, latents)
        return
    yield f"{explainer} explains", explainer, drawn.scored, drawn.explaining(models[explainer], explained)
    folder = Path(plan.config.results) / coder.at(paths.interpreted(paths.EXPLANATIONS, explainer), variant=variant)
    known = (folder / "manifest.json").exists() and read_manifest(folder)["windows"] == scored.windows.model_dump()
    embeddings = Path(plan.config.results) / coder.at(paths.EMBEDDINGS)
    cost = (
        drawn.scoring(models[judge], scored, folder, embeddings)
        if known
        else _typical_scores(models[judge], scored, drawn.scored)
    )
    yield f"{judge} scores", judge, drawn.scored, cost


@dataclass(frozen=True)
class Drawn:
    """A coder whose latent cache is there. latents: those whose prompts are made, of `scored` ones."""

    cache: LatentCache
    grid: Grid
    decode: Decode
    scored: int
    latents: list[int]

    @classmethod
    def open(cls, plan: Plan, coder: CoderId, variant: str, spec: ExplainSpec) -> "Drawn | None":
        """None while there is no latent cache."""
        results = Path(plan.config.results)
        folder = results / coder.at(paths.LATENTS, variant=variant)
        if not (folder / "manifest.json").exists():
            return None
        cache, grid = open_windows(spec.windows, folder, results / coder.at(paths.TOKENS))
        table = census(cache, grid, spec.windows)
        scored = table.loc[table["status"] == SCORED, "latent"].tolist()
        drawn = np.random.default_rng(0).permutation(scored)[:_LATENTS].tolist()
        return cls(cache, grid, decoder(results / coder.at(paths.MODEL)), len(scored), drawn)

    def explaining(self, model: Asked, spec: ExplainSpec) -> Cost:
        """Of explaining the scored latents."""
        samples = [sample_for_explanation(self.cache, self.grid, spec.windows, latent) for latent in self.latents]
        examples = [LatentExamples.of(sample, self.grid, spec.windows.mark_above) for sample in samples]
        requests = [explanation_request(example, spec.explainer, self.decode) for example in examples]
        return self._all(sum((model.cost(request) for request in requests), Cost()))

    def scoring(self, model: Asked, spec: ScoreSpec, explanations: Path, embeddings: Path) -> Cost:
        """Of scoring the explanations that are there.

        Which silent windows are asked about matters only where some are answered; elsewhere, and where the embeddings that tell
        the nearest are not there, any stand for them.
        """
        there = spec.negatives == NEAREST and (embeddings / MANIFEST).exists()
        if model.cache is None or (spec.negatives == NEAREST and not there):
            spec, there = spec.model_copy(update={"negatives": RANDOM}), False
        draw = drawer(spec, self.cache, self.grid, WindowEmbeddings.open(embeddings, self.grid) if there else None)
        table = read_parquet(explanations / FILE)
        scored = table[table["status"] == SCORED]
        places = {latent: place for place, latent in enumerate(scored["latent"].tolist())}
        samples = {latent: draw(latent).sample for latent in self.latents}
        cost = Cost()
        for said in said_by_control(spec, scored).values():
            for latent, sample in samples.items():
                for scorer in spec.asking:
                    asked = exam_of(spec, self.grid, sample, scorer).questions
                    requests = question_requests(said[places[latent]], asked, spec.explainer, self.decode)
                    cost += sum((model.cost(request) for request in requests), Cost())
        return self._all(cost)

    def _all(self, cost: Cost) -> Cost:
        return cost.times(self.scored / max(len(self.latents), 1))


def _typical(model: Asked, spec: ExplainSpec, latents: int) -> Cost:
    """Of explaining so many latents, none of which is known."""
    return model.cost(_like(EXPLAIN, spec.windows.window * spec.windows.explanation_windows, spec.explainer), latents)


def _typical_scores(model: Asked, spec: ScoreSpec, latents: int) -> Cost:
    """Of scoring so many latents whose explanations are not known."""
    prompts = -(-(spec.windows.test_firing + spec.windows.test_silent) // spec.windows_a_prompt)
    prompts *= latents * len(spec.asking) * (2 if spec.shuffled else 1)
    return model.cost(_like(DETECTION, spec.windows.window * spec.windows_a_prompt, spec.explainer), prompts)


def _like(name: str, tokens: int, options: dict[str, Any]) -> Request:
    """A request like those of a prompt file, about windows of so many tokens in all."""
    words = "x" * round(tokens * _CHARACTERS_A_TOKEN)
    system, user = filled(name, examples=words, windows=words, explanation="x" * 120, count=0)
    kind = "explanation_tokens" if name == EXPLAIN else "answer_tokens"
    return Request(system, user, Sampling(options["temperature"], options[kind]))


def _cells(model: Asked, cost: Cost) -> tuple[str, ...]:
    money = f"{model.money(cost):,.2f}" if model.settings.prices else "no prices"
    counts = (cost.prompts, cost.answered, cost.tokens_in, cost.tokens_out)
    return (*(f"{count:,.0f}" for count in counts), money)


def _table(rows: list[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADER))]
    for row in rows:
        padded = [cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True)]
        yield "  ".join([row[0].ljust(widths[0]), row[1].ljust(widths[1]), *padded])


def _total(model: Asked, cost: Cost) -> str:
    settings, totals = model.settings, model.totals
    prompts, answered, tokens_in, tokens_out, money = _cells(model, cost)
    text = f"{settings.name}: {prompts} prompts, {answered} of them answered; still {tokens_in} tokens in and {tokens_out} out"
    if settings.prices is None:
        return text
    spent = settings.cost(totals.prompt_tokens, totals.completion_tokens)
    budget = "" if settings.budget is None else f", of a budget of {settings.budget:,.2f}"
    over = settings.budget is not None and spent + model.money(cost) > settings.budget
    return f"{text}, {money} in money; {spent:,.2f} are spent{budget}" + (": it will stop before the end" if over else "")


def _assumed(models: dict[str, Asked]) -> Iterator[str]:
    guessed = [name for name, model in models.items() if not model.totals.prompt_tokens]
    if guessed:
        yield f"tokens in: a token for {_CHARACTERS_A_TOKEN:g} characters, as {', '.join(guessed)} answered nothing yet"
    yield "tokens out: every reply as long as it may be"
