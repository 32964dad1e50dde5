"""The map of the results folder: every path once, for the rules (as patterns with wildcards) and for the stages."""

import re
from dataclasses import dataclass

from bsc.coders.binarisers.registry import REGISTRY

ARCHITECTURES = ("sae", "transcoder", "skip-transcoder")
SPLITS = ("train", "evaluation", "interpretation")
VARIANTS = ("trained", "random", "binarised")
JOINT = "joint"
"""The hookpoint name of an evaluation with every hookpoint of a model spliced at once."""

CODER = "{model}/{hookpoint}/{architecture}-{binariser}-k{k}/seed{seed}"

MODEL = "models/{model}"
TOKENS = "tokens/{model}"
SHARD = "activations/{model}/{split}/shard{shard}/{hookpoint}.safetensors"
INDEX = "activations/{model}/{split}/{hookpoint}.json"
SOURCE = "activations/{model}/{split}/{hookpoint}.source.json"
"""The index of what a cohort reads; INDEX, the same, appears when the cohorts that read it are trained."""
COHORT = "cohorts/{model}/{hookpoint}/seed{seed}-{part}.json"
CODERS = f"coders/{CODER}"
BASELINE = "evaluation/{model}/baseline"
REFERENCES = "evaluation/{model}/{hookpoint}/references"
EVALUATION = f"evaluation/{CODER}"
LATENTS = f"autointerp/{CODER}/{{variant}}/latents"
EXPLANATIONS = f"autointerp/{CODER}/{{variant}}/explanations"
SCORES = f"autointerp/{CODER}/{{variant}}/scores"
FIGURE = "figures/{figure}"
TABLE = "tables/{table}"

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""What a model's name may look like: one path component, no dot or dash in front."""


def _any(names: object) -> str:
    return "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))  # type: ignore[call-overload]


CONSTRAINTS = {
    "model": NAME.pattern,
    "hookpoint": rf"layers\.\d+\.mlp|{JOINT}",
    "architecture": _any(ARCHITECTURES),
    "binariser": _any(REGISTRY),
    "k": r"[1-9]\d*",
    "seed": r"\d+",
    "split": _any(SPLITS),
    "shard": r"\d+",
    "part": r"\d+",
    "variant": _any(VARIANTS),
}


@dataclass(frozen=True, order=True)
class CoderId:
    """What names one coder; its fields are the wildcards of the rules."""

    model: str
    hookpoint: str
    architecture: str
    binariser: str
    k: int
    seed: int

    def __str__(self) -> str:
        return CODER.format(**vars(self))

    def at(self, pattern: str, **wildcards: object) -> str:
        """A path pattern of this module, filled in for this coder."""
        return pattern.format(**vars(self), **wildcards)


def layer(hookpoint: str) -> int:
    """The index of the decoder layer that a hookpoint such as `layers.9.mlp` names."""
    return int(hookpoint.split(".")[1])
