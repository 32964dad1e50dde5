"""Extraction: one forward pass over a shard of contexts writes what goes in and out of every hookpoint.

The model is cut off after the last hooked layer and has no vocabulary head. All positions are kept, in bfloat16, in the order
of (context, position); leaving position 0 out is left to the readers (bsc.activations.store).
"""

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedModel

from bsc.activations.writer import ShardWriter
from bsc.corpus.store import TokenStore, read_tokens
from bsc.device import device, resolve_dtype
from bsc.errors import UserError
from bsc.io import MANIFEST, sha256
from bsc.models.hooks import capture
from bsc.models.load import load_model
from bsc.paths import layer
from bsc.progress import Progress
from bsc.spec import fingerprint
from bsc.stages import ActivationsSpec


def extract(spec: ActivationsSpec, model: Path, tokens: Path, output: Path) -> None:
    """Write `output/{hookpoint}.safetensors`, bf16 `input` and `output` [contexts * length, d], for every hookpoint.

    A run that was killed leaves its work under `output/.partial`; the same call goes on from there, and the files are bit for
    bit those of an uninterrupted run. Raises UserError when the split has too few contexts or the disk is full.
    """
    store = read_tokens(tokens, spec.split)
    contexts = _contexts(store, spec, tokens)
    decoder = load_model(
        model,
        resolve_dtype(spec.dtype, device()),
        layers=1 + max(layer(hookpoint) for hookpoint in spec.hookpoints),
        head=False,
    )
    rows, width = contexts.numel(), int(decoder.config.hidden_size)
    with ShardWriter(output, spec.hookpoints, rows, width, _identity(spec, model, tokens)) as writer:
        _fill(writer, decoder, contexts, spec)
        writer.finish()


def _contexts(store: TokenStore, spec: ActivationsSpec, tokens: Path) -> Int[Tensor, "contexts length"]:
    end = spec.first + spec.contexts
    if end > len(store.tokens):
        raise UserError(
            f"contexts {spec.first} to {end - 1} are asked for and the split has {len(store.tokens)}",
            where=f"{tokens}, split {spec.split}",
            fix="make the tokens again with the config that asks for this shard",
        )
    contexts: Tensor = store.tokens[spec.first : end]
    return contexts


def _identity(spec: ActivationsSpec, model: Path, tokens: Path) -> dict[str, Any]:
    return {
        "spec": spec.model_dump(),
        "model": sha256(model / MANIFEST),
        "tokens": sha256(tokens / MANIFEST),
        "code": fingerprint(__name__),
        "device": device().type,
    }


def _fill(
    writer: ShardWriter, decoder: PreTrainedModel, contexts: Int[Tensor, "contexts length"], spec: ActivationsSpec
) -> None:
    """Run the contexts that are not written yet through the model, in batches that start where they always start.

    A batch is written while the next one is computed.
    """
    length = contexts.shape[1]
    label = f"activations, {spec.split}, contexts from {spec.first}"
    written: Future[None] | None = None
    with (
        Progress(label, contexts.numel(), "tokens", done=writer.rows_done) as progress,
        capture(decoder, spec.hookpoints) as captured,
        ThreadPoolExecutor(max_workers=1, thread_name_prefix="writer") as pool,
        torch.inference_mode(),
    ):
        for first in range(writer.rows_done // length, len(contexts), spec.batch_contexts):
            batch = contexts[first : first + spec.batch_contexts].long().to(device())
            decoder(input_ids=batch, use_cache=False)
            rows = {hookpoint: (_rows(x), _rows(y)) for hookpoint, (x, y) in captured.items()}
            if written is not None:
                written.result()
            written = pool.submit(writer.append, rows)
            progress.advance(batch.numel())
        if written is not None:
            written.result()


def _rows(activations: Tensor) -> Tensor:
    return activations.flatten(0, 1).to(torch.bfloat16)
