"""Embeddings of the windows of the test half: made once a model, and read by every job that scores a coder of it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from bsc.autointerp.embedding.embedder import Embedder
from bsc.autointerp.explain import SPLIT, decoder
from bsc.autointerp.llm.shown import window_text
from bsc.autointerp.windows import TEST, Grid
from bsc.corpus.store import read_tokens_numpy
from bsc.errors import CorruptFile, UserError
from bsc.io import read_manifest, write_manifest, write_tensors
from bsc.progress import Progress, job_label
from bsc.stages import EmbedSpec

FILE = "embeddings.safetensors"


def embed_windows(spec: EmbedSpec, tokens: Path, model: Path, embedder: Path, output: Path) -> None:
    """Write `embeddings.safetensors`: `windows`, ids in the grid, ascending, and `vectors` float32 [windows, width], length 1.

    A window's text is what `detection` shows of it. model: for its tokenizer.
    """
    grid = Grid.cut(read_tokens_numpy(tokens, SPLIT), spec.window, spec.seed)
    decode = decoder(model)
    windows = grid.of(TEST)
    texts = [window_text(grid.tokens[window], None, decode) for window in windows]
    distinct = {text: place for place, text in enumerate(dict.fromkeys(texts))}  # equal texts are ties, to the last bit
    opened = Embedder.open(embedder)
    found = []
    with Progress(job_label("embed", output), len(distinct), "windows") as progress:
        for part in opened.batches(list(distinct)):
            found.append(part)
            progress.advance(len(part))
    vectors = np.concatenate(found)[[distinct[text] for text in texts]]
    write_tensors(output / FILE, {"windows": windows.astype(np.int64), "vectors": vectors})
    facts = {"embedder": read_manifest(embedder, verify=False)["source"], "width": vectors.shape[1]}
    write_manifest(output, [FILE], {**facts, "windows": len(windows), "window": spec.window, "seed": spec.seed})


@dataclass(frozen=True)
class WindowEmbeddings:
    """The windows of the test half, ascending, and their vectors of length 1."""

    windows: Int[np.ndarray, " windows"]
    vectors: Float[np.ndarray, "windows width"]

    @classmethod
    def open(cls, folder: Path, grid: Grid) -> "WindowEmbeddings":
        """What `bsc embed` wrote. Raises CorruptFile when it was altered, UserError when it is of other windows."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        read_manifest(folder)
        try:
            tensors = load_file(folder / FILE)
        except (OSError, SafetensorError) as error:
            raise CorruptFile(f"no embeddings ({error})", where=str(folder), fix=f"delete {folder} and run again") from error
        if not np.array_equal(tensors["windows"], grid.of(TEST)):
            raise UserError(
                "the embeddings are of other windows than those that explanations are tested on",
                where=str(folder),
                fix="embed again with the same tokens, `window` and `seed`",
            )
        return cls(tensors["windows"], tensors["vectors"])

    def of(self, windows: Int[np.ndarray, " some"]) -> Float[np.ndarray, "some width"]:
        """The vectors of some windows of the test half."""
        return self.vectors[np.searchsorted(self.windows, windows)]
