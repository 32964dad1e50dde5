"""Cutting a model in two above a hooked layer, and refusing those that cannot be."""

from pathlib import Path

import pytest
import torch
from tiny_llama import tiny_llama
from transformers import GraniteConfig, GraniteForCausalLM, Olmo2Config, Olmo2ForCausalLM, PretrainedConfig, PreTrainedModel

from bsc.errors import UserError
from bsc.models.halves import Halves
from bsc.models.head import hidden_states

TOKENS = torch.arange(8)[None]
SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "eos_token_id": 2,
}


def tiny(kind: type[PreTrainedModel], config: PretrainedConfig) -> PreTrainedModel:
    """A random model, whose MLPs add to the residual stream as much as trained ones do."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = kind(config)
    for parameter in model.parameters():
        parameter.data.mul_(8)
    return model.eval()


def tiny_olmo2() -> PreTrainedModel:
    """An OLMo 2, whose layers put a norm between their MLP and the residual stream."""
    return tiny(Olmo2ForCausalLM, Olmo2Config(**SIZES))


def tiny_granite() -> PreTrainedModel:
    """A Granite, whose layers add nine tenths of their MLP's output to the residual stream."""
    return tiny(GraniteForCausalLM, GraniteConfig(residual_multiplier=0.9, **SIZES))


def massive(model: PreTrainedModel, place: int) -> PreTrainedModel:
    """The model, whose hidden states at a place of TOKENS have one value that is far above all others."""
    model.get_input_embeddings().weight.data[TOKENS[0, place], 3] = 3000
    return model


@pytest.mark.parametrize("hooked", [0, 1, 2])
@torch.inference_mode()
def test_the_halves_of_a_llama_are_the_whole(hooked: int, tmp_path: Path) -> None:
    model = tiny_llama()
    halves = Halves(model, hooked)
    halves.check(TOKENS, tmp_path, "ablation")
    torch.testing.assert_close(halves.above(halves.below(TOKENS)), hidden_states(model, TOKENS))


@pytest.mark.parametrize("hooked", [0, 1, 2])
def test_a_norm_behind_the_mlp_is_refused(hooked: int, tmp_path: Path) -> None:
    """What is taken from the hooked MLP's output would reach the residual stream unnormed."""
    with pytest.raises(UserError, match=r"added to the residual stream.*\n?.*leave `ablation` out"):
        Halves(tiny_olmo2(), hooked).check(TOKENS, tmp_path, "ablation")


def test_a_massive_activation_hides_no_other_positions_fault(tmp_path: Path) -> None:
    for place in (0, 4):
        model = massive(tiny_granite(), place)
        with pytest.raises(UserError, match="added to the residual stream"):
            Halves(model, 1).check(TOKENS, tmp_path, "ablation")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_massive_activations_are_no_reason_to_refuse(dtype: torch.dtype, tmp_path: Path) -> None:
    model = massive(massive(tiny_llama(), 0), 4).to(dtype)
    for hooked in range(3):
        Halves(model, hooked).check(TOKENS, tmp_path, "ablation")
