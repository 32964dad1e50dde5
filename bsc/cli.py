"""The command line: `bsc STAGE ...`, one subcommand a stage, and no logic.

Nothing heavy is imported before a stage is chosen, so `bsc --help` answers at once.
"""

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, TextIO, get_args

from bsc.device import keep_freed_memory, place
from bsc.errors import UserError
from bsc.shares import Parallel


def folder(text: str) -> Path:
    """A folder, which may be named by a file in it: the rules name what they read and write by its files."""
    path = Path(text)
    return path.parent if path.suffix in (".json", ".parquet", ".safetensors") else path


def parallel(text: str) -> str:
    """What the ranks of a training job share."""
    if text not in get_args(Parallel):
        raise argparse.ArgumentTypeError(f"`{text}` is none of {', '.join(get_args(Parallel))}")
    return text


@dataclass(frozen=True)
class Stage:
    """A stage as a command. code: `module:function`; spec: its model in `bsc.stages`; inputs: its flags, with their help.

    An input's flag is its name; `parameter` is what the function calls it, `many` that it takes several paths, `optional`
    that it may be left out. output: the help of --output, where that is one file. checkpoints: it saves its state, so it
    takes --checkpoint-minutes.
    """

    help: str
    code: str
    spec: str
    inputs: tuple["Input", ...] = ()
    output: str = ""
    checkpoints: bool = False


@dataclass(frozen=True)
class Input:
    """A flag that takes one path, or several. kind: what its text is made into."""

    flag: str
    help: str
    parameter: str = ""
    many: bool = False
    optional: bool = False
    kind: Callable[[str], Any] = Path

    @property
    def name(self) -> str:
        """What argparse calls it."""
        return self.flag.replace("-", "_")


_MODEL = Input("model", "model folder, as `bsc model` wrote it", kind=folder)
_TOKENS = Input("tokens", "tokens folder, as `bsc tokens` wrote it", kind=folder)
_BASELINE = Input("baseline", "baseline folder, as `bsc baseline` wrote it", kind=folder)
_CODER = Input("coder", "coder folder, as `bsc train` wrote it", kind=folder)
_LATENTS = Input("latents", "latents folder, as `bsc latents` wrote it", kind=folder)
_ACTIVATIONS = Input("activations", "index of a hookpoint's activations (JSON), as `bsc index` wrote it", "index")
_LLMS = Input("llms", "how language models are reached: JSON, by name", optional=True, kind=str)
_ANSWERS = Input("answers", "folder of the language models' answers", optional=True)
_EMBEDDER = Input("embedder", "sentence-embedding model, as `bsc embedder` wrote it", kind=folder)
_MADE_OR_STORED = Input("activations", "index of a hookpoint's activations, of `bsc index` or `bsc recipe`", "index")
_DIGEST = Input("digest", "what the workflow knows it by; kept with it", optional=True, kind=str)

