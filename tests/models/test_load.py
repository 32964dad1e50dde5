"""A fetched model loads verified, whole or in part, and ready to run."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny_llama import LAYERS, WIDTH
from transformers import GPT2Config, GPT2LMHeadModel, LlamaForCausalLM

from bsc.errors import CorruptFile, UserError
from bsc.io import write_manifest
from bsc.models.fetch import fetch_model
from bsc.models.load import load_model, load_tokenizer
from bsc.stages import ModelSpec

TOKENS = torch.arange(24).view(2, 12)


@pytest.fixture(scope="module")
def folder(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fetched")
    values = {"kind": "folder", "name": str(source), "revision": None, "file": None, "sha256": None}
    fetch_model(ModelSpec(**values, width=WIDTH, layers=LAYERS), path)
    return path


def test_a_model_is_ready_to_run(folder: Path, llama: LlamaForCausalLM) -> None:
    model = load_model(folder, torch.float32)
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert model.config._attn_implementation == "sdpa"
    torch.testing.assert_close(model(TOKENS.to(model.device)).logits.cpu(), llama(TOKENS).logits)


def test_the_dtype_is_the_one_asked_for(folder: Path) -> None:
    assert {parameter.dtype for parameter in load_model(folder, torch.bfloat16).parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("layers", range(1, LAYERS + 1))
def test_fewer_layers_compute_what_the_whole_model_computes_there(folder: Path, llama: LlamaForCausalLM, layers: int) -> None:
    model = load_model(folder, torch.float32, layers=layers, head=False)
    assert model.config.num_hidden_layers == len(model.layers) == layers
    seen = []
    handle = llama.model.layers[layers - 1].register_forward_hook(lambda _, __, output: seen.append(output))
    llama(TOKENS)
    handle.remove()
    expected = llama.model.norm(seen[0] if isinstance(seen[0], torch.Tensor) else seen[0][0])
    torch.testing.assert_close(model(TOKENS.to(model.device)).last_hidden_state.cpu(), expected)


def test_without_a_head_there_are_no_logits(folder: Path) -> None:
    model = load_model(folder, torch.float32, head=False)
    output = model(TOKENS.to(model.device))
    assert "logits" not in output
    assert output.last_hidden_state.shape == (2, 12, WIDTH)


@pytest.mark.parametrize("layers", [0, LAYERS + 1])
def test_layers_that_the_model_lacks_are_refused(folder: Path, layers: int) -> None:
    with pytest.raises(UserError, match=f"{layers} layers are asked for and the model has {LAYERS}"):
        load_model(folder, torch.float32, layers=layers)


def test_a_changed_weight_is_noticed_and_named(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "a")
    content = bytearray((tmp_path / "a/model.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "a/model.safetensors").write_bytes(content)
    with pytest.raises(CorruptFile, match=r"model\.safetensors: .*SHA-256"):
        load_model(tmp_path / "a", torch.float32)
    load_tokenizer(tmp_path / "a")


def test_a_changed_tokenizer_is_noticed(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "a")
    path = tmp_path / "a/tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text())))
    with pytest.raises(CorruptFile, match=r"tokenizer\.json"):
        load_tokenizer(tmp_path / "a")


def test_a_folder_that_was_never_finished_is_refused(source: Path) -> None:
    with pytest.raises(UserError, match="run the stage that makes it first"):
        load_model(source, torch.float32)


def test_a_model_of_another_build_is_refused(tmp_path: Path) -> None:
    GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=16, n_positions=8)).save_pretrained(tmp_path)
    write_manifest(tmp_path, ["config.json", "model.safetensors"], {})
    with pytest.raises(UserError, match=r"GPT2LMHeadModel has no `model\.layers`"):
        load_model(tmp_path, torch.float32)


def test_a_model_without_a_tokenizer_is_refused(folder: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        shutil.copy(folder / name, tmp_path)
    write_manifest(tmp_path, ["config.json", "model.safetensors"], {})
    with pytest.raises(UserError, match="no tokenizer"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-1000]), "no model loads from it: .*header"),
        (
            lambda path: save_file({"model.norm.weight": torch.ones(WIDTH)}, path, {"format": "pt"}),
            r"2\d of its weights are missing",
        ),
    ],
)
def test_weights_that_are_missing_or_broken_are_refused_and_not_drawn(
    folder: Path, tmp_path: Path, change: Callable[[Path], None], message: str
) -> None:
    for name in ("config.json", "model.safetensors"):
        shutil.copy(folder / name, tmp_path)
    change(tmp_path / "model.safetensors")
    write_manifest(tmp_path, ["config.json", "model.safetensors"], {})
    with pytest.raises(UserError, match=message):
        load_model(tmp_path, torch.float32)
