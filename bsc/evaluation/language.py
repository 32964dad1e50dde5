"""Cross-entropy and top-1 accuracy of a language model, sequence by sequence.

Every predicted token counts, the one after position 0 included; the first token of a context is predicted by nothing.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from bsc.corpus.store import read_tokens
from bsc.device import device, resolve_dtype
from bsc.errors import UserError
from bsc.models.head import PROBE, check_head, head_logits, hidden_states
from bsc.models.hooks import Replacement, splice
from bsc.models.load import load_model
from bsc.progress import Progress
from bsc.stages import EvaluationSpec

SPLIT = "evaluation"


@dataclass(frozen=True)
class Contexts:
    """What is evaluated. tokens: ids; documents: the number of the one document that each context counts as a part of."""

    tokens: Int[Tensor, "sequences context"]
    documents: list[int]


def load(spec: EvaluationSpec, model: Path, tokens: Path) -> tuple[PreTrainedModel, Contexts]:
    """The whole model in the spec's precision, and `spec.sequences` contexts of the evaluation split.

    Raises as `spread` does, and UserError when the model's logits are not its vocabulary head's output alone.
    """
    contexts = spread(tokens, SPLIT, spec.sequences)
    language_model: PreTrainedModel = load_model(model, resolve_dtype(spec.dtype, device()))
    check_head(language_model, contexts.tokens[:1, :PROBE], model)
    return language_model, contexts


def spread(tokens: Path, split: str, count: int) -> Contexts:
    """So many contexts of a split, evenly spread over it, so that they come from as many documents as may be.

    Raises UserError when the split has fewer.
    """
    found = read_tokens(tokens, split)
    held = len(found.tokens)
    if held < count:
        lower = "lower `evaluation.sequences`, or " if split == SPLIT else ""
        raise UserError(
            f"{held} contexts, and evaluation asks for {count}",
            where=f"{tokens}, split {split}",
            fix=f"{lower}raise `corpus.splits.{split}` and make the tokens again",
        )
    chosen = torch.arange(count) * held // count
    return Contexts(found.tokens[chosen], main_documents(found.documents[chosen]))


def main_documents(documents: Int[Tensor, "sequences context"]) -> list[int]:
    """For each context the document that most of its tokens come from, of several the one that comes first in it."""
    return [Counter(of_tokens).most_common(1)[0][0] for of_tokens in documents.tolist()]


def batches(contexts: Int[Tensor, "sequences context"], size: int, label: str) -> Iterator[Int[Tensor, "batch context"]]:
    """The contexts in batches on the device, with a progress bar in tokens."""
    with Progress(label, contexts.numel(), "tokens") as progress:
        for first in range(0, len(contexts), size):
            batch = contexts[first : first + size].long().to(device())
            yield batch
            progress.advance(batch.numel())


@torch.inference_mode()
def score_sequences(
    model: PreTrainedModel,
    contexts: Contexts,
    replacements: Mapping[str, Replacement],
    *,
    batch: int,
    label: str,
) -> pd.DataFrame:
    """One row a sequence, with every hookpoint of `replacements` spliced.

    Columns: sequence; document, which it counts as a part of; tokens, how many are predicted; ce, their mean cross-entropy in
    nats; accuracy, the share of them that the model ranks first. Logits are made for one sequence at a time, whatever the
    batch, so that memory is bounded.
    """
    rows: list[tuple[float, float]] = []
    with splice(model, replacements):
        for tokens in batches(contexts.tokens, batch, label):
            hidden = hidden_states(model, tokens)
            rows += score_hidden(model, hidden, tokens)
    table = pd.DataFrame(rows, columns=["ce", "accuracy"])
    table.insert(0, "tokens", contexts.tokens.shape[1] - 1)
    table.insert(0, "document", contexts.documents)
    table.insert(0, "sequence", range(len(table)))
    return table


def score_hidden(
    model: PreTrainedModel, hidden: Float[Tensor, "batch context d"], tokens: Int[Tensor, "batch context"]
) -> list[tuple[float, float]]:
    """Cross-entropy (nats) and accuracy of each sequence from its hidden states; the head sees one sequence at a time."""
    return [_score(head_logits(model, states), sequence) for states, sequence in zip(hidden, tokens, strict=True)]


def _score(logits: Float[Tensor, "context vocabulary"], tokens: Int[Tensor, "context"]) -> tuple[float, float]:
    """Mean cross-entropy (nats) and accuracy of predicting each token from the position before it."""
    losses = F.cross_entropy(logits[:-1], tokens[1:], reduction="none")
    right = logits[:-1].argmax(dim=-1) == tokens[1:]
    return losses.double().mean().item(), right.double().mean().item()
