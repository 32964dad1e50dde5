"""The tiny Llama, in memory and as the folder that save_pretrained writes."""

from pathlib import Path

import pytest
from tiny_llama import save_folder, tiny_llama
from transformers import LlamaForCausalLM


@pytest.fixture(scope="session")
def llama() -> LlamaForCausalLM:
    return tiny_llama()


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory, llama: LlamaForCausalLM) -> Path:
    folder = tmp_path_factory.mktemp("source")
    save_folder(folder, llama)
    return folder
