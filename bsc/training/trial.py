"""The stage `bsc trial`: one learning rate of a sweep, tried on its budget and judged by held-out FVU (*ours*)."""

import shutil
from pathlib import Path

import torch
from torch import Tensor

from bsc.activations.store import ActivationStore
from bsc.coders.coder import SparseCoder
from bsc.coders.load import load_coder
from bsc.device import device
from bsc.io import write_json
from bsc.stages import CoderSpec
from bsc.training.divergence import Diverged
from bsc.training.train import train

CODER, RESULT = "coder", "trial.json"
_TOKENS_AT_ONCE = 4_096


def trial(
    spec: CoderSpec, index: Path, held_out: Path, output: Path, *, digest: str | None = None, checkpoint_seconds: float = 300.0
) -> None:
    """Train the coder of a spec, and write `trial.json`: its `learning_rate`, and `fvu` on the rows of the store `held_out`.

    digest: by which the workflow knows whether the trial is still the one that it asks for; kept with it.

    A rate at which training diverges has `fvu` null: that is an answer too. The coder itself is not kept. Interrupted, it goes
    on from its checkpoint, as `bsc train` does. Raises UserError and CorruptFile as `bsc train`.
    """
    folder = output / CODER
    fvu: float | None
    try:
        train(spec, index, folder, checkpoint_seconds=checkpoint_seconds)
    except Diverged:
        fvu = None
    else:
        fvu = held_out_fvu(load_coder(folder), ActivationStore.open(held_out))
    write_json(output / RESULT, {"digest": digest, "learning_rate": spec.learning_rate, "fvu": fvu})
    shutil.rmtree(folder)


@torch.no_grad()
def held_out_fvu(coder: SparseCoder, store: ActivationStore) -> float:
    """FVU over every row of a store but those of position 0: Σ(y-ŷ)² / Σ(y-mean(y))², summed in float64."""
    where = device()
    error, squares, rows = 0.0, 0.0, 0
    total: Tensor = torch.zeros(store.width, dtype=torch.float64, device=where)
    for shard in store.shards:
        keep = ((torch.arange(shard.rows) + shard.first_row) % store.context != 0).nonzero().squeeze(1)
        for some in torch.split(keep, _TOKENS_AT_ONCE):
            y = shard.output[some].to(where, torch.float32)
            read = y if coder.is_sae else shard.input[some].to(where, torch.float32)
            error += float((coder(read) - y).double().square().sum())
            total += y.double().sum(0)
            squares += float(y.double().square().sum())
            rows += len(y)
    return error / (squares - float(total.square().sum()) / rows)