STAGES: dict[str, Stage] = {
    "model": Stage("fetch a language model and keep it as safetensors", "bsc.models.fetch:fetch_model", "ModelSpec"),
    "tokens": Stage("cut text into contexts of tokens, by split", "bsc.corpus.tokens:make_tokens", "TokensSpec", (_MODEL,)),
    "activations": Stage(
        "write what goes in and out of every hookpoint for one shard of contexts",
        "bsc.activations.extract:extract",
        "ActivationsSpec",
        (_MODEL, _TOKENS),
    ),
    "recipe": Stage(
        "write the index of activations that are made as they are read, and not stored",
        "bsc.activations.recipe:write_recipe",
        "RecipeSpec",
        (_MODEL, _TOKENS),
        "index to write (JSON)",
    ),
    "cohort": Stage(
        "train several coders on the same batches, to the state from which `bsc train` writes each",
        "bsc.training.cohort:train_cohort",
        "CohortSpec",
        (
            Input("activations", "indices of the members' hookpoints, of `bsc index` or `bsc recipe`", "indices", many=True),
            Input("coders", "folder that the members' folders are in"),
            Input("parallel", "what ranks of torchrun share: coders (each its own) or batches", optional=True, kind=parallel),
        ),
        "list of the members to write (JSON)",
        checkpoints=True,
    ),
    "train": Stage(
        "train one coder",
        "bsc.training.train:train",
        "CoderSpec",
        (
            _MADE_OR_STORED,
            Input("choice", "the choice of a sweep (JSON), as `bsc choose` wrote it", optional=True),
            _DIGEST,
        ),
        checkpoints=True,
    ),
    "runtime": Stage(
        "time training steps, by k, batch and number of latents", "bsc.training.runtime:time_steps", "RuntimeSpec"
    ),
    "finetune": Stage(
        "go on training a coder on the divergence of what the model predicts with it from what it predicts without",
        "bsc.finetuning.finetune:finetune",
        "CoderSpec",
        (
            _MODEL,
            _TOKENS,
            Input("coder", "folder of the coder to go on from, as `bsc train` wrote it", kind=folder),
            Input(
                "others", "coder folders, one for each of the spec's other hookpoints", many=True, optional=True, kind=folder
            ),
            _DIGEST,
        ),
        checkpoints=True,
    ),
    "trial": Stage(
        "try a learning rate of a sweep",
        "bsc.training.trial:trial",
        "CoderSpec",
        (_MADE_OR_STORED, Input("held-out", "index of the activations that the trial is judged on", "held_out"), _DIGEST),
        checkpoints=True,
    ),
    "choose": Stage(
        "choose the learning rate of a sweep",
        "bsc.training.choose:choose",
        "ChoiceSpec",
        (Input("trials", "trial folders, as `bsc trial` wrote them", many=True, kind=folder),),
    ),
    "baseline": Stage(
        "cross-entropy of the unspliced model", "bsc.evaluation.baseline:baseline", "EvaluationSpec", (_MODEL, _TOKENS)
    ),
    "references": Stage(
        "cross-entropy with hooked modules put to zero, to their mean, and to a linear map of their input",
        "bsc.evaluation.references:references",
        "ReferencesSpec",
        (_MODEL, _TOKENS, _BASELINE),
    ),
    "evaluate": Stage(
        "cross-entropy with coders spliced in, FVU and firing frequencies",
        "bsc.evaluation.evaluate:evaluate",
        "EvaluationSpec",
        (_MODEL, _TOKENS, _BASELINE, Input("coders", "coder folders, one a hookpoint of the spec", many=True, kind=folder)),
    ),
    "ablation": Stage(
        "what the latents of a coder are worth: cross-entropy and FVU without them, in bins of F1",
        "bsc.evaluation.ablation:ablate",
        "AblationSpec",
        (_MODEL, _TOKENS, _CODER, Input("scores", "scores folder, as `bsc score` wrote it", kind=folder)),
    ),
    "labelled": Stage(
        "write the activations of labelled documents at every hookpoint",
        "bsc.probing.documents:label_documents",
        "LabelledSpec",
        (_MODEL,),
    ),
    "probe": Stage(
        "tell the labels of documents by a few latents of a coder, and by as many dimensions of what it reads",
        "bsc.probing.probe:probe",
        "ProbeSpec",
        (Input("labelled", "labelled documents folder, as `bsc labelled` wrote it", kind=folder), _CODER),
    ),
    "latents": Stage(
        "cache where each latent of a coder fires",
        "bsc.autointerp.cache:cache_latents",
        "LatentsSpec",
        (_CODER, _ACTIVATIONS),
    ),
    "embedder": Stage(
        "fetch a sentence-embedding model and keep it as safetensors",
        "bsc.autointerp.embedding.fetch:fetch_embedder",
        "EmbedderSpec",
    ),
    "embed": Stage(
        "embed the windows that explanations are tested on",
        "bsc.autointerp.embedding.windows:embed_windows",
        "EmbedSpec",
        (_TOKENS, _MODEL, _EMBEDDER),
    ),
    "explain": Stage(
        "explain latents from their windows",
        "bsc.autointerp.explain:explain",
        "ExplainSpec",
        (_LATENTS, _TOKENS, _MODEL, _LLMS, _ANSWERS),
    ),
    "score": Stage(
        "score explanations on windows that the explainer did not see",
        "bsc.autointerp.score:score",
        "ScoreSpec",
        (
            _LATENTS,
            Input("explanations", "explanations folder, as `bsc explain` wrote it", kind=folder),
            _TOKENS,
            Input("model", "model folder, whose tokenizer a language model needs", optional=True, kind=folder),
            _LLMS,
            _ANSWERS,
            replace(_EMBEDDER, optional=True),
            Input("embeddings", "embeddings of the windows, as `bsc embed` wrote them", optional=True, kind=folder),
        ),
    ),
    "figure": Stage(
        "draw a figure or write a table",
        "bsc.figures.draw:draw",
        "FigureSpec",
        (Input("results", "the results folder"),),
        "path to write, without its ending",
    ),
    "gallery": Stage(
        "write the page of all figures, with captions and numbers",
        "bsc.figures.gallery:gallery",
        "GallerySpec",
        (Input("results", "the results folder"), Input("captions", "folder of captions, NAME.rst")),
        "page to write (HTML)",
    ),
}


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    top = argparse.ArgumentParser(
        prog="bsc",
        description="Sparse coders for interpreting language models. From `model` on, a subcommand is a stage of the workflow, "
        "which can be called by hand just as well: `snakemake -np TARGET` shows the whole command.",
    )
    commands = top.add_subparsers(metavar="COMMAND", required=True)
    for add in (_add_check, _add_estimate, _add_claims, _add_autointerp, _add_export):
        add(commands)
    for name, stage in STAGES.items():
        command = _command(commands, name, stage.help)
        command.add_argument("--spec", required=True, metavar="JSON", help=f"what to do: the fields of bsc.stages.{stage.spec}")
        for item in stage.inputs:
            command.add_argument(
                f"--{item.flag}",
                required=not item.optional,
                type=item.kind,
                metavar="TEXT" if item.kind is str else "PATH",
                help=item.help,
                nargs="+" if item.many else None,
            )
        command.add_argument(
            "--output",
            required=True,
            type=Path if stage.output else folder,
            nargs=1 if stage.output else "+",
            metavar="PATH",
            help=stage.output or "folder to write, or files in it",
        )
        command.add_argument("--log", type=Path, metavar="PATH", help="file that gets what is reported, beside the terminal")
        if stage.checkpoints:
            command.add_argument(
                "--checkpoint-minutes",
                type=float,
                default=5.0,
                metavar="MINUTES",
                help="time between checkpoints (5)",
            )
        command.set_defaults(run=_run_stage, stage=name)
    _add_index(commands)
    top.set_defaults(log=None)
    return top


