"""From texts to unit vectors, by a sentence-transformers model. Torch is loaded when a model is opened, and not before."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from bsc.device import device
from bsc.errors import UserError
from bsc.io import read_manifest
from bsc.models.faults import FAULTS, reason

_BATCH = 64
"""Texts in a forward pass."""
_AT_ONCE = 32 * _BATCH
"""Texts that are sorted by length together, so that a batch has little padding."""

Vectors = Float[np.ndarray, "texts width"]


class Embedder:
    """A model of a folder that `bsc embedder` wrote, on the GPU if there is one."""

    def __init__(self, model: Any) -> None:
        self._model = model

    @classmethod
    def open(cls, folder: Path) -> "Embedder":
        """Load it, without the network. Raises CorruptFile when a file is not the one that was fetched."""
        read_manifest(folder)
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging

        logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # one that lasts a tenth of a second, and fills a log
        try:
            return cls(SentenceTransformer(str(folder), device=str(device()), local_files_only=True, trust_remote_code=False))
        except FAULTS as error:
            raise UserError(
                f"sentence-transformers cannot load it: {reason(error, folder)}",
                where=str(folder),
                fix="name another model in `autointerp.embedding`",
            ) from error

    def batches(self, texts: Sequence[str]) -> Iterator[Vectors]:
        """The vectors of some texts in order, float32, some thousands at a time: length 1, or 0 for an empty text.

        Of a text longer than the model takes (256 of its tokens, say), the beginning.
        """
        for first in range(0, len(texts), _AT_ONCE):
            part = list(texts[first : first + _AT_ONCE])
            vectors = self._model.encode(part, batch_size=_BATCH, normalize_embeddings=True, show_progress_bar=False)
            said = np.array([bool(text) for text in part])
            yield np.asarray(vectors, dtype=np.float32) * said[:, None]

    def encode(self, texts: Sequence[str]) -> Vectors:
        """The vectors of some texts; see `batches`. texts: at least one."""
        return np.concatenate(list(self.batches(texts)))
