"""One evaluation of a model with something spliced in: the sequences, and all metrics that can be had of them."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from transformers import PreTrainedModel

from bsc.evaluation.language import Contexts, score_sequences
from bsc.evaluation.metrics import fidelity_metrics, frequency_metrics, language_metrics
from bsc.evaluation.replacement import Recorder
from bsc.stages import EvaluationSpec

OF_ONE_HOOKPOINT = ("fvu", "variance_left_out", "l0", "dead_fraction", "ultra_high_fraction", "ultra_high_share")
"""Metrics that are null when several hookpoints are spliced: what a later one then sees is not the model's own."""


def measure(
    spec: EvaluationSpec,
    model: PreTrainedModel,
    contexts: Contexts,
    recorders: Mapping[str, Recorder],
    unspliced: pd.DataFrame,
    label: str,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The sequences with all of `recorders` spliced at once, and their metrics against the `unspliced` ones.

    With one hookpoint, the sequences also have its reconstruction's sums, and the metrics its FVU and, for a coder, its
    frequencies.
    """
    table = score_sequences(model, contexts, recorders, batch=spec.batch_sequences, label=label)
    drawn = {"resamples": spec.resamples, "seed": spec.seed}
    metrics = {**language_metrics(table, unspliced, **drawn), **dict.fromkeys(OF_ONE_HOOKPOINT)}
    if len(recorders) == 1:
        (recorder,) = recorders.values()
        table = pd.concat([table, recorder.sequences()], axis=1)
        metrics |= {**fidelity_metrics(table, **drawn), "variance_left_out": recorder.variance_left_out()}
        if len(recorder.firings):
            metrics |= frequency_metrics(table, recorder.latents(), **drawn)
    return table, metrics
