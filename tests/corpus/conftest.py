"""A model folder that has a tokenizer and no weights."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from bsc.io import write_json, write_manifest
from bsc.stages import TokensSpec

SPECIAL = ["<|endoftext|>", "<|im_start|>"]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A token is a byte, or one of two special tokens: `<|endoftext|>` is 0 and BOS, `<|im_start|>`, is 1."""
    folder = tmp_path_factory.mktemp("model")
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|im_start|>", unk_token="<|endoftext|>", model_max_length=64
    )
    tokenizer.save_pretrained(folder)
    write_json(folder / "config.json", {"max_position_embeddings": 1_000})
    names = sorted(path.name for path in folder.iterdir())
    write_manifest(folder, names, {"source": "folder:test", "vocabulary": len(vocabulary), "bos": 1, "eos": None})
    return folder


def sized(context: int, **tokens: int) -> dict[str, dict[str, int]]:
    return {split: {"tokens": count, "context": context} for split, count in tokens.items()}


@pytest.fixture
def make_spec() -> Callable[..., TokensSpec]:
    """A spec of local files, contexts of 8 and small splits, with changes."""

    def make(**changes: object) -> TokensSpec:
        values: dict[str, object] = {
            "source": "files",
            "versions": None,
            "files": None,
            "dataset": None,
            "subset": None,
            "hub_split": "train",
            "revision": None,
            "streaming": True,
            "text_column": "text",
            "bos": False,
            "separator": "<|endoftext|>",
            "splits": sized(8, train=80, evaluation=24, interpretation=40),
        }
        return TokensSpec.model_validate(values | changes)

    return make
