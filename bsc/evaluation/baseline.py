"""The unspliced model, evaluated once a model; every other evaluation is paired with it, sequence by sequence."""

from pathlib import Path

import pandas as pd

from bsc.errors import UserError
from bsc.evaluation.language import load, score_sequences
from bsc.evaluation.metrics import summary
from bsc.io import read_parquet, write_json, write_parquet
from bsc.stages import EvaluationSpec

SEQUENCES = "sequences.parquet"
METRICS = "metrics.json"


def baseline(spec: EvaluationSpec, model: Path, tokens: Path, output: Path) -> None:
    """Write `sequences.parquet` (see `score_sequences`) and `metrics.json` (counts, means) of the model as it is."""
    language_model, contexts = load(spec, model, tokens)
    table = score_sequences(language_model, contexts, {}, batch=spec.batch_sequences, label="baseline")
    write_parquet(output / SEQUENCES, table)
    write_json(output / METRICS, summary(table))


def read_baseline(folder: Path, spec: EvaluationSpec) -> pd.DataFrame:
    """The baseline's sequences. Raises UserError when they are not the `spec.sequences` that are evaluated."""
    table = read_parquet(folder / SEQUENCES)
    if len(table) != spec.sequences:
        raise UserError(
            f"the baseline has {len(table)} sequences and {spec.sequences} are evaluated",
            where=str(folder),
            fix="run `bsc baseline` again with the same `evaluation.sequences`",
        )
    return table
