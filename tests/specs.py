"""Specs of tiny coders, for tests of how they are trained."""

from typing import Any

from bsc.stages import CoderSpec


def coder_spec(**changes: Any) -> CoderSpec:
    """Of 64 latents and 20 steps, on activations of width 16; keywords change it."""
    plain: dict[str, Any] = {
        "width": 16,
        "latents": 64,
        "k": 4,
        "architecture": "skip-transcoder",
        "binariser": "topk",
        "options": {},
        "seed": 1,
        "tokens": 20 * 128,
        "batch_tokens": 128,
        "optimiser": "adam",
        "learning_rate": 1e-2,
        "warmup_steps": 4,
        "auxk": False,
        "multi_topk": False,
        "dead_after_tokens": 500,
        "dtype": "float32",
    }
    return CoderSpec.model_validate(plain | changes)
