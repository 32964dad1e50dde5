"""The KL divergence between what a model predicts from two hidden states, a chunk of tokens at a time.

Of [tokens, vocabulary] there is never more than a chunk: each chunk's gradient with respect to the hidden states is worked out
beside its divergence, so that nothing of that size is kept for the backward pass and no product is made twice.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

CHUNK_TOKENS = 256
"""At 49,152 tokens in the vocabulary, 50 MB for each float32 array of a chunk."""
NO_LABEL = -1
"""The label of a token that is followed by none."""


class Divergence(NamedTuple):
    """Of a batch, in nats a token. kl: KL(unspliced || spliced), the mean over all rows; the only one with a gradient.

    ce, ce_unspliced: the mean cross-entropy of the next token, over the rows that have one.
    """

    kl: Float[Tensor, ""]
    ce: Float[Tensor, ""]
    ce_unspliced: Float[Tensor, ""]


def divergence(
    head: nn.Module,
    unspliced: Float[Tensor, "rows d"],
    spliced: Float[Tensor, "rows d"],
    labels: Int[Tensor, " rows"],
) -> Divergence:
    """Divergences between the head's predictions from two hidden states: Σ_v P_v (log P_v - log Q_v), P the unspliced model's.

    head: from hidden states to logits, its parameters frozen. labels: the next token, NO_LABEL where there is none. Logits are
    made float32 before the softmax. The gradient reaches `spliced` alone: (Q - P) through the head, over the number of rows.
    """
    return Divergence(*_Divergence.apply(head, unspliced, spliced, labels))  # type: ignore[no-untyped-call]


class _Divergence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, head: nn.Module, unspliced: Tensor, spliced: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        gradient = torch.empty_like(spliced)
        sums = torch.zeros(3, dtype=torch.float64, device=spliced.device)
        for first in range(0, len(spliced), CHUNK_TOKENS):
            rows = slice(first, first + CHUNK_TOKENS)
            gradient[rows] = _chunk(head, unspliced[rows], spliced[rows], labels[rows], sums)
        ctx.save_for_backward(gradient / len(spliced))
        labelled = (labels != NO_LABEL).sum()
        kl, ce, ce_unspliced = (sums / torch.stack([labelled.new_tensor(len(spliced)), labelled, labelled])).float()
        ctx.mark_non_differentiable(ce, ce_unspliced)
        return kl, ce, ce_unspliced

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_kl: Tensor, *_: Tensor) -> tuple[None, None, Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return None, None, of_kl.to(gradient) * gradient, None


def _chunk(head: nn.Module, unspliced: Tensor, spliced: Tensor, labels: Tensor, sums: Tensor) -> Tensor:
    """The gradient of the chunk's summed divergence with respect to `spliced`; adds what is summed to `sums`."""
    target = head(unspliced).float().log_softmax(-1)
    with torch.enable_grad():
        leaf = spliced.detach().requires_grad_()
        logits = head(leaf)
    found = logits.detach().float().log_softmax(-1)
    expected = target.exp()
    labelled = labels != NO_LABEL
    picked = [said[labelled].gather(1, labels[labelled, None]) for said in (found, target)]
    kl = (expected * (target - found)).sum(-1)
    sums += torch.stack([kl.double().sum(), *(-said.double().sum() for said in picked)])
    (gradient,) = torch.autograd.grad(logits, leaf, (found.exp() - expected).to(logits))
    return gradient
