"""A part of a decoder's layers, run alone: what is below a hookpoint once, what is above it as often as needed."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

from torch import nn
from transformers import PreTrainedModel


@contextmanager
def only_layers(model: PreTrainedModel, start: int, stop: int) -> Iterator[None]:
    """While open, the model has its decoder layers from `start` to before `stop` and no others, with their kinds of attention.

    Its final norm stays. Layers above 0 take hidden states as `inputs_embeds`, where the model does nothing else to them.
    """
    decoder, config = model.base_model, model.config
    whole, kinds = cast(nn.ModuleList, decoder.layers), getattr(config, "layer_types", None)
    count = config.num_hidden_layers
    try:
        decoder.layers, config.num_hidden_layers = whole[start:stop], len(whole[start:stop])
        if kinds:
            config.layer_types = kinds[start:stop]
        yield
    finally:
        decoder.layers, config.num_hidden_layers = whole, count
        if kinds:
            config.layer_types = kinds
