"""Cutting a model in two above a hooked layer, and refusing those that cannot be."""

from pathlib import Path

import pytest
import torch
from tiny_llama import tiny_llama
from transformers import Olmo2Config, Olmo2ForCausalLM, PreTrainedModel

from bsc.errors import UserError
from bsc.models.halves import Halves, hidden_states

TOKENS = torch.arange(8)[None]


def tiny_olmo2() -> PreTrainedModel:
    """A random OLMo 2, whose layers put a norm between their MLP and the residual stream."""
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Olmo2ForCausalLM(Olmo2Config(vocab_size=64, **sizes))
    return model.eval()


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
