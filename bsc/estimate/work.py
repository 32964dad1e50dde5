"""Operations and bytes of the stages' inner loops, counted from shapes as the code computes them.

Counts are of the whole batch. d: width; M: latents; N: tokens; k: selected latents a token. An entry is one of the N x M
pre-activations; the passes over them are counted in `_PASSES`, from the binarisers' code.
"""

import math
from typing import NamedTuple

from bsc.activations.disk import BFLOAT16, FLOAT32, INT64, VOCABULARY
from bsc.config import Model
from bsc.estimate.machines import Kind, Phase
from bsc.stages import CoderSpec

_OPTIMISER_MOVES = {"adam": 9, "signum": 15}
"""Times that each parameter, its gradient or its state is read or written in a step (schedule-free signum keeps z and x)."""
_CANDIDATE_BYTES = 48
"""Of each candidate for the k largest: index, value and key, written and read (`bsc.coders.select`)."""
_SPARSE_MOVES = {False: (1, 1, 1), True: (6, 6, 5)}
"""By whether it is a GPU: moves of a [tokens, k, d] array in decode, value_gradient and row_gradient (`bsc.coders.kernels`)."""
_STATES = 4
"""Float32 copies of each parameter in training: itself, its gradient, two of the optimiser."""


class Passes(NamedTuple):
    """How often each entry is moved in float32 and in the product's type, and its float32 copies alive at the peak."""

    float32: int
    product: int
    copies: int = 0


_SELECTING = Passes(0, 1)
_THRESHOLDED = Passes(4, 1)
_PASSES = {
    "topk": _SELECTING,
    "groupmax": _SELECTING,
    "nbit": _SELECTING,
    "binary-topk": _THRESHOLDED,
    "binary-topk-exact": _THRESHOLDED,
    "binary-groupmax": _THRESHOLDED,
    "hybrid": _THRESHOLDED,
    "solved": Passes(73, 2, 4),
    "learned": Passes(23, 4, 6),
    "gumbel": Passes(21, 4, 3),
    "reinmax": Passes(23, 4, 4),
}
_DENSE_GRADIENT = ("gumbel", "reinmax", "learned")


def _passes_key(spec: CoderSpec) -> str:
    return str(spec.options["threshold"]) if spec.binariser == "binary-threshold" else spec.binariser


def passes(spec: CoderSpec, *, training: bool) -> Passes:
    """The passes of a coder's binariser; a binariser that the table does not have counts as `binary-topk`.

    Outside training, those that sample take the largest of each group.
    """
    if not training and spec.binariser in ("gumbel", "reinmax"):
        return _SELECTING
    return _PASSES.get(_passes_key(spec), _THRESHOLDED)


def product(dtype: str) -> tuple[Kind, int]:
    """The kind of a product, and the bytes of a number in it. `auto` counts as bfloat16."""
    return ("float32", FLOAT32) if dtype == "float32" else ("bfloat16", BFLOAT16)


def parameters(spec: CoderSpec) -> int:
    """Of a coder: encoder, decoder, biases, thresholds, a skip."""
    skip = spec.width**2 if spec.architecture == "skip-transcoder" else 0
    return 2 * spec.latents * spec.width + 2 * spec.latents + spec.width + skip


def model_parameters(model: Model) -> int:
    """Of a Llama-like model: about 12 d² a layer, and one matrix for the vocabulary."""
    return 12 * model.width**2 * model.layers + VOCABULARY * model.width


def forward(model: Model, layers: int, tokens: int, context: int, *, head: bool) -> list[Phase]:
    """A language model's forward pass: 2 · 12 d² a layer and token, attention to half of the context, the vocabulary head."""
    kind: Kind = "float32" if model.dtype == "float32" else "forward"
    each = layers * (2 * 12 * model.width**2 + 2 * context * model.width)
    phases = [Phase(kind, tokens * each, 0)]
    if head:
        logits = tokens * VOCABULARY
        phases.append(Phase(kind, 2 * logits * model.width, logits * (2 * BFLOAT16 + 4 * FLOAT32)))
    return phases


