"""The stage `bsc finetune`: training of a coder goes on, on the KL divergence to the unspliced model (paper, Sec. 4)."""

from collections.abc import Iterator
from pathlib import Path
from typing import cast

from torch import Tensor
from transformers import PreTrainedModel

from bsc import spec as specs
from bsc.coders.binarisers.registry import REGISTRY
from bsc.coders.load import load_coder, load_spec, save_coder
from bsc.corpus.store import read_tokens
from bsc.device import device, resolve_dtype
from bsc.errors import UserError
from bsc.finetuning.objective import MEASURED, Objective
from bsc.finetuning.sequences import Sequences
from bsc.io import read_manifest
from bsc.models.halves import Halves
from bsc.models.head import PROBE, check_head
from bsc.models.load import load_model
from bsc.paths import layer
from bsc.stages import CoderSpec, FinetuneSpec
from bsc.training.loop import Member, Reading, Task, drive
from bsc.training.trainer import Trainer

SPLIT = "train"
SHARED = ("width", "latents", "k", "architecture", "binariser", "options", "seed", "frequency")
"""What a finetuned coder has from the one that it goes on from."""


def finetune(
    spec: CoderSpec,
    model: Path,
    tokens: Path,
    coder: Path,
    output: Path,
    *,
    others: list[Path] | None = None,
    digest: str | None = None,
    checkpoint_seconds: float = 300.0,
) -> None:
    """Go on training the coder of a folder, and write the finetuned one as `bsc train` writes a coder.

    others: folders of the coders that are spliced in at `spec.finetune.others`, in that order; they stay as they are. digest:
    recorded in the manifest. The log has `kl`, `ce` and `ce_increase` (nats a token, position 0 left out) beside the columns of
    a trained coder's; its `loss` is the divergence and penalties.

    A run that was stopped goes on from its last checkpoint and gives the same bytes, as `bsc.training.train.train` does.
    Raises UserError when the spec is none of a finetuning, the coder is not the one that the spec goes on from, or the model
    cannot be cut at the hookpoint; Diverged when training diverges.
    """
    wanted, folders = _wanted(spec), others or []
    _check(spec, coder, folders)
    contexts = cast(Tensor, read_tokens(tokens, SPLIT).tokens)
    _check_batch(spec, contexts.shape[1], tokens)
    language_model = _model(spec, model, contexts)
    facts = [read_manifest(folder, verify=False) for folder in (model, tokens, coder, *folders)]
    run = specs.digest(spec.model_dump(), facts, specs.fingerprint(__name__, REGISTRY[spec.binariser].module))
    objective = Objective(language_model, wanted, dict(zip(wanted.others, map(load_coder, folders), strict=True)))

    def build(resumed: bool) -> Trainer:
        trainer = Trainer(spec, None, device(), more=MEASURED)
        if not resumed:
            trainer.coder.load_state_dict(load_coder(coder).state_dict())
        return trainer

    def take(trainer: Trainer, batch: Tensor) -> None:
        trainer.descend(objective(trainer, batch))

    def start(reading: Reading) -> Iterator[Member]:
        yield Member(task, run, build, take)

    task = Task(spec, output, tokens)
    sequences = Sequences(contexts, wanted.batch_sequences, spec.seed, device())
    (member,) = drive("finetune", [task], lambda _: sequences, start, checkpoint_seconds)
    if member.error:
        raise member.error
    member.trainer.finish()
    save_coder(member.trainer.coder, spec, output, member.trainer.log.frame(), digest)
    member.checkpoints.remove()


def _wanted(spec: CoderSpec) -> FinetuneSpec:
    if spec.finetune is None:
        raise UserError("the spec is of a coder that is trained from the start", where="--spec", fix="use `bsc train`")
    return spec.finetune


def _check(spec: CoderSpec, coder: Path, others: list[Path]) -> None:
    if spec.optimiser != "adam":
        what = f"finetuning is with Adam, and the spec says `{spec.optimiser}`"
        raise UserError(what, where="--spec", fix="set `optimiser` to adam")
    found = load_spec(coder)
    for name in SHARED:
        if (has := getattr(found, name)) != (asked := getattr(spec, name)):
            raise UserError(
                f"the coder has `{name}` {has} and the spec {asked}",
                where=str(coder),
                fix="give the coder that the spec goes on from: of the same model, architecture, binariser, k and seed",
            )
    hookpoints = _wanted(spec).others
    if len(others) != len(hookpoints):
        raise UserError(
            f"{len(others)} coders for {len(hookpoints)} other hookpoints ({', '.join(hookpoints) or 'none'})",
            where="--others",
            fix="give one coder folder for each hookpoint in the spec's `finetune.others`, in its order",
        )


def _check_batch(spec: CoderSpec, context: int, tokens: Path) -> None:
    held = _wanted(spec).batch_sequences * context
    if spec.batch_tokens != held:
        raise UserError(
            f"a batch has {held} tokens and the spec says {spec.batch_tokens}",
            where=str(tokens),
            fix="set `batch_tokens` to `finetune.batch_sequences` times the tokens in a context",
        )


def _model(spec: CoderSpec, folder: Path, contexts: Tensor) -> PreTrainedModel:
    """The whole model, found to be one that can be cut above the hooked layer."""
    wanted = _wanted(spec)
    model = load_model(folder, resolve_dtype(wanted.dtype, device()))
    if (width := int(model.config.hidden_size)) != spec.width:
        raise UserError(
            f"the coder has width {spec.width} and the model {width}",
            where=str(folder),
            fix="finetune a coder on the model that it was trained on",
        )
    check_head(model, contexts[:1, :PROBE], folder)
    Halves(model, layer(wanted.hookpoint)).check(contexts[:1, :PROBE], folder, "finetune")
    return model
