"""A GGUF becomes the model that it was made of, with the gaps of its tokenizer filled."""

from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFWriter
from tiny_llama import LONGEST, save_gguf
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from bsc.errors import UserError
from bsc.models.gguf import convert


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory, llama: LlamaForCausalLM) -> Path:
    folder = tmp_path_factory.mktemp("converted")
    save_gguf(folder.parent / "Tiny-Instruct.F32.gguf", llama)
    facts = convert(folder.parent / "Tiny-Instruct.F32.gguf", folder)
    assert facts["variant"] == "Tiny-Instruct.F32: F32 weights, unpacked to bfloat16"
    assert facts["name"] == "Tiny"
    return folder


def test_the_weights_are_those_that_the_gguf_was_made_of(converted: Path, llama: LlamaForCausalLM) -> None:
    model = AutoModelForCausalLM.from_pretrained(converted, dtype=torch.float32)
    state = model.state_dict()
    assert set(state) == set(llama.state_dict())
    for name, expected in llama.state_dict().items():
        torch.testing.assert_close(state[name], expected, rtol=0, atol=0, msg=name)
    tokens = torch.arange(40)[None]
    torch.testing.assert_close(model(tokens).logits, llama(tokens).logits)


def test_the_weights_are_kept_in_bfloat16(converted: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(converted, dtype="auto")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_digits_are_tokens_of_their_own_and_blanks_before_them_too(converted: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(converted)
    assert tokenizer.tokenize("  12ab") == ["ĠĠ", "1", "2", "a", "b"]
    assert tokenizer.decode(tokenizer.encode("  12 ab")) == "  12 ab"


def test_the_longest_text_and_the_special_tokens_are_the_models_own(converted: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(converted)
    assert tokenizer.model_max_length == LONGEST
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (1, 2)
    assert tokenizer.encode("a") == tokenizer.encode("a", add_special_tokens=False)


def test_gpt2s_way_of_cutting_text_leaves_digits_together(tmp_path: Path, llama: LlamaForCausalLM) -> None:
    save_gguf(tmp_path / "a.gguf", llama, "gpt-2")
    convert(tmp_path / "a.gguf", tmp_path / "out")
    assert AutoTokenizer.from_pretrained(tmp_path / "out").tokenize("12") == ["12"]


def test_an_unknown_way_of_cutting_text_is_refused(tmp_path: Path, llama: LlamaForCausalLM) -> None:
    save_gguf(tmp_path / "a.gguf", llama, "llama-bpe")
    with pytest.raises(UserError, match=r"a\.gguf: it cuts text as `llama-bpe` does.*\n.*from the hub"):
        convert(tmp_path / "a.gguf", tmp_path)


def test_what_is_no_gguf_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"<html>not found</html>" * 100)
    with pytest.raises(UserError, match="not a GGUF language model"):
        convert(tmp_path / "a.gguf", tmp_path)


def test_a_gguf_that_lacks_a_weight_is_refused(
    tmp_path: Path, llama: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = GGUFWriter.add_tensor

    def add(writer: GGUFWriter, name: str, tensor: np.ndarray) -> None:
        if name != "blk.1.ffn_down.weight":
            write(writer, name, tensor)

    monkeypatch.setattr(GGUFWriter, "add_tensor", add)
    save_gguf(tmp_path / "a.gguf", llama)
    with pytest.raises(UserError, match=r"a\.gguf: 1 of its weights are missing .*`model\.layers\.1\.mlp\.down_proj\.weight`"):
        convert(tmp_path / "a.gguf", tmp_path)