def _command(commands: Any, name: str, help_text: str) -> argparse.ArgumentParser:
    made: argparse.ArgumentParser = commands.add_parser(
        name, help=help_text, description=f"{help_text[0].upper()}{help_text[1:]}."
    )
    return made


def _add_index(commands: Any) -> None:
    command = _command(commands, "index", "list the shards of a hookpoint's activations, with their checksums")
    command.add_argument("--shards", required=True, type=Path, nargs="+", metavar="PATH", help="shard files, in order")
    command.add_argument("--context", required=True, type=int, metavar="TOKENS", help="tokens in a context")
    command.add_argument("--output", required=True, type=Path, metavar="PATH", help="index to write (JSON)")
    command.add_argument("--log", type=Path, metavar="PATH", help="file that gets what is reported, beside the terminal")
    command.set_defaults(run=_run_index)


def _add_check(commands: Any) -> None:
    command = _command(commands, "check", "check a config and say what it asks for, before anything runs")
    command.add_argument(
        "config", type=Path, nargs="*", default=[Path("config/config.yaml")], help="YAML files (config/config.yaml)"
    )
    command.set_defaults(run=_run_check)


def _add_claims(commands: Any) -> None:
    command = _command(commands, "claims", "say which of the paper's findings hold in the results, with their intervals")
    command.add_argument(
        "config", type=Path, nargs="*", default=[Path("config/config.yaml")], help="YAML files (config/config.yaml)"
    )
    command.set_defaults(run=_run_claims)


def _add_estimate(commands: Any) -> None:
    command = _command(commands, "estimate", "say what a config costs in hours, memory and disk, before anything runs")
    command.add_argument(
        "config", type=Path, nargs="*", default=[Path("config/config.yaml")], help="YAML files (config/config.yaml)"
    )
    command.add_argument(
        "--machine", default="h100", metavar="NAME", help="what jobs run on: h100 (default), a100, cpu2, or one in RATES"
    )
    command.add_argument(
        "--rates",
        type=Path,
        default=Path("benchmarks/results/rates.json"),
        metavar="PATH",
        help="what machines were measured to sustain, by benchmarks/rates.py (benchmarks/results/rates.json)",
    )
    command.add_argument("--jobs", type=int, metavar="N", help="jobs at a time (64; without GPUs, one a core)")
    command.set_defaults(run=_run_estimate)


