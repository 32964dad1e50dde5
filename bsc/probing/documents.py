"""Activations of labelled documents at every hookpoint, in one pass of the model; probes of every coder read them."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor

from bsc.corpus.labelled import labelled_documents
from bsc.device import device, resolve_dtype
from bsc.errors import UserError
from bsc.io import read_manifest, read_parquet, read_tensors, write_manifest, write_parquet, write_tensors
from bsc.models.hooks import capture
from bsc.models.load import load_model, load_tokenizer
from bsc.paths import layer
from bsc.progress import Progress
from bsc.stages import LabelledSpec

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DOCUMENTS = "documents.parquet"
FEWEST_TOKENS = 16
FEWEST_OF_A_LABEL = 8
"""Documents: fewer cannot be split into a part to fit and a part to test."""


class Labelled(NamedTuple):
    """Labelled documents at one hookpoint. side: x or y of its module, [rows, d]; row: each document's first row, and the end.

    documents: a row a document: document, label, tokens. Position 0 is in none of the rows.
    """

    side: dict[str, Tensor]
    rows: Int[np.ndarray, " documents_and_end"]
    documents: pd.DataFrame


def label_documents(spec: LabelledSpec, model: Path, output: Path) -> None:
    """Write `{hookpoint}.safetensors`, bf16 `input` and `output` [rows, d], `documents.parquet` and the manifest.

    A document is cut after `spec.tokens` tokens and sees itself alone, in whatever batch; one of under 16 tokens is left out.
    Raises UserError when fewer than two labels have documents enough.
    """
    tokenizer = load_tokenizer(model)
    pairs = labelled_documents(spec)
    ids = _cut(tokenizer, [text for text, _ in pairs], spec.tokens)
    kept = [(one, label) for one, (_, label) in zip(ids, pairs, strict=True) if len(one) >= FEWEST_TOKENS]
    labels = _enough(pd.Series([label for _, label in kept], dtype="str"), spec)
    kept = [(one, label) for one, label in kept if label in labels]
    decoder = load_model(model, resolve_dtype(spec.dtype, device()), layers=1 + max(map(layer, spec.hookpoints)), head=False)
    found = _activations(decoder, [one for one, _ in kept], spec)
    for hookpoint in spec.hookpoints:
        parts = found[hookpoint]
        sides = {name: torch.cat([part[place] for part in parts]) for place, name in enumerate(("input", "output"))}
        write_tensors(output / f"{hookpoint}.safetensors", sides)
    sizes = [len(one) - 1 for one, _ in kept]
    table = pd.DataFrame({"document": range(len(kept)), "label": [label for _, label in kept], "tokens": sizes})
    write_parquet(output / DOCUMENTS, table)
    files = [DOCUMENTS, *(f"{hookpoint}.safetensors" for hookpoint in spec.hookpoints)]
    write_manifest(output, files, {"labels": labels, "documents": len(kept), "source": spec.source})


def _cut(tokenizer: "PreTrainedTokenizerBase", texts: list[str], length: int) -> list[list[int]]:
    options = {"add_special_tokens": False, "split_special_tokens": True, "return_attention_mask": False}
    found: list[list[int]] = tokenizer(texts, truncation=True, max_length=length, **options)["input_ids"] if texts else []
    return found


def _enough(labels: "pd.Series[str]", spec: LabelledSpec) -> list[str]:
    counts = labels.value_counts()
    enough = sorted(str(label) for label in counts.index[counts >= FEWEST_OF_A_LABEL])
    if len(enough) < 2:
        what = f"{len(enough)} labels have {FEWEST_OF_A_LABEL} documents or more, and probing needs two"
        seen = ", ".join(f"{label}: {count}" for label, count in counts.head(8).items()) or "no document at all"
        raise UserError(f"{what} ({seen})", where="probing", fix="raise `probing.documents`, or name other text or labels")
    return enough


@torch.inference_mode()
def _activations(
    decoder: "PreTrainedModel", documents: list[list[int]], spec: LabelledSpec
) -> dict[str, list[tuple[Tensor, Tensor]]]:
    """Of each hookpoint its module's (input, output) in each document, position 0 left out."""
    found: dict[str, list[tuple[Tensor, Tensor]]] = {hookpoint: [] for hookpoint in spec.hookpoints}
    with Progress("labelled documents", len(documents), "documents") as progress, capture(decoder, spec.hookpoints) as seen:
        for batch in _batches(documents, spec.batch_documents):
            decoder(input_ids=_padded(batch), use_cache=False)
            for hookpoint, sides in seen.items():
                found[hookpoint] += [_rows(sides, place, len(one)) for place, one in enumerate(batch)]
            progress.advance(len(batch))
    return found


def _batches(documents: list[list[int]], size: int) -> Iterator[list[list[int]]]:
    return (documents[first : first + size] for first in range(0, len(documents), size))


def _padded(batch: list[list[int]]) -> Int[Tensor, "documents longest"]:
    """Filled up at the right, where attention, which is causal, lets nothing through to the document."""
    longest = max(map(len, batch))
    return torch.tensor([[*one, *[0] * (longest - len(one))] for one in batch], device=device())


def _rows(sides: tuple[Tensor, Tensor], place: int, length: int) -> tuple[Tensor, Tensor]:
    x, y = (side[place, 1:length].to(torch.bfloat16).cpu() for side in sides)
    return x, y


def read_labelled(folder: Path, hookpoint: str) -> Labelled:
    """One hookpoint's labelled documents. Raises CorruptFile when a file is not the one that was written."""
    read_manifest(folder)
    documents = read_parquet(folder / DOCUMENTS)
    rows = np.append(0, documents["tokens"].to_numpy().cumsum())
    return Labelled(read_tensors(folder / f"{hookpoint}.safetensors"), rows, documents)
