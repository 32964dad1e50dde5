"""Specs of coders that are measured."""

from typing import Any

from bsc.stages import CoderSpec


def coder_spec(**given: Any) -> CoderSpec:
    """A skip-transcoder that Adam trains, without auxiliary losses; the rest is given."""
    plain = {"architecture": "skip-transcoder", "options": {}, "seed": 1, "optimiser": "adam", "learning_rate": 1e-3}
    return CoderSpec.model_validate({**plain, "auxk": False, "multi_topk": False, "dead_after_tokens": 10_000_000, **given})
