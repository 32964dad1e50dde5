"""What prompts cost: those of a coder whose latents are cached, made as the stages make them. No torch."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from bsc import paths
from bsc.autointerp.embedding.windows import WindowEmbeddings
from bsc.autointerp.explain import FILE, SPLIT, decoder
from bsc.autointerp.explainers.base import LatentExamples
from bsc.autointerp.explainers.llm import explanation_request, question_requests
from bsc.autointerp.firings import LatentCache
from bsc.autointerp.llm.answers import AnswerCache, Totals
from bsc.autointerp.llm.messages import Request
from bsc.autointerp.llm.settings import Settings
from bsc.autointerp.negatives import drawer
from bsc.autointerp.samples import SCORED, Sample, census, sample_for_explanation
from bsc.autointerp.score import exam_of, said_by_control
from bsc.autointerp.windows import Grid
from bsc.corpus.store import read_tokens_numpy
from bsc.io import MANIFEST, read_manifest, read_parquet
from bsc.stages import NEAREST, RANDOM, ExplainSpec, Plan, ScoreSpec, WindowsSpec

_LATENTS = 16
"""Of each coder whose prompts are made."""
CHARACTERS_A_TOKEN = 4.0
"""Of English, until a server has counted some."""


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
        self.billed = self.cache.billed() if self.cache else (0, 0)

    def cost(self, request: Request, prompts: float = 1.0) -> Cost:
        """Of a request, or of so many like it."""
        if self.cache is not None and self.cache.get([request.key(self.settings.known_as)]):
            return Cost(prompts, prompts)
        counted = self.totals.prompt_tokens > 0
        each = self.totals.characters / self.totals.prompt_tokens if counted else CHARACTERS_A_TOKEN
        return Cost(prompts, 0, prompts * request.characters / each, prompts * request.sampling.most_tokens)

    def money(self, cost: Cost) -> float:
        """What the tokens cost."""
        return self.settings.cost(cost.tokens_in, cost.tokens_out)


class Text:
    """The text of a model, the same for all its coders: its windows, its tokenizer, and the embeddings of the windows."""

    def __init__(self, plan: Plan, model: str) -> None:
        results = Path(plan.config.results)
        spec = plan.config.autointerp
        self._embeddings = results / paths.EMBEDDINGS.format(model=model)
        self.grid = Grid.cut(read_tokens_numpy(results / paths.TOKENS.format(model=model), SPLIT), spec.window, spec.seed)
        self.decode = decoder(results / paths.MODEL.format(model=model))

    @cached_property
    def embeddings(self) -> WindowEmbeddings | None:
        """None while they are not there."""
        return WindowEmbeddings.open(self._embeddings, self.grid) if (self._embeddings / MANIFEST).exists() else None


class Drawn:
    """A coder whose latent cache is there.

    scored: how many latents are. latents: those of them whose prompts are made. explained: by explainer, the table of those
    that explained these latents.
    """

    def __init__(self, latents: Path, text: Text, spec: WindowsSpec, explanations: dict[str, Path]) -> None:
        """latents: folder of the cache, whose bytes are not checked, as that takes minutes. explanations: folders, if there."""
        self._text, self._cache = text, LatentCache.open(latents, verify=False)
        text.grid.check(self._cache)
        there = {name: _explained(folder, spec) for name, folder in explanations.items()}
        self.explained = {name: table for name, table in there.items() if table is not None and self._is_of(table)}
        found = next(iter(self.explained.values()), None)
        table = census(self._cache, text.grid, spec) if found is None else found
        scored = table.loc[table["status"] == SCORED, "latent"].tolist()
        self.scored = len(scored)
        self.latents: list[int] = np.random.default_rng(0).permutation(scored)[:_LATENTS].tolist()
        self._tested: dict[str, list[Sample]] = {}

    def _is_of(self, table: pd.DataFrame) -> bool:
        return np.array_equal(table["firings"], self._cache.firings)

    def explaining(self, model: Asked, spec: ExplainSpec) -> Cost:
        """Of explaining the scored latents."""
        grid = self._text.grid
        samples = [sample_for_explanation(self._cache, grid, spec.windows, latent) for latent in self.latents]
        examples = [LatentExamples.of(sample, grid, spec.windows.mark_above) for sample in samples]
        requests = [explanation_request(example, spec.explainer, self._text.decode) for example in examples]
        return self._all(sum((model.cost(request) for request in requests), Cost()))

    def scoring(self, model: Asked, spec: ScoreSpec, explainer: str) -> Cost:
        """Of scoring an explainer's explanations, which are there.

        Which silent windows are asked about matters only where some are answered; elsewhere, and where the embeddings that tell
        the nearest are not there, any stand for them.
        """
        if model.cache is None or (spec.negatives == NEAREST and self._text.embeddings is None):
            spec = spec.model_copy(update={"negatives": RANDOM})
        table = self.explained[explainer]
        scored = table[table["status"] == SCORED]
        places = {latent: place for place, latent in enumerate(scored["latent"].tolist())}
        cost = Cost()
        for said in said_by_control(spec, scored).values():
            for sample in self._samples(spec):
                for scorer in spec.asking:
                    asked = exam_of(spec, self._text.grid, sample, scorer).questions
                    requests = question_requests(said[places[sample.latent]], asked, spec.explainer, self._text.decode)
                    cost += sum((model.cost(request) for request in requests), Cost())
        return self._all(cost)

    def _samples(self, spec: ScoreSpec) -> list[Sample]:
        """The test samples of the latents that are drawn, worked out once for all explainers."""
        if spec.negatives not in self._tested:
            embeddings = self._text.embeddings if spec.negatives == NEAREST else None
            draw = drawer(spec, self._cache, self._text.grid, embeddings)
            self._tested[spec.negatives] = [draw(latent).sample for latent in self.latents]
        return self._tested[spec.negatives]

    def _all(self, cost: Cost) -> Cost:
        return cost.times(self.scored / max(len(self.latents), 1))


def _explained(folder: Path, spec: WindowsSpec) -> pd.DataFrame | None:
    """The explanations from such windows in a folder; None where there are none, or none with the weights of today's draws."""
    if not (folder / MANIFEST).exists() or read_manifest(folder, verify=False)["windows"] != spec.model_dump():
        return None
    table = read_parquet(folder / FILE)
    return table if "sampling_weight" in table else None
