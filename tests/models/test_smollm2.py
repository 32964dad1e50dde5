"""The demo's model, fetched from PyPI: it is SmolLM2-135M-Instruct, and unpacking it lost nothing."""

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from smollm2 import SMOLLM2, Fetched
from transformers import AutoModelForCausalLM, GgufConfig, PreTrainedModel

from bsc.io import read_manifest, sha256
from bsc.models.load import load_model, load_tokenizer

pytestmark = pytest.mark.slow

TEXT = """The lighthouse stood at the end of a long spit of sand, and in winter the sea came over it twice a day. The \
keeper, who had lived there for eleven years, kept a small boat, two goats and a great many books. Every evening \
at dusk he climbed the one hundred and twelve steps to the lamp, trimmed the wick, and wrote down the weather in \
a ledger that nobody would ever read.

In the spring of that year a letter arrived from the ministry. It said that the lamp would soon be replaced by \
an electric one, which would light itself, and that the keeper's services would therefore no longer be required \
after the first of September. He read it three times. Then he folded it, put it between the pages of an old \
atlas, and went out to feed the goats."""
CROSS_ENTROPY = 3.141
"""Of TEXT, in nats a token, by the GGUF as transformers unpacks it to float32."""


@pytest.fixture(scope="module")
def folder(fetched: Fetched) -> Path:
    return fetched.folder


@pytest.fixture(scope="module")
def gguf_path(fetched: Fetched) -> Path:
    return fetched.gguf


@pytest.fixture(scope="module")
def unpacked(folder: Path, gguf_path: Path) -> PreTrainedModel:
    """The GGUF as transformers reads it, in float32."""
    config = GgufConfig(dequantize=True)
    where = {"gguf_file": gguf_path.name, "quantization_config": config, "dtype": torch.float32}
    return AutoModelForCausalLM.from_pretrained(gguf_path.parent, **where).eval()


def cross_entropy(model: PreTrainedModel, tokens: torch.Tensor) -> float:
    with torch.no_grad():
        logits = model(tokens.to(model.device)).logits.float().cpu()
    return float(torch.nn.functional.cross_entropy(logits[0, :-1], tokens[0, 1:]))


def test_the_manifest_says_which_of_the_family_it_is(folder: Path, gguf_path: Path) -> None:
    manifest = read_manifest(folder)
    assert sha256(gguf_path) == manifest["sha256"] == SMOLLM2.sha256
    assert manifest["variant"] == "SmolLM2-135M-Instruct.Q4_1: Q4_1 weights, unpacked to bfloat16"
    facts = {"width": 576, "layers": 30, "vocabulary": 49152, "bos": 1, "eos": 2}
    assert {key: manifest[key] for key in facts} == facts


def test_the_mlp_weights_are_the_ggufs_blocks_times_their_scales(folder: Path, gguf_path: Path) -> None:
    """Against the gguf library's own unpacking, which transformers has no part in."""
    model = load_model(folder, torch.float32, layers=10)
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(gguf_path).tensors}
    for name, short in (("gate_proj", "ffn_gate"), ("up_proj", "ffn_up"), ("down_proj", "ffn_down")):
        tensor = tensors[f"blk.9.{short}.weight"]
        expected = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        found = getattr(model.model.layers[9].mlp, name).weight.cpu()
        torch.testing.assert_close(found, torch.from_numpy(expected).bfloat16().float(), rtol=0, atol=0)


def test_cross_entropy_is_that_of_the_gguf(folder: Path, unpacked: PreTrainedModel) -> None:
    tokens = load_tokenizer(folder)(TEXT, return_tensors="pt")["input_ids"]
    assert cross_entropy(unpacked, tokens) == pytest.approx(CROSS_ENTROPY, abs=0.02)
    assert cross_entropy(load_model(folder, torch.float32), tokens) == pytest.approx(CROSS_ENTROPY, abs=0.02)


def test_the_greedy_continuation_is_that_of_the_gguf(folder: Path, unpacked: PreTrainedModel) -> None:
    tokenizer = load_tokenizer(folder)
    prompt = tokenizer("The capital of France is", return_tensors="pt")["input_ids"]
    answers = [
        model.generate(prompt.to(model.device), max_new_tokens=30, do_sample=False, pad_token_id=2)[0].tolist()
        for model in (unpacked, load_model(folder, torch.float32))
    ]
    assert answers[0] == answers[1]
    assert tokenizer.decode(answers[0]).startswith("The capital of France is Paris.")


def test_the_tokenizer_is_the_familys(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    assert tokenizer.model_max_length == 8192
    assert tokenizer.tokenize("In  2025") == ["In", "ĠĠ", "2", "0", "2", "5"]
    assert tokenizer.encode("a") == tokenizer.encode("a", add_special_tokens=False)
    assert (tokenizer.bos_token, tokenizer.bos_token_id) == ("<|im_start|>", 1)
