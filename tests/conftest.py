"""Shared fixtures."""

import importlib.util
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from checkouts import ROOT

if TYPE_CHECKING:
    from smollm2 import Fetched

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell's background jobs begin so, and so would what tests start and interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)

TINY_CONTEXT = 16
TINY_VOCABULARY = 96


@pytest.fixture
def medians() -> Iterator[Callable[..., dict[str, float]]]:
    """The benchmarks' own way to time, on one thread."""
    from threads import one_thread

    spec = importlib.util.spec_from_file_location("machine", ROOT / "benchmarks" / "machine.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for _ in one_thread():
        yield module.medians


@pytest.fixture(scope="session")
def fetched(tmp_path_factory: pytest.TempPathFactory) -> "Fetched":
    """The real subject model, fetched once. Not to be changed."""
    from smollm2 import fetch

    return fetch(tmp_path_factory.mktemp("smollm2"))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder as `bsc model` writes it: a random Llama of 3 layers and width 32."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from bsc.io import write_manifest

    folder = tmp_path_factory.mktemp("tiny-model")
    config = LlamaConfig(
        vocab_size=TINY_VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        bos_token_id=1,
        eos_token_id=2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
        for parameter in model.parameters():
            parameter.data.mul_(8)  # the default initialisation predicts next to nothing
    model.save_pretrained(folder)
    files = ["config.json", "model.safetensors"]
    write_manifest(
        folder, files, {"source": "test", "width": 32, "layers": 3, "vocabulary": TINY_VOCABULARY, "bos": 1, "eos": 2}
    )
    return folder


@pytest.fixture(scope="session")
def tiny_tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokens folder as `bsc tokens` writes it: 24 contexts of 16 random tokens in each split, a document a context."""
    import numpy as np

    from bsc.io import write_manifest, write_tensors

    folder = tmp_path_factory.mktemp("tiny-tokens")
    generator = np.random.default_rng(0)
    splits = ("train", "evaluation", "interpretation")
    for number, split in enumerate(splits):
        tokens = generator.integers(3, TINY_VOCABULARY, size=(24, TINY_CONTEXT), dtype=np.int32)
        documents = np.repeat(np.arange(24, dtype=np.int32)[:, None] + 24 * number, TINY_CONTEXT, axis=1)
        write_tensors(folder / f"{split}.safetensors", {"tokens": tokens, "documents": documents})
    counts = {split: {"contexts": 24, "documents": 24} for split in splits}
    facts = {"context": TINY_CONTEXT, "bos": False, "separator": None, "splits": counts}
    write_manifest(folder, [f"{split}.safetensors" for split in splits], facts)
    return folder
