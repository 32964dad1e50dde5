"""The vocabulary head by itself: what it is given, what it makes of it, and whether that is all that logits are made of."""

from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import MoeModelOutputWithPast

from bsc.device import device
from bsc.errors import UserError

PROBE = 8
"""Tokens on which what is worked out here is compared with what the model itself says."""


def hidden_states(model: PreTrainedModel, tokens: Int[Tensor, "batch position"]) -> Float[Tensor, "batch position d"]:
    """What the vocabulary head is given, without running the head."""
    states: Tensor = model.base_model(input_ids=tokens, use_cache=False).last_hidden_state
    return states


def head_logits(model: PreTrainedModel, states: Float[Tensor, "position d"]) -> Float[Tensor, "position vocabulary"]:
    """What the head makes of hidden states, in float32."""
    logits: Tensor = model.get_output_embeddings()(states)  # type: ignore[no-untyped-call]
    return logits.float()


@torch.inference_mode()
def check_head(model: PreTrainedModel, tokens: Int[Tensor, "1 probe"], folder: Path) -> None:
    """Refuse models that scale or cap their logits after the head: cross-entropy would come out wrong without a word.

    Raises UserError when at some position a logit is off by more than 2% of the largest one there.
    """
    tokens = tokens.long().to(device())
    own = model(input_ids=tokens, use_cache=False).logits[0].float()
    ours = head_logits(model, hidden_states(model, tokens)[0])
    if not ((own - ours).abs().amax(dim=-1) <= 0.02 * own.abs().amax(dim=-1)).all():
        raise UserError(
            "the model changes its logits after the vocabulary head, which evaluation does not know",
            where=str(folder),
            fix="use a model of the Llama kind",
        )


def check_head_without_weights(model: PreTrainedModel, folder: Path) -> None:
    """`check_head` of a model whose weights are not there (on the meta device): hidden states are made up, and are the logits.

    The model is of no use afterwards. One that asks its decoder for more than hidden states passes: `check_head` remains.
    """
    states = torch.linspace(-40, 40, PROBE).expand(1, PROBE, PROBE)  # caps are at 15 and more
    model.base_model.forward = lambda *_, **__: MoeModelOutputWithPast(last_hidden_state=states)
    model.set_output_embeddings(nn.Identity())  # type: ignore[no-untyped-call]
    try:
        check_head(model, torch.zeros(1, PROBE), folder)
    except (AttributeError, RuntimeError):
        return
