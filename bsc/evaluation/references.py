"""What a coder is to be compared with: hooked modules replaced by zero, and by their mean output.

Zero costs what the module is worth; the mean is the best that a reconstruction without any information can do, FVU = 1.
"""

from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from bsc.evaluation.baseline import METRICS, SEQUENCES, read_baseline
from bsc.evaluation.language import batches, load
from bsc.evaluation.replacement import Recorder, constant
from bsc.evaluation.spliced import measure
from bsc.io import write_json, write_parquet
from bsc.models.halves import hidden_states
from bsc.models.hooks import capture
from bsc.stages import EvaluationSpec, ReferencesSpec


def references(spec: ReferencesSpec, model: Path, tokens: Path, baseline: Path, output: Path) -> None:
    """Write `metrics.json` (a site, then "zero-ablated" or "mean-ablated") and `sequences.parquet`, whose rows name both.

    All hookpoints of a site are replaced at once. Means are over the evaluated tokens of the unspliced model. Position 0 is
    left as it is and out of the means, as for coders.
    """
    wanted = spec.evaluation
    unspliced = read_baseline(baseline, wanted)
    language_model, contexts = load(wanted, model, tokens)
    means = mean_outputs(language_model, contexts.tokens, wanted)
    zeros = {hookpoint: torch.zeros_like(mean) for hookpoint, mean in means.items()}
    metrics: dict[str, dict[str, Any]] = {site: {} for site in spec.sites}
    tables = []
    for site, hookpoints in spec.sites.items():
        for name, values in (("zero-ablated", zeros), ("mean-ablated", means)):
            recorders = {hookpoint: Recorder(constant(values[hookpoint])) for hookpoint in hookpoints}
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
    with capture(model, spec.hookpoints) as captured:
        for batch in batches(contexts, spec.batch_sequences, "mean outputs"):
            hidden_states(model, batch)
            for hookpoint, (_, y) in captured.items():
                sums[hookpoint] = sums.get(hookpoint, 0) + y[:, 1:].double().sum(dim=(0, 1))
    rows = len(contexts) * (contexts.shape[1] - 1)
    return {hookpoint: total / rows for hookpoint, total in sums.items()}