def _add_export(commands: Any) -> None:
    command = _command(commands, "export", "write a coder in the format of another library")
    command.add_argument("coder", type=Path, help="coder folder")
    command.add_argument("output", type=Path, help="folder to write")
    command.add_argument("--to", required=True, choices=["sparsify"], help="the library: EleutherAI's sparsify")
    command.set_defaults(run=_run_export)


def _add_autointerp(commands: Any) -> None:
    about = _command(commands, "autointerp", "what asking language models costs").add_subparsers(metavar="WHAT", required=True)
    command = _command(about, "estimate", "prompts, tokens and money that are still to be asked for, before they are")
    command.add_argument(
        "config", type=Path, nargs="*", default=[Path("config/config.yaml")], help="YAML files (config/config.yaml)"
    )
    command.set_defaults(run=_run_autointerp_estimate)


def _load(code: str) -> Callable[..., Any]:
    module, _, name = code.partition(":")
    function: Callable[..., Any] = getattr(import_module(module), name)
    return function


def _run_stage(arguments: argparse.Namespace) -> None:
    from pydantic import ValidationError

    import bsc.stages

    stage = STAGES[arguments.stage]
    try:
        spec = getattr(bsc.stages, stage.spec).model_validate_json(arguments.spec)
    except ValidationError as error:
        places = ((".".join(map(str, fault["loc"])), fault["msg"]) for fault in error.errors())
        faults = "; ".join(f"`{at}`: {message}" if at else message for at, message in places)
        fix = "copy the command whole from `snakemake -np TARGET`"
        raise UserError(f"not a {stage.spec}: {faults}", where="--spec", fix=fix) from error
    inputs = {item.parameter or item.flag: getattr(arguments, item.name) for item in stage.inputs}
    if stage.checkpoints:
        inputs["checkpoint_seconds"] = 60 * arguments.checkpoint_minutes
    _load(stage.code)(spec, **inputs, output=arguments.output[0])


def _run_index(arguments: argparse.Namespace) -> None:
    _load("bsc.activations.index:write_index")(arguments.shards, arguments.context, arguments.output)


def _run_check(arguments: argparse.Namespace) -> None:
    from bsc.check import report

    print(report(arguments.config))


def _run_claims(arguments: argparse.Namespace) -> None:
    from bsc.claims import report

    print(report(arguments.config))


def _run_estimate(arguments: argparse.Namespace) -> None:
    from bsc.estimate.machines import find_machine
    from bsc.estimate.report import report

    print(report(arguments.config, find_machine(arguments.machine, arguments.rates), arguments.jobs))


def _run_autointerp_estimate(arguments: argparse.Namespace) -> None:
    print(_load("bsc.autointerp.estimate:report")(arguments.config))


def _run_export(arguments: argparse.Namespace) -> None:
    _load("bsc.coders.export:export_sparsify")(arguments.coder, arguments.output)


class _Tee:
    """A stderr that writes to a log file too. It is no terminal: several jobs may share the real one."""

    def __init__(self, stream: TextIO, file: TextIO) -> None:
        self._stream, self._file = stream, file

    def write(self, text: str) -> int:
        self._file.write(text)
        return self._stream.write(text)

    def flush(self) -> None:
        self._file.flush()
        self._stream.flush()

    def isatty(self) -> bool:
        return False


@contextmanager
def _logged(path: Path | None) -> Iterator[None]:
    if path is None:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    if rank := place().rank:
        path = path.with_suffix(f".{rank}{path.suffix}")  # torchrun started several processes with this command
    with path.open("w", encoding="utf-8", buffering=1) as file, redirect_stderr(_Tee(sys.stderr, file)):
        try:
            yield
        except Exception:
            traceback.print_exc()
            raise SystemExit(1) from None


def _run(chosen: argparse.Namespace) -> int:
    try:
        chosen.run(chosen)
        sys.stdout.flush()
    except UserError as error:
        print(f"bsc: error: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left would fail again at exit
        return 1
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns 0, or 1 after printing an error that the user can mend."""
    chosen = parser().parse_args(arguments)
    keep_freed_memory()
    with _logged(chosen.log):
        return _run(chosen)
