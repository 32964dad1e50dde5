"""Embedding: is the explanation nearer to windows where the latent fires than to others? No language model, and no answers.

Cosine similarity of the explanation's embedding and each test window's; a latent's score is the AUROC.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from bsc.autointerp.embedding.embedder import Embedder
from bsc.autointerp.embedding.windows import WindowEmbeddings
from bsc.autointerp.explainers.base import Explanation
from bsc.autointerp.samples import Sample
from bsc.stages import EMBEDDING


class Similarities(NamedTuple):
    """One latent's test windows under one control; windows (ids in the grid), firing and similarity are by window."""

    latent: int
    scorer: str
    control: str
    windows: Int[np.ndarray, " windows"]
    firing: Bool[np.ndarray, " windows"]
    similarity: Float[np.ndarray, " windows"]


class Comparer:
    """Compares explanations with windows, both embedded by one model. Each text is embedded once."""

    def __init__(self, texts: Sequence[str], embedder: Path, windows: WindowEmbeddings) -> None:
        self._windows = windows
        distinct = sorted(set(texts))
        vectors = Embedder.open(embedder).encode(distinct) if distinct else np.zeros((0, 0), np.float32)
        self._explanations = dict(zip(distinct, vectors.astype(np.float64), strict=True))

    def compare(self, samples: Sequence[Sample], said: dict[str, list[Explanation]]) -> Iterator[Similarities]:
        """Every sample under each control: its windows, firing ones first. said: explanations by control, one a sample.

        Where there is no explanation every similarity is 0, so that the AUROC is 0.5: nothing said tells nothing apart.
        """
        for control, explanations in said.items():
            for sample, explanation in zip(samples, explanations, strict=True):
                windows = np.concatenate([sample.firing, sample.silent])
                vectors = self._windows.of(windows).astype(np.float64)
                # Summed in float64 and rounded: equal windows then have equal similarities, whatever the order of the sums.
                similarity = (vectors @ self._explanations[explanation.text]).astype(np.float32)
                firing = np.arange(len(windows)) < len(sample.firing)
                yield Similarities(sample.latent, EMBEDDING, control, windows, firing, similarity)
