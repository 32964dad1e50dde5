"""A fetched model, ready to run.

Only loading one imports transformers, whose models take seconds to import: stages that read what a model left do without.
"""

from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from bsc.device import device
from bsc.errors import UserError
from bsc.io import check, read_manifest

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_model(folder: Path, dtype: torch.dtype, *, layers: int | None = None, head: bool = True) -> "PreTrainedModel":
    """The model of a folder that `bsc model` wrote: files verified, evaluation mode, no gradients, on `bsc.device.device()`.

    layers: keep only the first so many decoder layers, which is all that activations up to there need.
    head: without it the decoder alone, whose outputs are hidden states [batch, position, width] and no logits.
    Raises CorruptFile when a file is not the one that was fetched, UserError when the model is no decoder with `layers`.
    """
    read_manifest(folder)
    model = _whole_model(folder, dtype)
    if layers is not None:
        _truncate(model, layers, folder)
    module: nn.Module = model if head else model.base_model
    module.eval().requires_grad_(False).to(device())
    return cast("PreTrainedModel", module)


def _whole_model(folder: Path, dtype: torch.dtype) -> "PreTrainedModel":
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # one that lasts a tenth of a second, and fills a log
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, attn_implementation="sdpa", local_files_only=True
        )
    except ValueError as error:
        raise _unsupported(folder, str(error).splitlines()[0]) from error
    decoder_layers(model, folder)
    return model


def check_model(folder: Path) -> None:
    """Check a model folder before anything is made of it: its layers can be hooked, and it has a tokenizer that can be used.

    Weights are not read. Raises UserError when either is not so.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        with torch.device("meta"):
            config = AutoConfig.from_pretrained(folder, local_files_only=True)
            model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    except ValueError as error:
        raise _unsupported(folder, str(error).splitlines()[0]) from error
    decoder_layers(model, folder)
    _whole_tokenizer(folder)


def decoder_layers(model: "PreTrainedModel", folder: Path) -> nn.ModuleList:
    """The decoder layers of a model. Raises UserError when it is not built of `model.layers` as Llama is."""
    found = getattr(model.base_model, "layers", None)
    if not isinstance(found, nn.ModuleList) or not all(hasattr(layer, "mlp") for layer in found):
        raise _unsupported(folder, f"{type(model).__name__} has no `model.layers` with an `mlp` in each")
    return found


def _truncate(model: "PreTrainedModel", layers: int, folder: Path) -> None:
    whole = decoder_layers(model, folder)
    if not 1 <= layers <= len(whole):
        what = f"{layers} layers are asked for and the model has {len(whole)}"
        raise UserError(what, where=str(folder), fix="name hookpoints within the model")
    model.base_model.layers = whole[:layers]
    model.config.num_hidden_layers = layers
    if getattr(model.config, "layer_types", None):
        model.config.layer_types = model.config.layer_types[:layers]


def _unsupported(folder: Path, reason: str) -> UserError:
    return UserError(
        f"not a model that can be hooked: {reason}", where=str(folder), fix="use a causal language model of the Llama kind"
    )


def load_tokenizer(folder: Path) -> "PreTrainedTokenizerBase":
    """The tokenizer of a folder that `bsc model` wrote, its files verified (and not the weights, which it does not read).

    Raises CorruptFile when a file is not the one that was fetched, UserError when there is no fast tokenizer.
    """
    for name, recorded in read_manifest(folder, verify=False)["files"].items():
        if not name.endswith(".safetensors"):
            check(folder / name, recorded)
    return _whole_tokenizer(folder)


def _whole_tokenizer(folder: Path) -> "PreTrainedTokenizerBase":
    from transformers import AutoTokenizer

    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise _no_tokenizer(folder, f"it has no tokenizer that can be loaded ({error})") from error
    if not tokenizer.is_fast:
        raise _no_tokenizer(folder, "its tokenizer is a slow one, in Python")
    if not tokenizer("A text.", add_special_tokens=False)["input_ids"]:
        raise _no_tokenizer(folder, "its tokenizer makes no token of a text")  # transformers made an empty one
    return tokenizer


def _no_tokenizer(folder: Path, reason: str) -> UserError:
    return UserError(reason, where=str(folder), fix="put a tokenizer.json of the tokenizers library beside its config.json")
