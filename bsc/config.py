"""The models of config.yaml: the one place where a key, its default, its unit and its check live.

`load` reads the file (or takes what Snakemake merged from files and `--config`), checks every key and every dependence
between keys, and raises one UserError that lists all faults with file, line, key and what to do. No torch in here.
"""

import difflib
import functools
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, field_validator, model_validator

from bsc.coders.binarisers.registry import REGISTRY, Entry
from bsc.errors import UserError
from bsc.paths import ARCHITECTURES, NAME, CoderId, layer

Positive = Annotated[int, Field(gt=0)]
Rate = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(gt=0, le=1)]
Dtype = Literal["auto", "float32", "bfloat16"]
Architecture = Literal["sae", "transcoder", "skip-transcoder"]
Hookpoint = Annotated[str, Field(pattern=r"^layers\.(0|[1-9]\d*)\.mlp$")]
Seed = Annotated[int, Field(ge=0)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Model(_Strict):
    """A language model: where it comes from and where it is hooked."""

    source: str
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
    bos: bool = False
    separator: str | None = None
    splits: Splits

    @model_validator(mode="after")
    def _source_is_whole(self) -> "Corpus":
        needs = {"documentation": "packages", "files": "files", "hub": "dataset"}
        for source, key in needs.items():
            if (source == self.source) != bool(getattr(self, key)):
                raise ValueError(f"`{key}` goes with `source: {source}`, and with no other")
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


def _option(default: Any) -> tuple[Any, Any]:
    if isinstance(default, tuple):
        return Literal[default], default[0]
    return Annotated[type(default), Field(gt=0)], default


def _settings_model(key: str, entry: Entry) -> type[BaseModel]:
    fields: dict[str, Any] = {name: _option(default) for name, default in entry.options.items()}
    rate = Rate | dict[Architecture, Rate] | None
    return create_model(f"Settings[{key}]", __base__=_Strict, learning_rate=(rate, None), **fields)


SETTINGS: dict[str, type[BaseModel]] = {key: _settings_model(key, entry) for key, entry in REGISTRY.items()}
"""The model of `binarisers.KEY` for each binariser: `learning_rate`, and the options that its registry line names."""


class Coders(_Strict):
    """One block of the grid: every combination of its lists. `models` and `hookpoints` default to all there are."""

    models: list[str] | None = None
    hookpoints: list[Hookpoint] | None = None
    architectures: Annotated[list[Architecture], Field(min_length=1)]
    binarisers: Annotated[list[str], Field(min_length=1)]
    k: Annotated[list[Positive], Field(min_length=1)]
    seeds: Annotated[list[Seed], Field(min_length=1)] = [1]

    @field_validator("binarisers")
    @classmethod
    def _known(cls, names: list[str]) -> list[str]:
        for name in names:
            if name not in REGISTRY:
                raise ValueError(f"`{name}` is no binariser{_nearest(name, REGISTRY)}; there are {', '.join(REGISTRY)}")
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
    scorers: Annotated[list[Literal["detection", "fuzzing"]], Field(min_length=1)] = ["detection", "fuzzing"]
    marks: Literal["fair", "paper"] = "fair"
    controls: list[Literal["shuffled", "random", "binarised"]] = ["shuffled"]
    resamples: Annotated[int, Field(ge=100)] = 2_000
    seed: Seed = 0


class Figures(_Strict):
    """How figures look; nothing here changes a number."""

    column_inches: Rate = 3.4
    font_size: Rate = 8.0
    palette: Annotated[list[str], Field(min_length=1)] | None = None
    dpi: Positive = 200


class Config(_Strict):
    """A whole config.yaml."""

    results: str = "results"
    disk_gb: Rate = 50.0
    cohort: Annotated[int, Field(ge=1, le=100)] = 1
    models: Annotated[dict[str, Model], Field(min_length=1)]
    corpus: Corpus
    activations: Activations = Activations()
    training: Training
    binarisers: dict[str, Any] = {}
    coders: Annotated[list[Coders], Field(min_length=1)]
    evaluation: Evaluation = Evaluation()
    autointerp: Autointerp = Autointerp()
    figures: Figures = Figures()

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

    @field_validator("binarisers")
    @classmethod
    def _settings(cls, raw: dict[str, Any]) -> dict[str, Any]:
        for name in raw:
            if name not in REGISTRY:
                raise ValueError(f"`{name}` is no binariser{_nearest(name, REGISTRY)}; there are {', '.join(REGISTRY)}")
        return raw

    def settings(self, binariser: str) -> dict[str, Any]:
        """The options of a binariser with their defaults filled in, and its `learning_rate` (None: by the rule)."""
        return SETTINGS[binariser].model_validate(self.binarisers.get(binariser) or {}).model_dump()

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


def _faults_of_amounts(config: Config) -> Iterator[Fault]:
    """Faults in how many tokens there are and how many are asked for."""
    training, splits, interpretation = config.training, config.corpus.splits, config.corpus.splits.interpretation
    usable = splits.train.contexts * (splits.train.context - 1)
    if training.batch_tokens > usable:
        yield (
            ("corpus", "splits", "train"),
            f"{usable} usable tokens are fewer than one batch of {training.batch_tokens} (`training.batch_tokens`)",
        )
    steps = training.tokens // training.batch_tokens
    if steps <= training.warmup_steps:
        yield (
            ("training", "warmup_steps"),
            f"training has {steps} steps in all (`tokens` / `batch_tokens`), no more than the warm-up",
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
    for split in (splits.train, interpretation):
        if config.activations.shard_tokens % split.context:
            yield (
                ("activations", "shard_tokens"),
                f"{config.activations.shard_tokens} is no multiple of a context of {split.context}",
            )


def _faults_of_settings(config: Config) -> Iterator[Fault]:
    for key, raw in config.binarisers.items():
        try:
            SETTINGS[key].model_validate(raw or {})
        except ValidationError as error:
            for location, message in _faults_of_schema(error, SETTINGS[key]):
                yield ("binarisers", key, *location), message
    continuous = [key for block in config.coders for key in block.binarisers if not REGISTRY[key].continuous]
    if config.training.multi_topk and continuous:
        yield ("training", "multi_topk"), f"works with continuous binarisers only, and the grid has `{continuous[0]}`"


def _faults_of_files(config: Config, root: Path) -> Iterator[Fault]:
    """What can be known of local files and packages before a job runs: that they are there, and are long enough."""
    for name, model in config.models.items():
        kind, _, rest = model.source.partition(":")
        if kind == "folder" and not (root / rest / "config.json").is_file():
            yield ("models", name, "source"), f"no model folder at {root / rest} (no config.json in it)"
    for package in config.corpus.packages or []:
        try:
            version(package)
        except PackageNotFoundError:
            yield ("corpus", "packages"), f"`{package}` is not installed: pip install it, or take it out of the list"
    if config.corpus.source != "files":
        return
    sizes = []
    for pattern in config.corpus.files or []:
        found = sorted(root.glob(pattern)) if not Path(pattern).is_absolute() else [Path(pattern)]
        found = [path for path in found if path.is_file()]
        if not found:
            yield ("corpus", "files"), f"no file matches `{pattern}` under {root}"
        sizes += [path.stat().st_size for path in found if path.suffix != ".parquet"]
    wanted = sum(split.tokens for _, split in config.corpus.splits)
    if sizes and len(sizes) == len(config.corpus.files or []) and sum(sizes) < wanted:
        yield (
            ("corpus", "splits"),
            f"{wanted} tokens are asked for and the files hold {sum(sizes)} bytes: a token is a byte at least",
        )


def _faults_of_schema(error: ValidationError, model: type[BaseModel]) -> Iterator[Fault]:
    for fault in error.errors():
        location = tuple(part for part in fault["loc"])
        message = fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "extra_forbidden":
            known = _known_keys(model, location[:-1])
            message = f"unknown key{_nearest(location[-1], known)}; known here: {', '.join(sorted(known))}"
        elif fault["type"] == "missing":
            message = "this key is needed and is not there"
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
    """Which line of which file each key stands on; refuses a key that stands twice."""

    def __init__(self, files: list[Path]) -> None:
        self.lines: dict[tuple[str | int, ...], tuple[Path, int]] = {}
        self.files = files
        for file in files:
            try:
                node = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
            except FileNotFoundError as error:
                raise UserError("no such config file", where=str(file)) from error
            except yaml.YAMLError as error:
                raise UserError(f"not valid YAML: {error}", where=str(file), fix="mend the syntax") from error
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
    lines = _Lines(files)
    raw: Any = dict(merged) if merged is not None else {}
    if merged is None:
        for file in files:
            _update(raw, yaml.safe_load(file.read_text(encoding="utf-8")) or {})
    faults: list[Fault]
    try:
        config = Config.model_validate(raw)
    except ValidationError as error:
        faults = list(_faults_of_schema(error, Config))
    else:
        faults = [*_faults_of_settings(config), *_faults_of_grid(config), *_faults_of_amounts(config)]
        faults += _faults_of_files(config, root or Path.cwd())
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
