"""What finetuning minimises: KL(unspliced || spliced) of the language model's predictions (paper, Sec. 4).

The layers below the hookpoint run once a batch, without a gradient, and with zero in the place of the hooked module: that gives
the residual stream beside it exactly, to which the module's output or its reconstruction is added. The gradient flows through
the layers above alone. As in every splice here, position 0 keeps the module's own output (*ours*, see
`bsc.evaluation.replacement`); nothing that is predicted there changes, so it is left out of the mean.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedModel

from bsc.coders.coder import SparseCoder
from bsc.device import device, resolve_dtype
from bsc.evaluation.replacement import from_coder, keeping_first, replacing
from bsc.finetuning.divergence import NO_LABEL, Divergence, divergence
from bsc.models.halves import Halves, Parts, States
from bsc.models.head import hidden_states
from bsc.models.hooks import Replacement, splice
from bsc.paths import layer
from bsc.stages import FinetuneSpec
from bsc.training.losses import Losses, variance
from bsc.training.trainer import Trainer

MEASURED = ("kl", "ce", "ce_increase")
"""What the log of a finetuned coder has beside that of a trained one: in nats a token, position 0 left out."""


class Objective:
    """The loss of a coder at a hookpoint of a model, in which frozen coders may stand at other hookpoints."""

    def __init__(self, model: PreTrainedModel, spec: FinetuneSpec, others: Mapping[str, SparseCoder]) -> None:
        self._model = model
        self._halves = Halves(model, layer(spec.hookpoint))
        bfloat16 = resolve_dtype(spec.dtype, device()) == torch.bfloat16
        self._others: dict[str, Replacement] = {
            hookpoint: replacing(from_coder(coder.eval().requires_grad_(False), bfloat16=bfloat16))
            for hookpoint, coder in others.items()
        }

    def __call__(self, trainer: Trainer, tokens: Int[Tensor, "batch position"]) -> Losses:
        """The divergence of a batch, plus what training adds to the FVU: the binariser's penalty and the frequencies'.

        FVU and code are of all positions but 0.
        """
        coder, below = trainer.coder, self.below(tokens)
        with trainer.autocast():
            x, y = (side[:, 1:].flatten(0, 1).float() for side in (below.x, below.y))
            code = coder.encode(y if coder.is_sae else x, trainer.generator)
            y_hat = coder.decode(code, x)
            penalty = coder.binariser.penalty(code)
            if trainer.frequencies is not None:
                penalty = penalty + trainer.frequencies.penalty(code)
        found = self.divergence(tokens, below, y_hat.view_as(below.y[:, 1:]))
        with torch.no_grad():
            fvu = (y - y_hat).square().sum() / variance(y)
        more = (found.kl.detach(), found.ce, found.ce - found.ce_unspliced)
        return Losses(found.kl + penalty, fvu, code, more)

    def divergence(
        self, tokens: Int[Tensor, "batch position"], below: Parts, y_hat: Float[Tensor, "batch later d"]
    ) -> Divergence:
        """Between the unspliced model's predictions and those with ŷ at all positions but 0; with a gradient towards ŷ."""
        with _reproducible(tokens.device):
            unspliced = self._unspliced(tokens, below)
            with splice(self._model, self._others):
                spliced = self._halves.above(below.residual + keeping_first(below.y, y_hat))
        labels = functional.pad(tokens[:, 2:], (0, 1), value=NO_LABEL)
        one, other = (states[:, 1:].flatten(0, 1) for states in (unspliced, spliced))
        return divergence(self._model.get_output_embeddings(), one, other, labels.flatten())  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def _unspliced(self, tokens: Int[Tensor, "batch position"], below: Parts) -> States:
        """What the head is given without any coder; what is below is shared unless other coders stand there."""
        if self._others:
            return hidden_states(self._model, tokens)
        return self._halves.above(below.residual + below.y)

    @torch.no_grad()
    def below(self, tokens: Int[Tensor, "batch position"]) -> Parts:
        """What the layers below the hookpoint give, with the other coders spliced in there."""
        with splice(self._model, self._others):
            return self._halves.parts(tokens)


@contextmanager
def _reproducible(where: torch.device) -> Iterator[None]:
    """Attention whose gradient has the same bits every time: on a GPU the fused kernels add it up in any order."""
    with sdpa_kernel(SDPBackend.MATH) if where.type == "cuda" else nullcontext():
        yield
