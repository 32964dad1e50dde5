"""The stage `bsc train`: one coder from the activations that an index stands for (paper, Sec. 4)."""

from pathlib import Path

from bsc.coders.load import save_coder
from bsc.stages import CoderSpec
from bsc.training.loop import Task, run


def train(spec: CoderSpec, index: Path, output: Path, *, digest: str | None = None, checkpoint_seconds: float = 300.0) -> None:
    """Train the coder of a spec on the activations that an index stands for, and write its folder.

    A run that was stopped or killed goes on from its last checkpoint (`bsc.training.loop.run` says when there is one); on the
    same machine and number of threads the coder is bit for bit the one of a run without interruption. The folder `checkpoint`
    is gone once the coder is written. digest: recorded in the manifest, so that `bsc cohort` knows a coder that is as it
    should be.

    Raises as `run` does, and UserError when training diverges; its state is then in diverged.safetensors and diverged.json.
    """
    (member,) = run([Task(spec, output)], index, checkpoint_seconds)
    if member.error:
        raise member.error
    member.trainer.finish()
    save_coder(member.trainer.coder, spec, output, member.trainer.log.frame(), digest)
    member.checkpoints.remove()
