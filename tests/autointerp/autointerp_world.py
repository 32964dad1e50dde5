"""A small made-up world: token contexts of several documents, and a latent cache with what one likes in it."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from bsc.autointerp.firings import FILE, FiringSorter, LatentCache
from bsc.autointerp.windows import Grid
from bsc.io import write_manifest, write_tensors, write_text
from bsc.stages import WindowsSpec

CONTEXT, WINDOW, VOCABULARY = 64, 16, 40


def windows_spec(**changes) -> WindowsSpec:
    values = {
        "window": WINDOW,
        "minimum_windows": 40,
        "explanation_windows": 20,
        "test_firing": 20,
        "test_silent": 20,
        "latents": None,
        "mark_above": 0.3,
        "seed": 0,
    }
    return WindowsSpec(**{**values, **changes})


def random_documents(generator: np.random.Generator, contexts: int, longest: int = 200) -> np.ndarray:
    lengths = generator.integers(1, longest, size=contexts * CONTEXT)
    return np.repeat(np.arange(len(lengths)), lengths)[: contexts * CONTEXT].reshape(contexts, CONTEXT).astype(np.int32)


def write_cache(folder: Path, latents: list[Mapping[int, float]], rows: int, context: int = CONTEXT) -> LatentCache:
    """A cache in which latent i fires on the rows `latents[i]` with the values there."""
    entries = sorted((row, latent, value) for latent, firings in enumerate(latents) for row, value in firings.items())
    sorter = FiringSorter(len(latents))
    if entries:
        sorter.append(*(np.array(column) for column in zip(*entries, strict=True)))
    sorter.write(folder / FILE)
    write_manifest(folder, [FILE], {"rows": rows, "usable_rows": rows, "context": context, "latents": len(latents)})
    return LatentCache.open(folder)


@dataclass
class World:
    """Folders as the stages take them, and what is in them."""

    root: Path
    tokens: np.ndarray
    documents: np.ndarray

    def write(self) -> None:
        """Write the tokens as `bsc tokens` does. The first token of a context is one that no latent likes."""
        self.tokens[:, 0] = VOCABULARY - 1
        tensors = {"tokens": self.tokens, "documents": self.documents}
        write_tensors(self.root / "tokens" / "interpretation.safetensors", tensors)
        splits = {"interpretation": {"contexts": len(self.tokens), "documents": int(self.documents.max()) + 1}}
        facts = {"context": CONTEXT, "bos": False, "separator": None, "splits": splits}
        write_manifest(self.root / "tokens", ["interpretation.safetensors"], facts)

    def cache(self, rules: list[Callable[[np.ndarray], np.ndarray]]) -> LatentCache:
        """Latent i has the activations `rules[i](tokens)`, [contexts, context]; position 0 never fires."""
        latents = []
        for rule in rules:
            dense = np.array(rule(self.tokens), dtype=np.float64)
            dense[:, 0] = 0
            rows = np.flatnonzero(dense)
            latents.append(dict(zip(rows.tolist(), dense.ravel()[rows].tolist(), strict=True)))
        return write_cache(self.root / "latents", latents, self.tokens.size)

    def grid(self, spec: WindowsSpec) -> Grid:
        from bsc.corpus.store import read_tokens_numpy

        return Grid.cut(read_tokens_numpy(self.root / "tokens", "interpretation"), spec.window, spec.seed)


@pytest.fixture
def world(tmp_path: Path) -> World:
    generator = np.random.default_rng(5)
    contexts = 200
    made = World(
        tmp_path,
        generator.integers(0, VOCABULARY, size=(contexts, CONTEXT)).astype(np.int32),
        random_documents(generator, contexts),
    )
    made.write()
    vocabulary = {f"w{token}": token for token in range(VOCABULARY)}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [],
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "w0"},
    }
    write_text(tmp_path / "model" / "tokenizer.json", json.dumps(tokenizer))
    write_manifest(tmp_path / "model", ["tokenizer.json"], {})
    return made
