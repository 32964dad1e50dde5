"""Models whose logits are not their vocabulary head's output alone are refused, with weights or without."""

from pathlib import Path

import pytest
import torch
from tiny_llama import tiny_llama
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    GPTNeoXConfig,
    GraniteConfig,
    LlamaConfig,
    MixtralConfig,
    NanoChatConfig,
    PretrainedConfig,
)

from bsc.errors import UserError
from bsc.models.head import PROBE, check_head, check_head_without_weights

TOKENS = torch.arange(PROBE)[None]
SIZES = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}


def test_a_llama_passes(tmp_path: Path) -> None:
    check_head(tiny_llama(), TOKENS, tmp_path)


def test_large_logits_at_one_position_hide_no_other_positions_fault(tmp_path: Path) -> None:
    model = tiny_llama()
    model.model.norm.register_forward_hook(lambda _, __, states: states * torch.tensor([1e4] + [1.0] * (PROBE - 1))[:, None])
    check_head(model, TOKENS, tmp_path)
    forward = model.forward

    def capped(**inputs: object) -> object:
        output = forward(**inputs)
        output.logits[:, 1:] *= 0.9
        return output

    model.forward = capped
    with pytest.raises(UserError, match="changes its logits"):
        check_head(model, TOKENS, tmp_path)


@pytest.mark.parametrize(
    ("config", "refused"),
    [
        (LlamaConfig(**SIZES), False),
        (GPTNeoXConfig(**SIZES), False),
        (MixtralConfig(**SIZES), False),
        (GraniteConfig(**SIZES), False),
        (GraniteConfig(logits_scaling=8.0, **SIZES), True),
        (CohereConfig(logit_scale=0.0625, **SIZES), True),
        (NanoChatConfig(final_logit_softcapping=30.0, **SIZES), True),
    ],
    ids=lambda value: value.model_type if isinstance(value, PretrainedConfig) else str(value),
)
def test_it_is_known_without_weights(config: PretrainedConfig, refused: bool, tmp_path: Path) -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    if not refused:
        check_head_without_weights(model, tmp_path)
        return
    with pytest.raises(UserError, match="changes its logits"):
        check_head_without_weights(model, tmp_path)
