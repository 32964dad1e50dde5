"""The stage `bsc train`: one coder from the activations that an index stands for (paper, Sec. 4)."""

from pathlib import Path

from bsc.coders.load import save_coder
from bsc.errors import UserError
from bsc.io import read_json
from bsc.stages import CoderSpec
from bsc.training.loop import Task, run


def train(
    spec: CoderSpec,
    index: Path,
    output: Path,
    *,
    choice: Path | None = None,
    digest: str | None = None,
    checkpoint_seconds: float = 300.0,
) -> None:
    """Train the coder of a spec on the activations that an index stands for, and write its folder.

    choice: the file of a sweep (`bsc choose`) whose learning rate is taken, for a spec that has none. digest: of the coder's
    plan. It is recorded in checkpoints, and in the manifest, so that `bsc cohort` knows a coder that is as it should be.

    A run that was stopped or killed goes on from its last checkpoint (`bsc.training.loop.run` says when there is one); on the
    same machine and number of threads the coder is bit for bit the one of a run without interruption. The folder `checkpoint`
    is gone once the coder is written.

    Raises as `run` does; UserError when the spec has no learning rate; Diverged when training diverges (its state is then in
    diverged.safetensors and diverged.json).
    """
    (member,) = run([Task(_rated(spec, choice), output, index, digest)], checkpoint_seconds)
    if member.error:
        raise member.error
    member.trainer.finish()
    save_coder(member.trainer.coder, member.trainer.spec, output, member.trainer.log.frame(), digest)
    member.checkpoints.remove()


def _rated(spec: CoderSpec, choice: Path | None) -> CoderSpec:
    if choice is not None:
        return spec.model_copy(update={"learning_rate": float(read_json(choice)["learning_rate"])})
    if spec.learning_rate is None:
        raise UserError("the spec has no learning rate", where="--spec", fix="give the sweep's choice, --choice")
    return spec
