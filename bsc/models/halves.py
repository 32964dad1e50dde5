"""A model in two halves, cut above a hooked layer: what is below runs once, what is above it as often as needed."""

from pathlib import Path
from typing import NamedTuple, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from bsc.device import device
from bsc.errors import UserError
from bsc.models.head import hidden_states
from bsc.models.hooks import splice
from bsc.models.layers import only_layers

States = Float[Tensor, "batch position d"]


class Parts(NamedTuple):
    """Hidden states after a hooked layer. residual: the stream that its MLP adds to; x, y: the MLP's input and own output."""

    residual: States
    x: States
    y: States


class Halves:
    """The layers up to the hooked one, and the layers above it with the final norm."""

    def __init__(self, model: PreTrainedModel, hooked: int) -> None:
        self.model, self.hooked = model, hooked
        self._layers = cast(nn.ModuleList, model.base_model.layers)

    def below(self, tokens: Int[Tensor, "batch position"]) -> States:
        """Hidden states after the hooked layer, whatever is spliced into it."""
        found: list[Tensor] = []

        def keep(module: nn.Module, arguments: object, output: Tensor | tuple[Tensor, ...]) -> None:
            found.append(output[0] if isinstance(output, tuple) else output)

        hook = self._layers[self.hooked].register_forward_hook(keep)
        try:
            with only_layers(self.model, 0, self.hooked + 1):
                hidden_states(self.model, tokens)
        finally:
            hook.remove()
        return found[0]

    def parts(self, tokens: Int[Tensor, "batch position"]) -> Parts:
        """What the hidden states after the hooked layer are made of, whatever is spliced into the layers below."""
        found: list[tuple[Tensor, Tensor]] = []

        def keep(x: Tensor, y: Tensor) -> Tensor:
            found.append((x, y))
            return torch.zeros_like(y)

        with splice(self.model, {f"layers.{self.hooked}.mlp": keep}):
            residual = self.below(tokens)
        return Parts(residual, *found[0])

    def above(self, states: States) -> States:
        """From hidden states after the hooked layer to what the head is given."""
        with only_layers(self.model, self.hooked + 1, len(self._layers)):
            found: Tensor = self.model.base_model(inputs_embeds=states, use_cache=False).last_hidden_state
        return found

    @torch.inference_mode()
    def check(self, probe: Int[Tensor, "1 probe"], folder: Path, key: str) -> None:
        """Refuse models that cannot be cut in two here: what they say would be wrong without a word. key: of who cuts it.

        A model passes whose upper layers go on from its lower ones, and whose hooked layer adds its MLP's output, as it is, to
        the residual stream: one with a norm behind the MLP (OLMo 2, Gemma 3) does not. Each position but the first must be
        right to 2% of its own length, or the massive activations of one, a thousand times the others', would hide every fault.
        """
        probe = probe.long().to(device())
        states, parts = self.below(probe), self.parts(probe)
        faults = {
            "its lower and upper layers are run one after the other": (hidden_states(self.model, probe), self.above(states)),
            "the output of the hooked MLP is added to the residual stream from outside": (states, parts.residual + parts.y),
        }
        for how, (whole, made) in faults.items():
            if not ((whole - made).norm(dim=-1) <= 0.02 * whole.norm(dim=-1))[:, 1:].all():
                what = f"the model gives something else when {how}"
                raise UserError(what, where=str(folder), fix=f"use a model of the Llama kind, or leave `{key}` out")
