"""Sparse probing of a coder's latents, against the same on the activations that its encoder reads (*ours*)."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from bsc.coders.coder import SparseCoder
from bsc.coders.load import load_coder, load_spec
from bsc.device import device, resolve_dtype
from bsc.errors import UserError
from bsc.evaluation.bootstrap import Counts, Interval, bootstrap
from bsc.io import write_json, write_manifest, write_parquet
from bsc.probing.documents import Labelled, read_labelled
from bsc.probing.fit import Features, Probe, auroc, balanced_accuracy, fit, split
from bsc.progress import Progress, job_label
from bsc.stages import ProbeSpec

PROBES, METRICS = "probes.parquet", "metrics.json"
POOLINGS = ("max", "mean")
MEAN = "mean over labels"
Measure = Callable[[Float[np.ndarray, " test"], Bool[np.ndarray, " test"], Counts], Float[np.ndarray, " r"]]
_MEASURES: dict[str, Measure] = {"auroc": auroc, "balanced_accuracy": balanced_accuracy}


class _Task(NamedTuple):
    """One set of features and how many of them a probe reads; best None: all."""

    source: str
    pooling: str
    best: int | None


def probe(spec: ProbeSpec, labelled: Path, coder: Path, output: Path) -> None:
    """Write `probes.parquet` and `metrics.json`.

    probes: a row for each source (latents, raw), pooling (max, mean), count (n best; 0 stands for all, of raw only) and label
    (and the mean over labels): auroc and balanced_accuracy with `_low` and `_high`, bootstrap 95% intervals over the test
    documents, and `features`, which were read. Each label is told from all others; of two, the second from the first.
    Raises UserError when the coder's width is not the activations'.
    """
    texts = read_labelled(labelled, spec.hookpoint)
    made = _matching(coder, texts)
    train = split(texts.documents["label"].tolist(), spec.test, spec.seed)
    rows: list[dict[str, Any]] = []
    pooled = dict(_pooled(made.to(device()), texts, spec))
    tasks = [_Task(source, pooling, count) for source, pooling in pooled for count in spec.counts]
    tasks += [_Task("raw", pooling, None) for pooling in POOLINGS]
    with Progress(job_label("probe", output), len(tasks), "probes") as progress:
        for task in tasks:
            rows += _rows(task, pooled[task.source, task.pooling], texts.documents["label"], train, spec)
            progress.advance(1)
    table = pd.DataFrame(rows)
    write_parquet(output / PROBES, table)
    counts = {"documents": len(train), "test_documents": int((~train).sum()), "labels": int(texts.documents["label"].nunique())}
    write_json(output / METRICS, counts)
    write_manifest(output, [PROBES, METRICS], counts)


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


def _rows(
    task: _Task, features: Features, labels: "pd.Series[str]", train: Bool[np.ndarray, " documents"], spec: ProbeSpec
) -> Iterator[dict[str, Any]]:
    names = sorted(labels.unique())
    truths = {name: (labels == name).to_numpy() for name in (names[1:] if len(names) == 2 else names)}
    probes = {name: fit(features, positive, train, task.best) for name, positive in truths.items()}
    held = {name: positive[~train] for name, positive in truths.items()}
    facts = {"source": task.source, "pooling": task.pooling, "count": task.best or 0}
    for name, one in probes.items():
        read = one.features.tolist() if task.best else []
        yield {**facts, "label": name, **_measured({name: one}, held, spec), "features": read}
    yield {**facts, "label": MEAN, **_measured(probes, held, spec), "features": []}


def _measured(probes: dict[str, Probe], held: dict[str, Bool[np.ndarray, " test"]], spec: ProbeSpec) -> dict[str, float]:
    """Each measure's mean over the labels of `probes`, with its interval; the labels' test documents are resampled together."""
    units = len(next(iter(held.values())))
    columns: dict[str, float] = {}
    for name, measure in _MEASURES.items():
        found = bootstrap(_mean_of(measure, probes, held), units, resamples=spec.resamples, seed=spec.seed)
        columns |= _ends(name, found)
    return columns


def _mean_of(
    measure: Measure, probes: dict[str, Probe], held: dict[str, Bool[np.ndarray, " test"]]
) -> Callable[[Counts], Float[np.ndarray, " r"]]:
    def statistic(counts: Counts) -> Float[np.ndarray, " r"]:
        return np.asarray(np.mean([measure(one.scores, held[name], counts) for name, one in probes.items()], axis=0))

    return statistic


def _ends(name: str, found: Interval) -> dict[str, float]:
    return {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
