"""Sparse probing of a coder's latents, against the same on the activations that its encoder reads (*ours*)."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from bsc.coders.coder import SparseCoder
from bsc.coders.load import load_coder, load_spec
from bsc.device import device, resolve_dtype
from bsc.errors import UserError
from bsc.evaluation.bootstrap import Counts, Interval, Statistic, bootstrap
from bsc.io import write_json, write_manifest, write_parquet
from bsc.probing.documents import Labelled, read_labelled
from bsc.probing.fit import Features, Probe, auroc, balanced_accuracy, fit, mean_over_labels, split
from bsc.progress import Progress, job_label
from bsc.stages import ProbeSpec

PROBES, SCORES, METRICS = "probes.parquet", "scores.parquet", "metrics.json"
POOLINGS = ("max", "mean")
MEAN = "mean over labels"
Measure = Callable[[Float[np.ndarray, " test"], Bool[np.ndarray, " test"], Counts], Float[np.ndarray, " r"]]
_MEASURES: dict[str, Measure] = {"auroc": auroc, "balanced_accuracy": balanced_accuracy}


class _Task(NamedTuple):
    """One set of features and how many of them a probe reads; best None: all."""

    source: str
    pooling: str
    best: int | None


_Probes = dict[str, Probe]
_Held = dict[str, Bool[np.ndarray, " documents"]]
"""By label: a task's probes, and which documents have it."""


def probe(spec: ProbeSpec, labelled: Path, coder: Path, output: Path) -> None:
    """Write `probes.parquet`, `scores.parquet` and `metrics.json`.

    probes: a row for each source (latents, raw), pooling (max, mean), count (n best; 0 stands for all, of raw only) and label
    (and the mean over labels): auroc and balanced_accuracy with `_low` and `_high`, bootstrap 95% intervals over the test
    documents, and `features`, which were read. Each label is told from all others; of two, the second from the first.
    `auroc_less_raw` and `auroc_less_all`, with ends and of balanced_accuracy too: of latents, what a probe of them has more
    than one of as many raw dimensions, and than one of all, in the same resamples of documents; null of raw.
    scores: a row for each probe of latents (pooling, count, label) and test document (`document`): its `score`, over 0 for the
    label, and whether it is `positive`; with them coders are compared document by document.
    Raises UserError when the coder's width is not the activations'.
    """
    texts = read_labelled(labelled, spec.hookpoint)
    made = _matching(coder, texts)
    train = split(texts.documents["label"].tolist(), spec.test, spec.seed)
    pooled = dict(_pooled(made.to(device()), texts, spec))
    tasks = [_Task(source, pooling, count) for source, pooling in pooled for count in spec.counts]
    tasks += [_Task("raw", pooling, None) for pooling in POOLINGS]
    truths = _truths(texts.documents["label"])
    held = {name: positive[~train] for name, positive in truths.items()}
    fitted: dict[_Task, _Probes] = {}
    with Progress(job_label("probe", output), len(tasks), "probes") as progress:
        for task in tasks:
            features = pooled[task.source, task.pooling]
            fitted[task] = {name: fit(features, positive, train, task.best) for name, positive in truths.items()}
            progress.advance(1)
    write_parquet(output / PROBES, pd.DataFrame(row for task in tasks for row in _rows(task, fitted, held, spec)))
    tested = texts.documents["document"].to_numpy()[~train]
    of_latents = (task for task in tasks if task.source == "latents")
    write_parquet(output / SCORES, pd.concat(_scores(task, fitted[task], held, tested) for task in of_latents))
    counts = {"documents": len(train), "test_documents": int((~train).sum()), "labels": int(texts.documents["label"].nunique())}
    write_json(output / METRICS, counts)
    write_manifest(output, [PROBES, SCORES, METRICS], counts)


def _matching(folder: Path, texts: Labelled) -> SparseCoder:
    width, have = load_spec(folder).width, int(texts.side["input"].shape[1])
    if width != have:
        what = f"the coder has width {width} and the activations {have}"
        raise UserError(what, where=str(folder), fix="probe a coder with activations of the model that it was trained on")
    return load_coder(folder)


