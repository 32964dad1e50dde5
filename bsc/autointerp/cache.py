"""The latent cache: where each latent of a coder, or of a control made of it, fires on the interpretation split.

Position 0 of each context is left out: the coder makes no claim about it.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from bsc.activations.store import ActivationStore, Shard
from bsc.autointerp.firings import FILE, FiringSorter
from bsc.coders.coder import SparseCoder
from bsc.coders.load import load_coder, load_spec
from bsc.device import device, resolve_dtype
from bsc.errors import UserError
from bsc.io import read_manifest, write_json, write_manifest, write_parquet
from bsc.progress import Progress, job_label
from bsc.stages import LatentsSpec

COUNTS, METRICS = "counts.parquet", "metrics.json"
_TOKENS_AT_ONCE = 1_024


def cache_latents(spec: LatentsSpec, coder: Path, index: Path, output: Path) -> None:
    """Write `latents.safetensors` (see `bsc.autointerp.firings`), `counts.parquet` (latent, firings, rate) and `metrics.json`.

    metrics: tokens, firings, l0 (firings a token) and dead_fraction (latents that never fire).

    spec.variant: `trained`; or a control (*ours*): `random`, the same architecture with fresh weights, or `binarised`, a coder
    whose firing values are all set to 1 after training. Raises UserError when the coder's width is not the activations'.
    """
    store = ActivationStore.open(index)
    made = _variant(spec, coder, store)
    sorter = FiringSorter(made.latents)
    with Progress(job_label("latents", output), store.usable_rows, "tokens") as progress:
        for tokens, rows, latents, values in _firings(made, store, spec.dtype):
            sorter.append(rows, latents, np.ones_like(values) if spec.variant == "binarised" else values)
            progress.advance(tokens)
    counts = np.diff(sorter.offsets())
    sorter.write(output / FILE)
    table = pd.DataFrame({"latent": np.arange(made.latents), "firings": counts, "rate": counts / store.usable_rows})
    write_parquet(output / COUNTS, table)
    firings = int(counts.sum())
    shares = {"l0": firings / store.usable_rows, "dead_fraction": float((counts == 0).mean())}
    write_json(output / METRICS, {"tokens": store.usable_rows, "firings": firings, **shares})
    facts = {"variant": spec.variant, "hookpoint": store.hookpoint, "latents": made.latents, "k": made.k}
    sizes = {"context": store.context, "rows": store.rows, "usable_rows": store.usable_rows, "firings": firings}
    write_manifest(output, [FILE, COUNTS, METRICS], {**facts, **sizes})


def _variant(spec: LatentsSpec, folder: Path, store: ActivationStore) -> SparseCoder:
    trained = load_spec(folder)
    if trained.width != store.width:
        raise UserError(
            f"the coder has width {trained.width} and the activations {store.width}",
            where=str(folder),
            fix="give the activations of the model that the coder was trained on",
        )
    if spec.variant != "random":
        return load_coder(folder)
    read_manifest(folder)
    coder = SparseCoder.build(trained.model_copy(update={"seed": spec.seed}))
    shard = store.shards[0]
    rows = _usable(shard, store.context)[: trained.batch_tokens]
    coder.initialise_from(getattr(shard, coder.reads)[rows].float(), shard.output[rows].float())
    return coder.to(device()).eval()


def _usable(shard: Shard, context: int) -> Int[Tensor, " rows"]:
    """The rows of a shard, counted from its first, whose position in their context is not 0."""
    rows = torch.arange(shard.rows)
    return rows[(rows + shard.first_row) % context != 0]


@torch.inference_mode()
def _firings(coder: SparseCoder, store: ActivationStore, dtype: str) -> Iterator[tuple[int, Any, Any, Any]]:
    """How many tokens a batch has, and (rows, latents, values) of its firings as numpy arrays."""
    where = device()
    bfloat16 = resolve_dtype(dtype, where) == torch.bfloat16
    for shard in store.shards:
        side: Float[Tensor, "rows d"] = getattr(shard, coder.reads)
        for rows in torch.split(_usable(shard, store.context), _TOKENS_AT_ONCE):
            with torch.autocast(where.type, torch.bfloat16, enabled=bfloat16):
                code = coder.encode(side[rows].to(where, torch.float32))
            token, latent, value = (part.cpu() for part in code.firing())
            yield len(rows), (rows[token] + shard.first_row).numpy(), latent.numpy(), value.float().numpy()
