"""A tiny model with a tokenizer of bytes, and specs of labelled text."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from probing_world import HOOKPOINTS
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from bsc.io import write_manifest
from bsc.stages import LabelledSpec


@pytest.fixture(scope="session")
def speaking_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of width 32 and 3 layers, whose tokens are bytes."""
    folder = tmp_path_factory.mktemp("speaking")
    vocabulary = {token: number for number, token in enumerate(["<unk>", *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(LlamaConfig(vocab_size=len(vocabulary), **sizes))
        for parameter in model.parameters():
            parameter.data.mul_(8)
    model.save_pretrained(folder)
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>").save_pretrained(folder)
    names = sorted(path.name for path in folder.iterdir())
    facts = {"source": "test", "width": 32, "layers": 3, "vocabulary": len(vocabulary), "bos": None, "eos": None}
    write_manifest(folder, names, facts)
    return folder


@pytest.fixture
def labelled_spec() -> Callable[..., LabelledSpec]:
    """A spec of local files, with changes."""

    def make(**changes: object) -> LabelledSpec:
        values: dict[str, object] = {
            "source": "files",
            "versions": None,
            "labels": "package",
            "files": None,
            "dataset": None,
            "subset": None,
            "hub_split": "train",
            "revision": None,
            "streaming": True,
            "text_column": "text",
            "label_column": "label",
            "documents": 60,
            "tokens": 48,
            "batch_documents": 7,
            "hookpoints": HOOKPOINTS,
            "dtype": "float32",
        }
        return LabelledSpec.model_validate(values | changes)

    return make
