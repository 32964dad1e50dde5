"""The models of config.yaml: the one place where a key, its default, its unit and its check live.

`load` reads the file (or takes what Snakemake merged from files and `--config`), checks every key and every dependence
between keys, and raises one UserError that lists all faults with file, line, key and what to do. No torch in here.
"""

import difflib
import functools
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    create_model,
    field_validator,
    model_validator,
)

from bsc.coders.binarisers import registry
from bsc.coders.binarisers.registry import REGISTRY, Entry, is_binariser, kind_of
from bsc.errors import UserError
from bsc.figures.registry import FIGURES
from bsc.io import matching
from bsc.paths import ARCHITECTURES, NAME, NGRAM, RESERVED, CoderId, layer
from bsc.shares import Parallel

Positive = Annotated[int, Field(gt=0)]
Rate = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(gt=0, le=1)]
Dtype = Literal["auto", "float32", "bfloat16"]
Architecture = Literal["sae", "transcoder", "skip-transcoder"]


def _is_hookpoint(name: str) -> str:
    if not re.fullmatch(r"layers\.(0|[1-9]\d*)\.mlp", name):
        raise ValueError(f"`{name}` is no hookpoint: write layers.N.mlp, with N from 0 on; only MLPs are hooked")
    return name


def _is_folder(name: str) -> str:
    if not name or set("{}*?[]") & set(name):
        raise ValueError(f"`{name}` is no folder that rules can name: leave out braces, brackets and wildcards")
    return name


def _is_colour(colour: str) -> str:
    if not re.fullmatch("#[0-9a-fA-F]{6}", colour):
        raise ValueError(f"`{colour}` is no colour: write #RRGGBB, in quotation marks, as # begins a comment")
    return colour


def _with_home(source: str) -> str:
    return re.sub(r"^folder:~(?=/|$)", lambda _: f"folder:{Path.home()}", source)


