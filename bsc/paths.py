"""The map of the results folder: every path once, for the rules (as patterns with wildcards) and for the stages."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from bsc.coders.binarisers.registry import REGISTRY, VARIANT

ARCHITECTURES = ("sae", "transcoder", "skip-transcoder")
SPLITS = ("train", "evaluation", "interpretation")
VARIANTS = ("trained", "random", "binarised")
JOINT = "joint"
"""The hookpoint name of an evaluation with every hookpoint of a model spliced at once."""

CODER = "{model}/{hookpoint}/{architecture}-{binariser}-k{k}/seed{seed}"

MODEL = "models/{model}"
TOKENS = "tokens/{model}"
EMBEDDER = "embedder"
EMBEDDINGS = "embeddings/{model}"
SHARD = "activations/{model}/{split}/shard{shard}/{hookpoint}.safetensors"
INDEX = "activations/{model}/{split}/{hookpoint}.json"
COHORT = "cohorts/{model}/{hookpoint}/seed{seed}-{part}.json"
CODERS = f"coders/{CODER}"
CHOICE = f"tuning/{CODER}"
TRIAL = f"{CHOICE}/rate{{rate}}"
RUNTIME = "runtime/{model}"
BASELINE = "evaluation/{model}/baseline"
REFERENCES = "evaluation/{model}/references"
EVALUATION = f"evaluation/{CODER}"
ABLATION = f"evaluation/{CODER}/ablation"
LABELLED = "probing/{model}/documents"
PROBES = f"probing/{CODER}"
LATENTS = f"autointerp/{CODER}/{{variant}}/latents"
EXPLANATIONS = f"autointerp/{CODER}/{{variant}}/explanations"
SCORES = f"autointerp/{CODER}/{{variant}}/scores"
ANSWERS = "answers"
FIGURE = "figures/{figure}"
TABLE = "tables/{table}"
GALLERY = "figures/index.html"

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""What a model's name may look like: one path component, no dot or dash in front."""


NGRAM = "ngram"
"""The explainer that is always there; the others are language models, by their names in the config."""
RESERVED = (NGRAM, "latents", "explanations", "scores")
"""Names that no language model may have: they stand where its folder would."""


def interpreted(pattern: str, explainer: str) -> str:
    """EXPLANATIONS or SCORES of an explainer: the pattern itself for `ngram`, a folder deeper for a language model."""
    return pattern if explainer == NGRAM else pattern.replace("{variant}/", f"{{variant}}/{explainer}/")


def any_of(names: Iterable[str]) -> str:
    """The pattern of a wildcard that is one of some names."""
    return "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))


def binarisers(without: Iterable[str] = ()) -> str:
    """The pattern of a wildcard that is a binariser or a variant of one, but none of some variants."""
    left_out = any_of(without)
    return (f"(?!(?:{left_out})-k)" if left_out else "") + f"(?:{any_of(REGISTRY)})(?:{VARIANT})?"


CONSTRAINTS = {
    "model": NAME.pattern,
    "hookpoint": rf"layers\.\d+\.mlp|{JOINT}",
    "architecture": any_of(ARCHITECTURES),
    "binariser": binarisers(),
    "k": r"[1-9]\d*",
    "seed": r"\d+",
    "rate": r"\d[\d.e+-]*",
    "split": any_of(SPLITS),
    "shard": r"\d+",
    "part": r"\d+",
    "variant": any_of(VARIANTS),
    "llm": NAME.pattern,
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
