"""A quantised model in GGUF, unpacked once into a safetensors folder with its tokenizer.

Weights are kept in bfloat16: unpacked 4-bit values are block scales times small integers, and their rounding is far below the
quantisation's own error. For SmolLM2-135M-Instruct Q4_1 cross-entropy on WikiText-2 is 3.5247 nats in float32 and 3.5244 in
bfloat16, greedy continuations agree, and the folder is half as large to store and to verify.
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from bsc.errors import UserError
from bsc.models.load import pretrained

FILE_TYPES = {0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 15: "Q4_K_M", 18: "Q6_K"}
PRETOKENIZERS = {"default": False, "gpt-2": False, "smollm": True}
"""What a GGUF calls the way text is cut before BPE, and whether it takes digits one by one."""


def convert(gguf: Path, folder: Path) -> dict[str, Any]:
    """Write config.json, model.safetensors (bfloat16) and the tokenizer of a GGUF file; returns facts about the variant.

    Raises UserError when the file is no GGUF that transformers reads, lacks weights, or cuts text in a way that is not known
    here.
    """
    with _parsed_once():
        facts = _facts(gguf)
        _convert_tokenizer(gguf, folder, digits=_takes_digits_apart(facts["pretokenizer"], gguf), longest=facts["longest"])
        _convert_weights(gguf, folder)
    return facts


@contextmanager
def _parsed_once() -> Iterator[None]:
    """While it lasts, a file is parsed once and names are mapped once an architecture: transformers has it done for each use.

    That is three times for a file, which has a hundred thousand fields in its tokenizer, and once a module for the names; it
    took three quarters of the time of a conversion.
    """
    import gguf

    with mock.patch.multiple(
        gguf, GGUFReader=functools.cache(gguf.GGUFReader), get_tensor_name_map=functools.cache(gguf.get_tensor_name_map)
    ):
        yield


def _facts(gguf: Path) -> dict[str, Any]:
    from gguf import GGUFReader

    try:
        fields = GGUFReader(str(gguf)).fields
        architecture = fields["general.architecture"].contents()
        longest = int(fields[f"{architecture}.context_length"].contents())
    except (ValueError, KeyError, IndexError) as error:
        raise UserError(f"not a GGUF language model ({error})", where=gguf.name, fix="check `file` in the config") from error

    def said(name: str, otherwise: Any = None) -> Any:
        return fields[name].contents() if name in fields else otherwise

    quantisation = FILE_TYPES.get(said("general.file_type", -1), "quantised")
    return {
        "variant": f"{gguf.stem}: {quantisation} weights, unpacked to bfloat16",
        "name": said("general.name"),
        "quantisation": quantisation,
        "pretokenizer": said("tokenizer.ggml.pre", "default"),
        "longest": longest,
    }


def _takes_digits_apart(pretokenizer: str, gguf: Path) -> bool:
    if pretokenizer not in PRETOKENIZERS:
        raise UserError(
            f"it cuts text as `{pretokenizer}` does, which is not known here",
            where=gguf.name,
            fix=f"take the model from the hub instead; known are {', '.join(PRETOKENIZERS)}",
        )
    return PRETOKENIZERS[pretokenizer]


def _convert_tokenizer(gguf: Path, folder: Path, *, digits: bool, longest: int) -> None:
    """The tokenizer, with the two things that transformers does not take from a GGUF: single digits and the longest text."""
    from tokenizers.pre_tokenizers import Digits, Sequence
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    if digits:
        backend = tokenizer.backend_tokenizer
        backend.pre_tokenizer = Sequence([Digits(individual_digits=True), backend.pre_tokenizer])
    tokenizer.model_max_length = longest
    tokenizer.save_pretrained(folder)


def _convert_weights(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import GgufConfig

    # Without `dequantize` the weights may stay in their blocks, which save_pretrained refuses to write.
    unpacked = GgufConfig(dequantize=True)
    model = pretrained(gguf.parent, gguf.name, gguf_file=gguf.name, quantization_config=unpacked, dtype=torch.float32)
    model.bfloat16().save_pretrained(folder, max_shard_size="100GB")
