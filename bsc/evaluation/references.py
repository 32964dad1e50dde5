"""What a coder is to be compared with: hooked modules replaced by zero, by their mean, and by a linear map of their input.

Zero costs what the module is worth; the mean is the best that a reconstruction without any information can do, FVU = 1. The
linear map is what a (skip-)transcoder could do without a single latent: a skip-transcoder contains such a map. An SAE reads the
output itself, of which a linear map is trivially perfect, so it has no such reference.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from bsc.evaluation.baseline import METRICS, SEQUENCES, read_baseline
from bsc.evaluation.language import batches, load, spread
from bsc.evaluation.replacement import Reconstruct, Recorder, constant, linear
from bsc.evaluation.spliced import measure
from bsc.io import write_json, write_parquet
from bsc.models.head import hidden_states
from bsc.models.hooks import Activations, capture
from bsc.models.layers import only_layers
from bsc.paths import layer
from bsc.stages import EvaluationSpec, ReferencesSpec

FITTED = "train"
"""The split that linear maps are fitted on."""
RESOLVED = 1e-12
"""Directions with less than this share of an input's largest variance are left out of a fit: float32 does not resolve them."""


def references(spec: ReferencesSpec, model: Path, tokens: Path, baseline: Path, output: Path) -> None:
    """Write `metrics.json` (a site, then "zero-ablated", "mean-ablated" or "linear") and `sequences.parquet`, rows naming both.

    All hookpoints of a site are replaced at once. Means are over the evaluated tokens, linear maps are fitted on tokens of the
    train split, both of the unspliced model. Position 0 is left as it is and out of means and fits, as for coders.
    """
    wanted = spec.evaluation
    unspliced = read_baseline(baseline, wanted)
    language_model, contexts = load(wanted, model, tokens)
    means = mean_outputs(language_model, contexts.tokens, wanted)
    maps = linear_maps(language_model, spread(tokens, FITTED, spec.fitted_contexts).tokens, wanted)
    replaced: dict[str, dict[str, Reconstruct]] = {
        "zero-ablated": {hookpoint: constant(torch.zeros_like(mean)) for hookpoint, mean in means.items()},
        "mean-ablated": {hookpoint: constant(mean) for hookpoint, mean in means.items()},
        "linear": {hookpoint: linear(*fitted) for hookpoint, fitted in maps.items()},
    }
    metrics: dict[str, dict[str, Any]] = {site: {} for site in spec.sites}
    tables = []
    for site, hookpoints in spec.sites.items():
        for name, reconstruct in replaced.items():
            recorders = {hookpoint: Recorder(reconstruct[hookpoint]) for hookpoint in hookpoints}
            table, metrics[site][name] = measure(wanted, language_model, contexts, recorders, unspliced, f"{site}, {name}")
            tables.append(table.assign(site=site, reference=name))
    write_parquet(output / SEQUENCES, pd.concat(tables, ignore_index=True))
    write_json(output / METRICS, metrics)


@torch.inference_mode()
def mean_outputs(
    model: PreTrainedModel, contexts: Int[Tensor, "sequences context"], spec: EvaluationSpec
) -> dict[str, Float[Tensor, "d"]]:
    """The mean output of each hooked module over all tokens but those of position 0, in float64."""
    sums: dict[str, Tensor] = {}
    for captured in _captured(model, contexts, spec, "mean outputs"):
        for hookpoint, (_, y) in captured.items():
            sums[hookpoint] = sums.get(hookpoint, 0) + y[:, 1:].double().sum(dim=(0, 1))
    rows = len(contexts) * (contexts.shape[1] - 1)
    return {hookpoint: total / rows for hookpoint, total in sums.items()}


@torch.inference_mode()
def linear_maps(
    model: PreTrainedModel, contexts: Int[Tensor, "sequences context"], spec: EvaluationSpec
) -> dict[str, tuple[Float[Tensor, "d_in d"], Float[Tensor, "d"]]]:
    """The least-squares linear map of each hooked module, weight and bias, over all tokens but those of position 0."""
    fits: dict[str, LeastSquares] = {}
    for captured in _captured(model, contexts, spec, "linear maps"):
        for hookpoint, (x, y) in captured.items():
            fits.setdefault(hookpoint, LeastSquares()).add(x[:, 1:].flatten(0, 1), y[:, 1:].flatten(0, 1))
    return {hookpoint: fit.solve() for hookpoint, fit in fits.items()}


class LeastSquares:
    """The normal equations of ŷ = x weight + bias, summed in float64 as rows come, so that memory does not grow with them."""

    def __init__(self) -> None:
        self._rows = 0
        self._sums: list[Tensor] = []

    def add(self, x: Float[Tensor, "rows d_in"], y: Float[Tensor, "rows d"]) -> None:
        """More rows."""
        x, y = x.double(), y.double()
        sums = [x.sum(dim=0), y.sum(dim=0), x.T @ x, x.T @ y]
        self._sums = [old + new for old, new in zip(self._sums, sums, strict=True)] if self._sums else sums
        self._rows += len(x)

    def solve(self) -> tuple[Float[Tensor, "d_in d"], Float[Tensor, "d"]]:
        """Weight and bias, in float64, without a ridge.

        Where the inputs do not span all directions (dead dimensions, fewer rows than d_in), the smallest weight of those that
        fit alike: the covariance is inverted on its eigenvectors of more than `RESOLVED` of its largest eigenvalue alone.
        """
        x, y, xx, xy = (total / self._rows for total in self._sums)
        weight = torch.linalg.pinv(xx - torch.outer(x, x), rtol=RESOLVED, hermitian=True) @ (xy - torch.outer(x, y))
        return weight, y - x @ weight


def _captured(
    model: PreTrainedModel, contexts: Int[Tensor, "sequences context"], spec: EvaluationSpec, label: str
) -> Iterator[dict[str, tuple[Activations, Activations]]]:
    """By batches of contexts, what goes in and out of the spec's hookpoints; layers above the last of them do not run."""
    with capture(model, spec.hookpoints) as captured, only_layers(model, 0, 1 + max(map(layer, spec.hookpoints))):
        for batch in batches(contexts, spec.batch_sequences, label):
            hidden_states(model, batch)
            yield captured
