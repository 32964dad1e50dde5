"""`bsc autointerp estimate`: what language models are still to be asked, in prompts, tokens and money. No torch.

What is there already is used: the latent caches say how many latents are scored, the explanations what is asked about them, and
the answer caches what is answered and how many tokens a prompt has. Of each coder some latents' prompts are made, as the stages
make them, and stand for the others. Before there is a latent cache, all latents that may be scored are counted.
"""

from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any, cast

from bsc import paths
from bsc.autointerp.costs import CHARACTERS_A_TOKEN, Asked, Cost, Drawn, Text
from bsc.autointerp.explainers.llm import sampling
from bsc.autointerp.llm.messages import Request
from bsc.autointerp.prompts import DETECTION, EXPLAIN, filled
from bsc.config import load
from bsc.io import MANIFEST
from bsc.paths import CoderId
from bsc.progress import Progress
from bsc.stages import ExplainSpec, Plan, ScoreSpec

_HEADER = ("coder", "asks", "latents", "prompts", "answered", "tokens in", "tokens out", "money")


def report(files: list[Path]) -> str:
    """A row for each coder and stage, the sum for each model, and its budget. Raises UserError when the config has faults."""
    plan = Plan(load(files))
    names = ", ".join(map(str, files))
    if len(plan.explainers) == 1:
        return f"{names}: no language model is asked (`autointerp.llms` names none)"
    rows, notes = _counted(plan)
    return "\n".join([f"{names}: what language models are asked", "", *_table([_HEADER, *rows]), "", *notes])


def totals(plan: Plan) -> list[str]:
    """Of each language model that the plan asks, the sum and the budget, in a line; and how it was reckoned."""
    return _counted(plan)[1]


def _counted(plan: Plan) -> tuple[list[tuple[str, ...]], list[str]]:
    """A row for each coder and stage, and the notes on each model."""
    models = {name: Asked(plan, name) for name in plan.config.llms}
    rows: list[tuple[str, ...]] = []
    sums = dict.fromkeys(models, Cost())
    coders = [(coder, variant) for coder in plan.config.coder_ids for variant in plan.variants(coder)]
    text = cache(partial(Text, plan))
    with Progress("estimate", len(coders), "coders") as progress:
        for coder, variant in coders:
            for asks, name, latents, cost in _coder(plan, models, text, coder, variant):
                rows.append((f"{coder} {variant}", asks, f"{latents:,}", *_cells(models[name], cost)))
                sums[name] += cost
            progress.advance(1)
    return rows, [*(_total(models[name], cost) for name, cost in sums.items() if cost.prompts), *_assumed(models)]


def _coder(
    plan: Plan, models: dict[str, Asked], text: Callable[[str], Text], coder: CoderId, variant: str
) -> Iterator[tuple[str, str, int, Cost]]:
    """(what is asked, of which model, about how many latents, its cost) for both stages of a coder, by each explainer."""
    drawn = _drawn(plan, text, coder, variant)
    most = plan.config.latents(coder.model)
    latents = drawn.scored if drawn else min(plan.config.autointerp.latents or most, most)
    for explainer in plan.explainers[1:]:
        judge = plan.judge(explainer)
        explained = cast(ExplainSpec, plan.explanations(coder, variant, explainer).spec)
        scored = cast(ScoreSpec, plan.scores(coder, variant, explainer).spec)
        asks, answers = models[explainer], models[judge]
        known = drawn is not None and explainer in drawn.explained
        explaining = drawn.explaining(asks, explained) if drawn else _typical(asks, explained, latents)
        yield f"{explainer} explains", explainer, latents, explaining
        scoring = drawn.scoring(answers, scored, explainer) if drawn and known else _typical_scores(answers, scored, latents)
        yield f"{judge} scores", judge, latents, scoring


def _drawn(plan: Plan, text: Callable[[str], Text], coder: CoderId, variant: str) -> Drawn | None:
    """None while there is no latent cache."""
    results = Path(plan.config.results)
    latents = results / coder.at(paths.LATENTS, variant=variant)
    if not (latents / MANIFEST).exists():
        return None
    patterns = {name: paths.interpreted(paths.EXPLANATIONS, name) for name in plan.explainers}
    folders = {name: results / coder.at(pattern, variant=variant) for name, pattern in patterns.items()}
    spec = cast(ExplainSpec, plan.explanations(coder, variant).spec)
    return Drawn(latents, text(coder.model), spec.windows, folders)


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
    words = "x" * round(tokens * CHARACTERS_A_TOKEN)
    system, user = filled(name, examples=words, windows=words, explanation="x" * 120, count=0)
    kind = "explanation_tokens" if name == EXPLAIN else "answer_tokens"
    return Request(system, user, sampling(options, options[kind]))


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
    settings = model.settings
    prompts, answered, tokens_in, tokens_out, money = _cells(model, cost)
    text = f"{settings.name}: {prompts} prompts, {answered} of them answered; still {tokens_in} tokens in and {tokens_out} out"
    if settings.prices is None:
        return text
    spent = settings.cost(*model.billed)
    budget = "" if settings.budget is None else f", of a budget of {settings.budget:,.2f}"
    over = settings.budget is not None and spent + model.money(cost) > settings.budget
    return f"{text}, {money} in money; {spent:,.2f} are spent{budget}" + (": it will stop before the end" if over else "")


def _assumed(models: dict[str, Asked]) -> Iterator[str]:
    guessed = [name for name, model in models.items() if not model.totals.prompt_tokens]
    if guessed:
        yield f"tokens in: a token for {CHARACTERS_A_TOKEN:g} characters, as {', '.join(guessed)} answered nothing yet"
    yield "tokens out: every reply as long as it may be"