@torch.inference_mode()
def _pooled(coder: SparseCoder, texts: Labelled, spec: ProbeSpec) -> Iterator[tuple[tuple[str, str], Features]]:
    """Latents, and what the encoder reads, max- and mean-pooled over each document's tokens: [documents, features]."""
    read = texts.side[coder.reads].float()
    bfloat16 = resolve_dtype(spec.dtype, device()) == torch.bfloat16
    found: dict[tuple[str, str], list[Tensor]] = {(source, how): [] for source in ("latents", "raw") for how in POOLINGS}
    for start, end in zip(texts.rows[:-1], texts.rows[1:], strict=True):
        x = read[start:end].to(device())
        with torch.autocast(x.device.type, torch.bfloat16, enabled=bfloat16):
            token, latent, value = coder.encode(x).firing()
        dense = torch.zeros(len(x), coder.latents, device=x.device)
        dense[token, latent] = value.float()
        for source, values in (("latents", dense), ("raw", x)):
            found[source, "max"].append(values.amax(dim=0).cpu())
            found[source, "mean"].append(values.mean(dim=0).cpu())
    for key, documents in found.items():
        yield key, torch.stack(documents).numpy()


def _truths(labels: "pd.Series[str]") -> _Held:
    """Which documents have each label; of two labels, the second alone."""
    names = sorted(labels.unique())
    return {name: (labels == name).to_numpy() for name in (names[1:] if len(names) == 2 else names)}


def _rows(task: _Task, fitted: dict[_Task, _Probes], held: _Held, spec: ProbeSpec) -> Iterator[dict[str, Any]]:
    raw = {"raw": fitted[_Task("raw", task.pooling, task.best)], "all": fitted[_Task("raw", task.pooling, None)]}
    facts = {"source": task.source, "pooling": task.pooling, "count": task.best or 0}
    mine = fitted[task]
    for label, names in (*((name, [name]) for name in mine), (MEAN, list(mine))):
        read = mine[label].features.tolist() if task.best and label != MEAN else []
        row = {**facts, "label": label, **_measured(mine, names, held, spec), "features": read}
        if task.source == "latents":
            for name, theirs in raw.items():
                row |= _measured(mine, names, held, spec, less=theirs, suffix=f"_less_{name}")
        yield row


def _scores(task: _Task, probes: _Probes, held: _Held, documents: Int[np.ndarray, " test"]) -> pd.DataFrame:
    facts = {"pooling": task.pooling, "count": task.best or 0}
    tables = [
        pd.DataFrame({**facts, "label": label, "document": documents, "positive": held[label], "score": made.scores})
        for label, made in probes.items()
    ]
    return pd.concat(tables, ignore_index=True)


def _measured(
    probes: _Probes, names: list[str], held: _Held, spec: ProbeSpec, less: _Probes | None = None, suffix: str = ""
) -> dict[str, float]:
    """Each measure's mean over the labels that are named, with its interval, in a column of that name and `suffix`.

    The labels' test documents are resampled together, and so are those of the probes `less`, whose mean is then subtracted.
    """
    units = len(next(iter(held.values())))
    columns: dict[str, float] = {}
    for name, measure in _MEASURES.items():
        statistic = _mean_of(measure, probes, names, held)
        if less is not None:
            statistic = _difference(statistic, _mean_of(measure, less, names, held))
        columns |= _ends(f"{name}{suffix}", bootstrap(statistic, units, resamples=spec.resamples, seed=spec.seed))
    return columns


def _difference(one: Statistic, other: Statistic) -> Statistic:
    return lambda counts: one(counts) - other(counts)


def _mean_of(measure: Measure, probes: _Probes, names: list[str], held: _Held) -> Statistic:
    def statistic(counts: Counts) -> Float[np.ndarray, " r"]:
        return mean_over_labels([measure(probes[name].scores, held[name], counts) for name in names])

    return statistic


def _ends(name: str, found: Interval) -> dict[str, float]:
    return {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