def encode(spec: CoderSpec, tokens: int, *, training: bool) -> list[Phase]:
    """The dense product 2 d M a token, and selecting."""
    kind, size = product(spec.dtype)
    entries = tokens * spec.latents
    weights = spec.latents * spec.width * (FLOAT32 + 2 * size)
    dense = Phase(kind, 2 * entries * spec.width, entries * size + weights)
    moves = passes(spec, training=training)
    selecting = entries * (moves.float32 * FLOAT32 + moves.product * size)
    return [dense, Phase(kind, 0, selecting + tokens * _CANDIDATE_BYTES * _candidates(spec))]


def _candidates(spec: CoderSpec) -> int:
    """Latents a token among which the k largest are looked for; none where groups have winners."""
    if "groupmax" in spec.binariser or _passes_key(spec) in _DENSE_GRADIENT:
        return 0
    looked_at = spec.k + 8
    size = 1 << round(math.log2(spec.latents / looked_at) / 2) if spec.latents > looked_at else 1
    return min(spec.latents, looked_at * size)


def decode(spec: CoderSpec, tokens: int, *, gpu: bool) -> list[Phase]:
    """The sum over the selected rows of the decoder."""
    moves = _SPARSE_MOVES[gpu][0]
    return [Phase("float32", 2 * tokens * spec.k * spec.width, tokens * spec.k * spec.width * FLOAT32 * moves)]


def step(spec: CoderSpec, *, gpu: bool) -> list[Phase]:
    """One training step: encode, decode, both ways back, the optimiser.

    The gradient of the encoder is sparse, of the selected rows alone; gumbel, reinmax and learned thresholds make it dense, one
    more product. A learned threshold also decodes densely, in float32.
    """
    tokens, (kind, size) = spec.batch_tokens, product(spec.dtype)
    dense = 2 * tokens * spec.latents * spec.width
    phases = [*encode(spec, tokens, training=True), _sparse_step(spec, gpu=gpu)]
    if _passes_key(spec) in _DENSE_GRADIENT:
        phases.append(Phase(kind, dense, tokens * spec.latents * size))
    if spec.architecture == "skip-transcoder":
        phases.append(Phase(kind, 4 * tokens * spec.width**2, 0))
    moved = parameters(spec) * FLOAT32 * _OPTIMISER_MOVES[spec.optimiser]
    return [*phases, Phase("float32", 0, moved)]


def _sparse_step(spec: CoderSpec, *, gpu: bool) -> Phase:
    """Decode, the values' gradient, and the rows' gradient of the decoder and (where it is sparse) of the encoder."""
    if _passes_key(spec) == "learned":
        return Phase("float32", 3 * 2 * spec.batch_tokens * spec.latents * spec.width, 0)
    selected = spec.k + (spec.width // 2 if spec.auxk else 0) + (4 * spec.k if spec.multi_topk else 0)
    decoded, valued, rowed = _SPARSE_MOVES[gpu]
    dense = _passes_key(spec) in _DENSE_GRADIENT
    size = spec.batch_tokens * selected * spec.width
    return Phase("float32", 2 * size * (3 if dense else 4), size * FLOAT32 * (decoded + valued + rowed * (1 if dense else 2)))


def held_memory(spec: CoderSpec) -> int:
    """Bytes that a coder in training holds between two steps: parameters and their states."""
    return parameters(spec) * FLOAT32 * _STATES


def step_memory(spec: CoderSpec) -> int:
    """Bytes that a step takes beside that: the entries, a batch."""
    _, size = product(spec.dtype)
    entries = spec.batch_tokens * spec.latents * (size + FLOAT32 * passes(spec, training=True).copies)
    return entries + spec.batch_tokens * (8 * spec.width * FLOAT32 + spec.k * 2 * INT64)
