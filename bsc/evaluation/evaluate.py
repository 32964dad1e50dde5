"""Evaluation of coders on held-out tokens: what splicing them in costs the model, how well they reconstruct, what fires.

The paper's authors evaluate on the training split; here the evaluation split holds other documents (*ours*).
"""

from pathlib import Path

import pandas as pd
import torch

from bsc.coders.coder import SparseCoder
from bsc.coders.load import load_coder
from bsc.device import device, resolve_dtype
from bsc.errors import UserError
from bsc.evaluation.baseline import METRICS, SEQUENCES, read_baseline
from bsc.evaluation.language import load
from bsc.evaluation.replacement import Recorder, from_coder
from bsc.evaluation.spliced import measure
from bsc.io import write_json, write_parquet
from bsc.progress import job_label
from bsc.stages import EvaluationSpec

LATENTS = "latents.parquet"


def evaluate(spec: EvaluationSpec, model: Path, tokens: Path, baseline: Path, coders: list[Path], output: Path) -> None:
    """Write `metrics.json`, `sequences.parquet` and `latents.parquet` of coders spliced in at once, one at each hookpoint.

    coders: folders, in the order of `spec.hookpoints`. With several, metrics of one hookpoint's reconstruction are null and the
    table of latents is empty. Raises UserError when there is not one coder a hookpoint or a coder's width is not the model's.
    """
    if len(coders) != len(spec.hookpoints):
        raise UserError(
            f"{len(coders)} coders for {len(spec.hookpoints)} hookpoints ({', '.join(spec.hookpoints)})",
            where="--coders",
            fix="give one coder folder for each hookpoint of the spec, in its order",
        )
    unspliced = read_baseline(baseline, spec)
    language_model, contexts = load(spec, model, tokens)
    width = int(language_model.config.hidden_size)
    recorders = {hookpoint: _recorder(folder, width, spec) for hookpoint, folder in zip(spec.hookpoints, coders, strict=True)}
    table, metrics = measure(spec, language_model, contexts, recorders, unspliced, job_label("evaluate", output))
    latents = pd.concat([recorder.latents() for recorder in recorders.values()])
    write_parquet(output / SEQUENCES, table)
    write_parquet(output / LATENTS, latents if len(recorders) == 1 else latents.iloc[:0])
    write_json(output / METRICS, metrics)


def _recorder(folder: Path, width: int, spec: EvaluationSpec) -> Recorder:
    coder: SparseCoder = load_coder(folder)
    if coder.W_dec.shape[1] != width:
        raise UserError(
            f"the coder has width {coder.W_dec.shape[1]} and the model {width}",
            where=str(folder),
            fix="evaluate a coder on the model that it was trained on",
        )
    bfloat16 = resolve_dtype(spec.dtype, device()) == torch.bfloat16
    return Recorder(from_coder(coder.to(device()), bfloat16=bfloat16), coder.W_dec.shape[0])
