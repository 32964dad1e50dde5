"""Peak memory of training on streamed activations, as the number of tokens grows.

    python benchmarks/stream_memory.py               # 0.3, 1 and 3 million tokens

A random model of one layer makes the activations, and a small coder is trained on each token once, by the code of `bsc train`;
each size in a process of its own. The buffer is made smaller than any of the sizes (`--buffer-gb`; in training it is 4.3 GB),
for up to there memory grows by what is buffered. Prints, and writes to benchmarks/results/stream_memory.json: seconds, and the
peak of resident memory.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_specs import coder_spec
from machine import record, show
from transformers import LlamaConfig, LlamaForCausalLM

from bsc.activations.recipe import write_recipe
from bsc.device import keep_freed_memory
from bsc.io import write_manifest, write_tensors
from bsc.stages import CoderSpec, RecipeSpec
from bsc.training import batches, loop
from bsc.training.train import train

_WIDTH, _CONTEXT, _VOCABULARY, _SHARD, _BATCH = 128, 256, 1_000, 128, 16_384


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[300_000, 1_000_000, 3_000_000])
    parser.add_argument("--buffer-gb", type=float, default=0.1)
    parser.add_argument("--one", action="store_true", help="measure the first size in this process, and print it as JSON")
    parser.add_argument("--no-record", action="store_true", help="print only")
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(measure(asked.tokens[0], asked.buffer_gb)))
        return
    for tokens in asked.tokens:
        command = [sys.executable, __file__, "--one", f"--tokens={tokens}", f"--buffer-gb={asked.buffer_gb}"]
        measured = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        name = f"{tokens} tokens, buffer of {asked.buffer_gb} GB"
        show(name, measured)
        if not asked.no_record:
            record("stream_memory", name, measured)


def measure(tokens: int, buffer_gb: float) -> dict[str, Any]:
    """One size."""
    keep_freed_memory()
    batches.WINDOW_BYTES = loop.WINDOW_BYTES = int(buffer_gb * 1e9)  # type: ignore[misc]
    contexts = tokens // _CONTEXT
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write_model(folder / "model")
        _write_tokens(folder / "tokens", contexts)
        recipe = RecipeSpec(
            split="train",
            hookpoint="layers.0.mlp",
            width=_WIDTH,
            contexts=contexts,
            shard_contexts=_SHARD,
            batch_contexts=16,
            dtype="float32",
        )
        write_recipe(recipe, folder / "model", folder / "tokens", folder / "recipe.json")
        begun = time.perf_counter()
        train(_coder(contexts * (_CONTEXT - 1) // _BATCH * _BATCH), folder / "recipe.json", folder / "coder")
        seconds = time.perf_counter() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return {"seconds": round(seconds, 1), "peak_gb": round(peak, 3)}


def _write_model(folder: Path) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=_VOCABULARY,
        hidden_size=_WIDTH,
        intermediate_size=4 * _WIDTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    facts_of_model = {"source": "random", "width": _WIDTH, "layers": 1, "vocabulary": _VOCABULARY, "bos": 1, "eos": 2}
    write_manifest(folder, ["config.json", "model.safetensors"], facts_of_model)


def _write_tokens(folder: Path, contexts: int) -> None:
    drawn = np.random.default_rng(0).integers(3, _VOCABULARY, size=(contexts, _CONTEXT), dtype=np.int32)
    write_tensors(folder / "train.safetensors", {"tokens": drawn, "documents": np.zeros_like(drawn)})
    write_manifest(folder, ["train.safetensors"], {"context": _CONTEXT, "splits": {"train": {"contexts": contexts}}})


def _coder(tokens: int) -> CoderSpec:
    return coder_spec(
        width=_WIDTH,
        latents=2 * _WIDTH,
        k=8,
        binariser="binary-topk",
        tokens=tokens,
        batch_tokens=_BATCH,
        warmup_steps=4,
        dead_after_tokens=1_000_000,
        dtype="float32",
    )


if __name__ == "__main__":
    main()