Hookpoint = Annotated[str, AfterValidator(_is_hookpoint)]
Source = Annotated[str, AfterValidator(_with_home)]
Colour = Annotated[str, AfterValidator(_is_colour)]
Seed = Annotated[int, Field(ge=0)]
Sizes = Annotated[list[Positive], Field(min_length=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Model(_Strict):
    """A language model: where it comes from and where it is hooked."""

    source: Source
    revision: str | None = None
    file: str | None = None
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    width: Positive
    layers: Positive
    hookpoints: Annotated[list[Hookpoint], Field(min_length=1)]
    dtype: Dtype = "auto"

    @model_validator(mode="after")
    def _source_is_whole(self) -> "Model":
        kind, _, rest = self.source.partition(":")
        if kind not in ("hub", "folder", "pypi") or not rest:
            raise ValueError("`source` must be hub:OWNER/NAME, folder:PATH or pypi:PACKAGE==VERSION")
        if kind == "hub" and not self.revision:
            raise ValueError("a hub model needs `revision`, a commit or a tag, so that it is the same tomorrow")
        if kind == "pypi" and not (self.file and self.sha256 and "==" in rest):
            raise ValueError("a pypi model needs a pinned PACKAGE==VERSION, `file` (the GGUF in the wheel) and its `sha256`")
        if kind != "hub" and self.revision:
            raise ValueError("`revision` belongs to hub models only")
        if kind != "pypi" and (self.file or self.sha256):
            raise ValueError("`file` and `sha256` belong to pypi models only")
        _unique("hookpoints", self.hookpoints)
        for hookpoint in self.hookpoints:
            if layer(hookpoint) >= self.layers:
                raise ValueError(f"`{hookpoint}` is not there: the model has layers 0 to {self.layers - 1}")
        return self


class Split(_Strict):
    """How much text a split has, and the length of its contexts, both in tokens."""

    tokens: Positive
    context: Annotated[int, Field(ge=8)] = 256

    @model_validator(mode="after")
    def _holds_a_context(self) -> "Split":
        if self.tokens < self.context:
            raise ValueError(f"{self.tokens} tokens are fewer than one context of {self.context}")
        return self

    @property
    def contexts(self) -> int:
        """How many contexts it has; a rest of the tokens is left out."""
        return self.tokens // self.context


class Splits(_Strict):
    """The splits. They hold different documents; evaluation and interpretation are filled first."""

    train: Split
    evaluation: Split
    interpretation: Split


class Corpus(_Strict):
    """The text: `documentation` of installed packages, local `files`, or a `hub` data set."""

    source: Literal["documentation", "files", "hub"]
    packages: list[str] | None = None
    files: list[str] | None = None
    dataset: str | None = None
    subset: str | None = None
    hub_split: str = "train"
    revision: str | None = None
    streaming: bool = True
    text_column: str = "text"
    ids_column: str | None = None
    bos: bool = False
    separator: str | None = None
    splits: Splits

    @model_validator(mode="after")
    def _source_is_whole(self) -> "Corpus":
        _one_source(self)
        if self.source == "hub" and self.streaming and "[" in self.hub_split:
            raise ValueError(
                "`hub_split` has a slice, which cannot be streamed: set `streaming: false`, or name the whole split"
            )
        if self.ids_column is None:
            return self
        if self.source == "documentation":
            raise ValueError("`ids_column` goes with `source: files` and `source: hub`: documentation has no token ids")
        if "text_column" in self.model_fields_set:
            raise ValueError("`text_column` and `ids_column` are both there: documents are text or token ids, so leave one out")
        if text := [name for name in self.files or [] if name.endswith(".txt")]:
            raise ValueError(f"`ids_column` names a column, and `{text[0]}` has none: use .jsonl, .parquet or .arrow")
        return self


class Activations(_Strict):
    """How activations are cut into jobs and files, and whether those of the train split are stored at all."""

    mode: Literal["store", "stream", "auto"] = "store"
    shard_tokens: Positive = 65_536
    batch_contexts: Positive = 16


class Training(_Strict):
    """What all coders share. The number of latents is `expansion` times the model's width."""

    expansion: Positive = 64
    tokens: Positive
    batch_tokens: Positive = 65_536
    optimiser: Literal["adam", "signum"] = "adam"
    warmup_steps: Annotated[int, Field(ge=0)] = 1_000
    auxk: bool = False
    multi_topk: bool = False
    dead_after_tokens: Positive = 10_000_000
    dtype: Dtype = "auto"


class Frequency(_Strict):
    """What training does against latents that fire on more than `cap` of the tokens (*ours*).

    control `penalty`: the loss gets `strength` times Σ_i relu(r_i - cap)·mean z_i. `bias`: each step lowers the bias of the
    latents over the cap by `strength`, and raises the others' again, up to 0. r_i is the mean over the last `memory_tokens`.
    """

    control: Literal["penalty", "bias"]
    cap: Share = 0.1
    strength: Rate
    memory_tokens: Positive = 65_536


class Finetune(_Strict):
    """How training of a variant's binariser goes on, on the KL divergence to the unspliced model (paper, Sec. 4); by Adam.

    others: with the binariser's coders spliced in at all other hookpoints of the model, as they are.
    """

    tokens: Positive
    learning_rate: Rate = 1e-3
    warmup_steps: Annotated[int, Field(ge=0)] = 50
    batch_sequences: Positive = 8
    others: bool = False


def _option(default: Any) -> tuple[Any, Any]:
    if isinstance(default, tuple):
        return Literal[default], default[0]
    if isinstance(default, registry.Share):
        return Annotated[float, Field(gt=0, lt=1)], float(default)
    if isinstance(default, registry.Bits):
        return Annotated[int, Field(gt=0, le=16)], int(default)
    return Annotated[type(default), Field(gt=0)], default


def _settings_model(key: str, entry: Entry) -> type[BaseModel]:
    fields: dict[str, Any] = {name: _option(default) for name, default in entry.options.items()}
    rate = Rate | dict[Architecture, Rate] | None
    own: dict[str, Any] = {
        "learning_rate": (rate, None),
        "frequency": (Frequency | None, None),
        "finetune": (Finetune | None, None),
    }
    return create_model(f"Settings[{key}]", __base__=_Strict, **own, **fields)


SETTINGS: dict[str, type[BaseModel]] = {key: _settings_model(key, entry) for key, entry in REGISTRY.items()}
"""The model of `binarisers.KEY` for each binariser: what all of them take, and the options of its registry line."""


def _check_binarisers(names: Iterable[str]) -> None:
    for name in names:
        if kind_of(name) not in REGISTRY:
            raise ValueError(f"`{name}` is no binariser{_nearest(name, REGISTRY)}; there are {', '.join(REGISTRY)}")
        if not is_binariser(name):
            raise ValueError(
                f"`{name}` is no name of a variant: after `{kind_of(name)}.` come small letters, digits and underscores"
            )


class Tune(_Strict):
    """A sweep of the learning rate for each binariser that is given none: `rates`, each tried on `tokens` tokens.

    It is done at each architecture's first hookpoint of the grid, largest k and first seed, and holds for its other coders.
    """

    rates: Annotated[list[Rate], Field(min_length=2)]
    tokens: Positive

    @field_validator("rates")
    @classmethod
    def _different(cls, rates: list[float]) -> list[float]:
        _unique("rates", [f"{rate:g}" for rate in rates])
        return rates


class Coders(_Strict):
    """One block of the grid: every combination of its lists. `models` and `hookpoints` default to all there are."""

    models: list[str] | None = None
    hookpoints: list[Hookpoint] | None = None
    architectures: Annotated[list[Architecture], Field(min_length=1)]
    binarisers: Annotated[list[str], Field(min_length=1)]
    k: Annotated[list[Positive], Field(min_length=1)]
    seeds: Annotated[list[Seed], Field(min_length=1)] = [1]

    @model_validator(mode="after")
    def _once_each(self) -> "Coders":
        for name, values in self:
            _unique(name, values or [])
        return self

    @field_validator("binarisers")
    @classmethod
    def _known(cls, names: list[str]) -> list[str]:
        _check_binarisers(names)
        return names


class Evaluation(_Strict):
    """Cross-entropy with a coder spliced in, on the evaluation split."""

    sequences: Positive = 4_096
    batch_sequences: Positive = 8
    resamples: Annotated[int, Field(ge=100)] = 2_000
    seed: Seed = 0


class Explainer(_Strict):
    """The n-gram explainer.

    At most `patterns` patterns of at most `length` tokens, each right at least `precision` of the times that it matches.
    """

    kind: Literal["ngram"] = "ngram"
    length: Annotated[int, Field(ge=1, le=8)] = 3
    patterns: Positive = 24
    precision: Share = 0.5


class Prices(_Strict):
    """What a language model costs, in money (any one currency) for a million tokens."""

    input: Annotated[float, Field(ge=0)]
    output: Annotated[float, Field(ge=0)]


class Serve(_Strict):
    """A server that the job starts. command: with `{model}` and `{port}`; health: what answers 200 once it is up."""

    command: str
    health: Annotated[str, Field(pattern="^/")] = "/health"
    wait_seconds: Rate = 900.0

    @field_validator("command")
    @classmethod
    def _takes_a_port(cls, command: str) -> str:
        if "{port}" not in command:
            raise ValueError("needs `{port}`, which is where the server has to listen")
        return command


def _is_variable(name: str) -> str:
    if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name):
        raise ValueError("name the environment variable that holds the key, and never the key itself")
    return name


def _is_address(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise ValueError("write it with its scheme: http://localhost:8000/v1, https://api.openai.com/v1")
    return text


class Llm(_Strict):
    """A language model that explains and scores: where it is, what it is asked with, and what it may cost.

    At one of `endpoint` (an OpenAI-compatible API), `serve` (a server that the job starts) and `transformers` (in the process:
    a name under `models`, or a folder).
    """

    model: str | None = None
    endpoint: Annotated[str, AfterValidator(_is_address)] | None = None
    serve: Serve | None = None
    transformers: str | None = None
    key: Annotated[str, AfterValidator(_is_variable)] | None = None
    temperature: Annotated[float, Field(ge=0)] | None = 0.0
    parameters: dict[str, Any] = {}
    explanation_tokens: Positive = 200
    answer_tokens: Positive = 64
    structured: bool = False
    logprobs: bool = False
    concurrency: Positive = 64
    timeout: Rate = 120.0
    attempts: Positive = 6
    prices: Prices | None = None
    budget: Rate | None = None

    @model_validator(mode="after")
    def _is_somewhere(self) -> "Llm":
        places = [name for name in ("endpoint", "serve", "transformers") if getattr(self, name) is not None]
        if len(places) != 1:
            raise ValueError("needs exactly one of `endpoint`, `serve` and `transformers`")
        if self.model is None and self.transformers is None:
            raise ValueError("needs `model`, the name by which the server knows it")
        if self.endpoint is not None and "@" in self.endpoint:
            raise ValueError("`endpoint` must hold no password: name an environment variable with `key`")
        if self.endpoint is not None and set("?#") & set(self.endpoint):
            raise ValueError("`endpoint` ends with its path, as in https://host/v1: nothing may follow, least of all a key")
        if self.transformers is not None and (self.key or self.structured or self.budget or self.parameters):
            raise ValueError("`key`, `structured`, `budget` and `parameters` are for servers: a model in the process has none")
        if self.transformers is not None and self.temperature is None:
            raise ValueError("`temperature: null` leaves it to a server: a model in the process needs one")
        try:
            json.dumps(self.parameters, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError("`parameters` holds something that is no JSON, as a date or .nan") from error
        if taken := [name for name in ("messages", "model", "n", "stream") if name in self.parameters]:
            raise ValueError(f"`parameters` cannot set `{taken[0]}`")
        if self.budget is not None and self.prices is None:
            raise ValueError("`budget` needs `prices`")
        return self

    @property
    def name(self) -> str:
        """What the model is called, by its server or by transformers."""
        return str(self.model or self.transformers)


class Embedding(_Strict):
    """The sentence-embedding model of the `embedding` scorer and the `nearest` negatives. sha256: of a whole wheel."""

    source: Source
    revision: str | None = None
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None

    @model_validator(mode="after")
    def _source_is_whole(self) -> "Embedding":
        kind, _, rest = self.source.partition(":")
        if kind not in ("hub", "folder", "pypi") or not rest:
            raise ValueError("`source` must be hub:OWNER/NAME, folder:PATH or pypi:PACKAGE==VERSION")
        if (kind == "hub") != bool(self.revision):
            raise ValueError("`revision`, a commit or a tag, belongs to a hub model, which needs it, and to no other")
        if (kind == "pypi") != bool(self.sha256) or (kind == "pypi" and "==" not in rest):
            raise ValueError("a pypi model needs a pinned PACKAGE==VERSION and the `sha256` of its wheel; no other has one")
        return self


class Autointerp(_Strict):
    """Windows, which latents are scored, who explains and who scores."""

    window: Positive = 32
    minimum_windows: Positive = 200
    explanation_windows: Annotated[int, Field(ge=10, multiple_of=10)] = 40
    test_firing: Annotated[int, Field(ge=10, multiple_of=10)] = 50
    test_silent: Positive = 50
    latents: Positive | None = None
    mark_above: Share = 0.3
    windows_a_prompt: Positive = 5
    explainer: Explainer = Explainer()
    llms: list[str] = []
    judge: str | None = None
    show_activations: bool = False
    scorers: list[Literal["detection", "fuzzing", "embedding"]] = ["detection", "fuzzing"]
    embedding: Embedding | None = None
    negatives: Literal["random", "cooccurring", "nearest"] = "random"
    marks: Literal["fair", "paper"] = "fair"
    controls: list[Literal["shuffled", "random", "binarised"]] = ["shuffled"]
    resamples: Annotated[int, Field(ge=100)] = 2_000
    seed: Seed = 0

    @field_validator("scorers")
    @classmethod
    def _one_has_an_f1(cls, scorers: list[str]) -> list[str]:
        if not {"detection", "fuzzing"} & set(scorers):
            raise ValueError("needs `detection` or `fuzzing`: figures and the ablation show F1, and `embedding` has none")
        return scorers

    @property
    def embeds(self) -> bool:
        """Whether scoring needs sentence embeddings."""
        return "embedding" in self.scorers or self.negatives == "nearest"


class Ablation(_Strict):
    """Latents set to zero in bins of F1, of each kind of coder at one k, on sequences of the evaluation split."""

    bins: Annotated[int, Field(ge=2)] = 200
    sequences: Positive = 1_024
    scorer: Literal["detection", "fuzzing"] = "fuzzing"


class Probing(_Strict):
    """Sparse probing of each kind of coder at one k: labelled text, and how many latents tell its labels."""

    source: Literal["documentation", "files", "hub"]
    packages: list[str] | None = None
    labels: Literal["package", "kind"] = "package"
    files: list[str] | None = None
    dataset: str | None = None
    subset: str | None = None
    hub_split: str = "train"
    revision: str | None = None
    streaming: bool = True
    text_column: str = "text"
    label_column: str = "label"
    documents: Annotated[int, Field(ge=16)] = 1_000
    tokens: Annotated[int, Field(ge=16)] = 128
    batch_documents: Positive = 16
    counts: Annotated[list[Positive], Field(min_length=1)] = [1, 2, 5]
    test: Annotated[float, Field(gt=0, lt=1)] = 0.3
    resamples: Annotated[int, Field(ge=100)] = 2_000
    seed: Seed = 0

    @model_validator(mode="after")
    def _source_is_whole(self) -> "Probing":
        _one_source(self)
        if self.source == "documentation" and self.labels == "package" and len(self.packages or []) < 2:
            raise ValueError("`labels: package` needs two packages or more to tell apart")
        if sorted(set(self.counts)) != self.counts:
            raise ValueError("`counts` must rise, each once")
        return self


def _one_source(text: Corpus | Probing) -> None:
    needs = {"documentation": "packages", "files": "files", "hub": "dataset"}
    for source, key in needs.items():
        if (source == text.source) != bool(getattr(text, key)):
            raise ValueError(f"`{key}` goes with `source: {source}`, and with no other")


class Runtime(_Strict):
    """The time of training steps by k, batch and latents, of which one is varied at a time around coders of the grid."""

    binarisers: Annotated[list[str], Field(min_length=1)] | None = None
    k: Sizes | None = None
    batch_tokens: Sizes | None = None
    expansions: Sizes | None = None
    rounds: Positive = 3


class Figures(_Strict):
    """How figures look, and whose explanations and scores they show."""

    column_inches: Rate = 3.4
    font_size: Rate = 8.0
    palette: Annotated[list[Colour], Field(min_length=1)] | None = None
    dpi: Positive = 200
    explainer: str = NGRAM


class Config(_Strict):
    """A whole config.yaml."""

    results: Annotated[str, AfterValidator(_is_folder)] = "results"
    answers: str | None = None
    disk_gb: Rate = 50.0
    cohort: Annotated[int, Field(ge=1, le=100)] = 1
    cohort_of: Literal["hookpoint", "model"] = "hookpoint"
    gpus: Annotated[int, Field(ge=1, le=16)] = 1
    parallel: Parallel = "coders"
    checkpoint_minutes: Annotated[float, Field(ge=0)] = 5.0
    models: Annotated[dict[str, Model], Field(min_length=1)]
    corpus: Corpus
    activations: Activations = Activations()
    training: Training
    binarisers: dict[str, Any] = {}
    tune: Tune | None = None
    coders: Annotated[list[Coders], Field(min_length=1)]
    evaluation: Evaluation = Evaluation()
    llms: dict[str, Llm] = {}
    autointerp: Autointerp = Autointerp()
    ablation: Ablation | None = None
    probing: Probing | None = None
    runtime: Runtime | None = None
    figures: Figures = Figures()

    @field_validator("tune", "ablation", "probing", "runtime", mode="before")
    @classmethod
    def _no_empty_blocks(cls, raw: Any, info: ValidationInfo) -> Any:
        if raw is None:
            raise ValueError(f"nothing is under it: write `{info.field_name}: {{}}` for its defaults, or leave it out")
        return raw

    @field_validator("models")
    @classmethod
    def _safe_names(cls, models: dict[str, Model]) -> dict[str, Model]:
        for name in models:
            if not NAME.fullmatch(name) or ".." in name:
                raise ValueError(f"`{name}` is no safe path: use letters, digits, dots, dashes and underscores")
        folded: dict[str, str] = {}
        for name in models:
            if (other := folded.setdefault(name.lower(), name)) != name:
                raise ValueError(f"`{other}` and `{name}` are the same folder on some disks: rename one")
        return models

    @field_validator("llms")
    @classmethod
    def _safe_llm_names(cls, llms: dict[str, Llm]) -> dict[str, Llm]:
        for name in llms:
            if not NAME.fullmatch(name) or name in RESERVED:
                raise ValueError(
                    f"`{name}` is no name: use letters, digits, dots, dashes and underscores, and none of {', '.join(RESERVED)}"
                )
        return llms

    @field_validator("binarisers")
    @classmethod
    def _settings(cls, raw: dict[str, Any]) -> dict[str, Any]:
        _check_binarisers(raw)
        return raw

    @property
    def in_cohorts(self) -> bool:
        """Whether jobs of the rule `cohort` train: several coders, or one on several GPUs."""
        return self.cohort > 1 or self.gpus > 1

    def settings(self, binariser: str) -> dict[str, Any]:
        """The options of a binariser with their defaults, its `learning_rate` and, where it has them, `frequency`, `finetune`.

        A variant has the settings of its binariser, but for those that it names itself.
        """
        merged = {
            key: value for name in (kind_of(binariser), binariser) for key, value in (self.binarisers.get(name) or {}).items()
        }
        settings = SETTINGS[kind_of(binariser)].model_validate(merged).model_dump()
        return {key: value for key, value in settings.items() if value or key not in ("frequency", "finetune")}

    @functools.cached_property
    def coder_ids(self) -> list[CoderId]:
        """Every coder of the grid, in order, without repeats."""
        return sorted({coder for block in self.coders for coder in self._block(block)})

    def _block(self, block: Coders) -> Iterator[CoderId]:
        for name in block.models if block.models is not None else self.models:
            for hookpoint in block.hookpoints if block.hookpoints is not None else self.models[name].hookpoints:
                for architecture in block.architectures:
                    for binariser in block.binarisers:
                        for k in block.k:
                            for seed in block.seeds:
                                yield CoderId(name, hookpoint, architecture, binariser, k, seed)

    @functools.cached_property
    def finetunes(self) -> dict[str, Finetune]:
        """The variants whose coders are not trained from the start, but go on from those of their binariser; and how."""
        raw = {name: (settings or {}).get("finetune") for name, settings in self.binarisers.items()}
        return {name: Finetune.model_validate(block) for name, block in raw.items() if block}

    @functools.cached_property
    def frequency(self) -> list[str] | None:
        """The grid's binarisers and variants with frequency control; None where there is none."""
        names = dict.fromkeys(coder.binariser for coder in self.coder_ids)
        return [name for name in names if self.settings(name).get("frequency")] or None

    def base(self, coder: CoderId) -> CoderId:
        """The coder that a finetuned one goes on from: of its binariser, and as it in all else."""
        return replace(coder, binariser=kind_of(coder.binariser))

    def others(self, coder: CoderId) -> list[CoderId]:
        """The coders that are spliced in at other hookpoints while one is finetuned: not finetuned themselves."""
        if not self.finetunes[coder.binariser].others:
            return []
        hookpoints = self.models[coder.model].hookpoints
        return [replace(self.base(coder), hookpoint=one) for one in hookpoints if one != coder.hookpoint]

    def tuned(self, coder: CoderId) -> bool:
        """Whether a sweep chooses the learning rate of a coder."""
        if coder.binariser in self.finetunes:
            return False
        rate = self.settings(coder.binariser)["learning_rate"]
        given = rate.get(coder.architecture) if isinstance(rate, dict) else rate
        return self.tune is not None and given is None

    def latents(self, model: str) -> int:
        """M, the number of latents of each of a model's coders."""
        return self.training.expansion * self.models[model].width


Fault = tuple[tuple[str | int, ...], str]


def _unique(name: str, values: list[Any]) -> None:
    repeated = sorted({str(value) for value in values if values.count(value) > 1})
    if repeated:
        raise ValueError(f"`{name}` names {', '.join(repeated)} twice: leave one out")


def _nearest(word: object, known: Any) -> str:
    close = difflib.get_close_matches(str(word), [str(name) for name in known], n=1, cutoff=0.5)
    return f" (did you mean `{close[0]}`?)" if close else ""


def _faults_of_grid(config: Config) -> Iterator[Fault]:
    """Faults that show only when the keys are seen together."""
    seen: dict[CoderId, int] = {}
    for number, block in enumerate(config.coders):
        at = ("coders", number)
        missing = [name for name in block.models or [] if name not in config.models]
        if missing:
            yield (*at, "models"), f"`{missing[0]}` is not under `models`{_nearest(missing[0], config.models)}"
            continue
        for name in block.models or config.models:
            model = config.models[name]
            for hookpoint in block.hookpoints or []:
                if hookpoint not in model.hookpoints:
                    yield (*at, "hookpoints"), f"`{hookpoint}` is not among the hookpoints of `{name}`: add it there"
            latents = config.latents(name)
            for k in block.k:
                if k > latents:
                    yield (*at, "k"), f"k = {k} is more than the {latents} latents of `{name}` (expansion x width)"
                for key in block.binarisers:
                    if k < REGISTRY[key].smallest_k:
                        yield (*at, "k"), f"k = {k} is too small for `{key}`: it needs {REGISTRY[key].smallest_k} at least"
                    if REGISTRY[key].grouped and latents % k:
                        yield (
                            (*at, "k"),
                            f"`{key}` makes k groups of M/k latents, and M = {latents} is not divisible by k = {k}",
                        )
        for coder in config._block(block):
            if coder in seen:
                yield at, f"`{coder}` is asked for in block {seen[coder]} already: leave one out"
                break
            seen[coder] = number


def _faults_of_finetuning(config: Config) -> Iterator[Fault]:
    """Faults in how variants are finetuned, seen with the other settings and the splits."""
    context = config.corpus.splits.train.context
    for name, wanted in config.finetunes.items():
        if name in REGISTRY:
            message = f"only a variant goes on from a trained coder: put it under `{name}.finetuned`"
            yield ("binarisers", name, "finetune"), message
            continue
        if other := sorted(set(config.binarisers[name]) - {"finetune"}):
            message = f"a variant with `finetune` goes on with the settings of `{kind_of(name)}`: set it there"
            yield ("binarisers", name, other[0]), message
        steps = wanted.tokens // (wanted.batch_sequences * context)
        if steps <= wanted.warmup_steps:
            yield (
                ("binarisers", name, "finetune", "warmup_steps"),
                f"finetuning has {steps} steps in all (`tokens` / `batch_sequences` / {context}), no more than the warm-up",
            )


def _faults_of_finetuned(config: Config) -> Iterator[Fault]:
    """Faults of the grid's finetuned coders: one for each block that lacks what its coders go on from, or are spliced with."""
    grid, variants = set(config.coder_ids), set(config.finetunes) - set(REGISTRY)
    for number, block in enumerate(config.coders):
        finetuned = (coder for coder in config._block(block) if coder.binariser in variants)
        if message := next(filter(None, (_lacking(config, coder, grid) for coder in finetuned)), None):
            yield ("coders", number, "binarisers"), message


def _lacking(config: Config, coder: CoderId, grid: set[CoderId]) -> str | None:
    """What a finetuned coder lacks, in words; None for nothing."""
    if config.finetunes[coder.binariser].others and not config.others(coder):
        return f"`{coder.binariser}` has `finetune.others`, and `{coder.model}` no other hookpoint: set it to false"
    needed = {"goes on from": [config.base(coder)], "is finetuned with": config.others(coder)}
    for why, coders in needed.items():
        if missing := [one for one in coders if one not in grid]:
            return f"`{coder}` {why} `{missing[0]}`, which is not in the grid: add it, in this block or another"
    return None


def _faults_of_gpus(config: Config) -> Iterator[Fault]:
    if config.parallel == "coders" and config.cohort < config.gpus:
        yield ("gpus",), f"a job of {config.cohort} coders (`cohort`) has none for some of {config.gpus} GPUs: raise `cohort`"
    if config.parallel == "batches" and config.training.batch_tokens % config.gpus:
        yield ("gpus",), f"a batch of {config.training.batch_tokens} tokens has no {config.gpus} equal parts"


def _faults_of_amounts(config: Config) -> Iterator[Fault]:
    """Faults in how many tokens there are and how many are asked for."""
    training, splits, interpretation = config.training, config.corpus.splits, config.corpus.splits.interpretation
    usable = splits.train.contexts * (splits.train.context - 1)
    if training.batch_tokens > usable:
        yield (
            ("corpus", "splits", "train"),
            f"{usable} usable tokens are fewer than one batch of {training.batch_tokens} (`training.batch_tokens`)",
        )
    yield from _faults_of_gpus(config)
    steps = training.tokens // training.batch_tokens
    if steps <= training.warmup_steps:
        yield (
            ("training", "warmup_steps"),
            f"training has {steps} steps in all (`tokens` / `batch_tokens`), no more than the warm-up",
        )
    if config.tune is not None:
        steps = config.tune.tokens // training.batch_tokens
        if steps <= training.warmup_steps:
            yield (
                ("tune", "tokens"),
                f"a trial has {steps} steps in all (`tokens` / `training.batch_tokens`), no more than the warm-up",
            )
        if config.in_cohorts:
            yield (
                ("cohort",) if config.cohort > 1 else ("gpus",),
                "coders of a cohort have rates of their own: sweep first, then give the binarisers the rates chosen",
            )
    held = splits.evaluation.contexts
    if config.evaluation.sequences > held:
        yield (
            ("corpus", "splits", "evaluation"),
            f"{held} contexts are fewer than the {config.evaluation.sequences} of `evaluation.sequences`",
        )
    if interpretation.context % config.autointerp.window:
        yield (
            ("autointerp", "window"),
            f"{config.autointerp.window} does not divide `corpus.splits.interpretation.context`, {interpretation.context}",
        )
    windows = interpretation.contexts * (interpretation.context // config.autointerp.window)
    wanted = 2 * max(config.autointerp.explanation_windows, config.autointerp.test_firing + config.autointerp.test_silent)
    if windows < wanted:
        yield (
            ("corpus", "splits", "interpretation"),
            f"{windows} windows are fewer than the {wanted} that explanations and tests need",
        )
    half = windows // 2
    if config.autointerp.minimum_windows > half:
        yield (
            ("autointerp", "minimum_windows"),
            f"no latent fires in {config.autointerp.minimum_windows} windows of a half that has {half}: lower it, or have more "
            "of `corpus.splits.interpretation`",
        )
    for split in (splits.train, interpretation):
        if config.activations.shard_tokens % split.context:
            yield (
                ("activations", "shard_tokens"),
                f"{config.activations.shard_tokens} is no multiple of a context of {split.context}",
            )


def _faults_of_ablation(config: Config) -> Iterator[Fault]:
    """Faults in what is ablated, seen with the splits and the scorers."""
    if config.ablation is None:
        return
    held = config.corpus.splits.evaluation.contexts
    if config.ablation.sequences > held:
        yield (
            ("ablation", "sequences"),
            f"{config.ablation.sequences} sequences, and the evaluation split has {held} contexts",
        )
    if config.ablation.scorer not in config.autointerp.scorers:
        yield ("ablation", "scorer"), f"`{config.ablation.scorer}` is not among `autointerp.scorers`: add it there"


def _faults_of_probing(config: Config, root: Path) -> Iterator[Fault]:
    """Faults in what is probed, seen with the models and the files."""
    if config.probing is None:
        return
    for name, model in config.models.items():
        latents = config.latents(name)
        if config.probing.counts[-1] > min(latents, model.width):
            yield ("probing", "counts"), f"{config.probing.counts[-1]} is more than `{name}` has of latents or dimensions"
    for file in config.probing.files or []:
        if not (root / file).is_file():
            yield ("probing", "files"), f"there is no file {root / file}"


def _faults_of_runtime(config: Config) -> Iterator[Fault]:
    """Faults in what is timed, seen with the grid."""
    if config.runtime is None:
        return
    trained = [coder for coder in config.coder_ids if coder.binariser not in config.finetunes]
    timed = FIGURES["runtime"].select(trained)
    there, asked = {coder.binariser for coder in timed}, config.runtime.binarisers
    for key in asked or []:
        if key not in there:
            first = timed[0]
            yield (
                ("runtime", "binarisers"),
                f"`{key}` is not trained as {first.architecture} at k = {first.k}, where steps are timed"
                f"{_nearest(key, there)}: add it to `coders`, or leave it out",
            )
    for name in sorted({coder.model for coder in timed}):
        latents = config.latents(name)
        for k in config.runtime.k or []:
            if k > latents:
                yield ("runtime", "k"), f"k = {k} is more than the {latents} latents of `{name}` (expansion x width)"


def _faults_of_settings(config: Config) -> Iterator[Fault]:
    for key, raw in config.binarisers.items():
        model = SETTINGS[kind_of(key)]
        try:
            model.model_validate(raw or {})
        except ValidationError as error:
            for location, message in _faults_of_schema(error, model):
                yield ("binarisers", key, *location), message
        else:
            control = ((raw or {}).get("frequency") or {}).get("control")
            if control == "bias" and not REGISTRY[key].ranked:
                ranked = ", ".join(name for name, entry in REGISTRY.items() if entry.ranked)
                yield (
                    ("binarisers", key, "frequency"),
                    f"`{key}` ranks no latents, so a bias has nothing to change: use `control: penalty`, or one of {ranked}",
                )
    for number, block in enumerate(config.coders):
        for key in block.binarisers:
            if key not in REGISTRY and key not in config.binarisers:
                yield (
                    ("coders", number, "binarisers"),
                    f"`{key}` is not under `binarisers`{_nearest(key, config.binarisers)}: say there what is different in it",
                )
            for fault in REGISTRY[key].faults():
                said = f"`{key}` is registered wrongly in bsc/coders/binarisers/registry.py: {fault}"
                yield ("coders", number, "binarisers"), said
    entries = {key: REGISTRY[key] for block in config.coders for key in block.binarisers}
    rounded = [key for key, entry in entries.items() if entry.between or not entry.continuous]
    if config.training.multi_topk and rounded:
        yield ("training", "multi_topk"), f"works with continuous binarisers only, and the grid has `{rounded[0]}`"


def _faults_of_llms(config: Config, root: Path) -> Iterator[Fault]:
    """Language models that are named and not there, or are there and cannot be used."""
    autointerp = config.autointerp
    named = [(("autointerp", "llms"), name) for name in autointerp.llms]
    named += [(("autointerp", "judge"), autointerp.judge)] if autointerp.judge is not None else []
    for at, name in named:
        if name not in config.llms:
            yield at, f"`{name}` is not under `llms`{_nearest(name, config.llms)}"
            continue
        folder = config.llms[name].transformers
        if folder and folder not in config.models and not (root / folder / "config.json").is_file():
            known = _nearest(folder, config.models)
            yield ("llms", name, "transformers"), f"`{folder}` is neither under `models` nor a folder with a config.json{known}"
    if repeated := {name for name in autointerp.llms if autointerp.llms.count(name) > 1}:
        yield ("autointerp", "llms"), f"names {', '.join(sorted(repeated))} twice: leave one out"
    if autointerp.judge is not None and not autointerp.llms:
        yield ("autointerp", "judge"), "there is nothing to judge: name who explains in `autointerp.llms`"
    if config.figures.explainer not in (NGRAM, *autointerp.llms):
        known = ", ".join((NGRAM, *autointerp.llms))
        yield ("figures", "explainer"), f"`{config.figures.explainer}` explains nothing here; there are {known}"


def _faults_of_embedding(config: Config, root: Path) -> Iterator[Fault]:
    """Embeddings that are asked for without a model, or with a folder that holds none."""
    autointerp = config.autointerp
    if autointerp.embeds and autointerp.embedding is None:
        key = "scorers" if "embedding" in autointerp.scorers else "negatives"
        yield ("autointerp", key), "sentence embeddings need a model: name one in `autointerp.embedding`"
    kind, _, rest = autointerp.embedding.source.partition(":") if autointerp.embedding else ("", "", "")
    if kind == "folder" and not (root / rest / "modules.json").is_file():
        yield (
            ("autointerp", "embedding", "source"),
            f"no sentence-transformers model at {root / rest} (no modules.json in it)",
        )


def _faults_of_files(config: Config, root: Path) -> Iterator[Fault]:
    """What can be known of local files and packages before a job runs: that they are there, and are long enough."""
    for name, model in config.models.items():
        kind, _, rest = model.source.partition(":")
        if kind != "folder":
            continue
        if not (root / rest / "config.json").is_file():
            yield ("models", name, "source"), f"no model folder at {root / rest} (no config.json in it)"
            continue
        said = _read(root / rest / "config.json")
        for key, there in (("width", "hidden_size"), ("layers", "num_hidden_layers")):
            if (found := said.get(there, getattr(model, key))) != getattr(model, key):
                yield ("models", name, key), f"the model at {root / rest} has {found} (`{there}` in its config.json)"
    for block, text in (("corpus", config.corpus), ("probing", config.probing)):
        for package in (text and text.packages) or []:
            try:
                version(package)
            except PackageNotFoundError:
                yield (block, "packages"), f"`{package}` is not installed: pip install it, or take it out of the list"
    if config.corpus.source != "files":
        return
    sizes = []
    for pattern in config.corpus.files or []:
        found = matching(pattern, root)
        if not found:
            yield ("corpus", "files"), f"no file matches `{pattern}` under {root}"
        sizes += [path.stat().st_size for path in found if path.suffix not in (".parquet", ".arrow")]
    wanted = sum(split.tokens for _, split in config.corpus.splits)
    if sizes and len(sizes) == len(config.corpus.files or []) and sum(sizes) < wanted:
        yield (
            ("corpus", "splits"),
            f"{wanted} tokens are asked for and the files hold {sum(sizes)} bytes: a token is a byte at least",
        )


def _read(file: Path) -> dict[str, Any]:
    """What a model folder's config.json says; nothing if it cannot be read, which `bsc model` will tell."""
    try:
        said = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}


_NUMBER = "constrained-float"
"""What pydantic calls a learning rate that is one number, beside the mapping that it may be."""


def _faults_of_schema(error: ValidationError, model: type[BaseModel]) -> Iterator[Fault]:
    for fault in error.errors():
        if fault["loc"][-1:] == (_NUMBER,) and isinstance(fault["input"], dict):
            continue  # of a number or a mapping, the mapping was meant
        location = tuple(part for part in fault["loc"] if part not in (_NUMBER, "[key]") and not str(part).startswith("dict["))
        message = fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "extra_forbidden":
            known = _known_keys(model, location[:-1])
            message = f"unknown key{_nearest(location[-1], known)}; known here: {', '.join(sorted(known))}"
        elif fault["type"] == "missing":
            message = "this key is needed and is not there"
        elif fault["type"] == "literal_error":
            message += _nearest(fault["input"], re.findall(r"'([^']+)'", fault["ctx"]["expected"]))
        elif fault["type"] in ("int_parsing", "float_parsing"):
            message += f": YAML reads `{fault['input']}` as text; write a number, as 400000 or 4.0e+5"
        yield location, message


def _known_keys(model: Any, location: tuple[str | int, ...]) -> list[str]:
    """The keys that the model at `location` inside `model` takes."""
    current: Any = model
    for part in location:
        if isinstance(current, type) and issubclass(current, BaseModel) and part in current.model_fields:
            current = current.model_fields[str(part)].annotation
        else:
            current = next((a for a in reversed(getattr(current, "__args__", ())) if a is not type(None)), None)
    if isinstance(current, type) and issubclass(current, BaseModel):
        return list(current.model_fields)
    return [key for arg in getattr(current, "__args__", ()) for key in getattr(arg, "model_fields", ())]


class _Lines:
    """Which line of which file each key stands on; refuses a key that stands twice. read: what each file says."""

    def __init__(self, files: list[Path]) -> None:
        self.lines: dict[tuple[str | int, ...], tuple[Path, int]] = {}
        self.files = files
        self.read: list[dict[str, Any]] = []
        for file in files:
            try:
                text = file.read_text(encoding="utf-8")
                node, content = yaml.compose(text, Loader=yaml.SafeLoader), yaml.safe_load(text)
            except FileNotFoundError as error:
                raise UserError("no such config file", where=str(file)) from error
            except (OSError, UnicodeDecodeError) as error:
                raise UserError(f"not a text file: {error}", where=str(file), fix="name a YAML file in UTF-8") from error
            except yaml.YAMLError as error:
                raise UserError(f"not valid YAML: {error}", where=str(file), fix="mend the syntax") from error
            if not isinstance(content, dict | None):
                raise UserError("not a mapping of keys", where=str(file), fix="begin lines with `key:`; see config/config.yaml")
            self.read.append(content or {})
            if node is not None:
                self._walk(file, node, ())

    def _walk(self, file: Path, node: yaml.Node, at: tuple[str | int, ...]) -> None:
        self.lines[at] = (file, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            seen: dict[str, int] = {}
            for key, value in node.value:
                name = str(key.value)
                line = key.start_mark.line + 1
                if name in seen:
                    raise UserError(
                        f"`{'.'.join(map(str, (*at, name)))}` stands twice, on lines {seen[name]} and {line}",
                        where=f"{file}:{line}",
                        fix="rename or remove one of them",
                    )
                seen[name] = line
                self._walk(file, value, (*at, name))
                self.lines[(*at, name)] = (file, line)
        elif isinstance(node, yaml.SequenceNode):
            for number, value in enumerate(node.value):
                self._walk(file, value, (*at, number))

    def where(self, location: tuple[str | int, ...]) -> str:
        """`file:line: key`, of the nearest key that stands in a file."""
        for length in range(len(location), 0, -1):
            if location[:length] in self.lines:
                file, line = self.lines[location[:length]]
                return f"{file}:{line}"
        return ", ".join(map(str, self.files)) or "config"


def load(files: list[Path], merged: Mapping[str, Any] | None = None, *, root: Path | None = None) -> Config:
    """Read and check a config.

    files: YAML files, later ones over earlier ones key by key. merged: what Snakemake made of them and of `--config`,
    taken instead of the files' content when given (the files then serve to name lines). root: what relative paths in the
    config are relative to, the working directory by default.
    Raises UserError that lists every fault with its file, line and key.
    """
    root, lines = root or Path.cwd(), _Lines(files)
    raw: Any = dict(merged) if merged is not None else {}
    if merged is None:
        for content in lines.read:
            _update(raw, content)
    faults: list[Fault]
    try:
        config = Config.model_validate(raw)
    except ValidationError as error:
        faults = list(_faults_of_schema(error, Config))
    else:
        faults = [*_faults_of_settings(config), *_faults_of_grid(config), *_faults_of_amounts(config)]
        faults += [] if faults else [*_faults_of_finetuning(config), *_faults_of_finetuned(config)]
        faults += [*_faults_of_ablation(config), *_faults_of_probing(config, root), *_faults_of_runtime(config)]
        faults += [*_faults_of_llms(config, root), *_faults_of_embedding(config, root)]
        faults += _faults_of_files(config, root)
        if not faults:
            return config
    messages = [f"{lines.where(at)}: `{'.'.join(map(str, at)) or 'config'}`: {message}" for at, message in faults]
    count = f"{len(faults)} faults" if len(faults) > 1 else "a fault"
    raise UserError(f"{count} in the config\n  " + "\n  ".join(messages), fix="mend them; config/README.md explains each key")


def _update(base: dict[str, Any], update: Mapping[str, Any]) -> None:
    for key, value in update.items():
        if isinstance(value, Mapping) and isinstance(base.get(key), dict):
            _update(base[key], value)
        else:
            base[key] = value


__all__ = ["ARCHITECTURES", "SETTINGS", "Config", "load"]
