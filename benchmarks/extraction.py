"""Extraction of every hookpoint in one pass, beside a plain float32 forward of the whole model, in the same run.

    python benchmarks/extraction.py

Needs the model and the tokens of config/config.yaml: `snakemake -c2 results/tokens/smollm2-135m-instruct/manifest.json`. Hooks
the layers that config/paper.yaml names. Prints, and writes to benchmarks/results/extraction.json, median tokens a second of
`bsc activations` (reading, forward, writing), and of the model's own forward to its logits in float32, on the same contexts.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from machine import medians, record, show

from bsc.activations.extract import extract
from bsc.corpus.store import read_tokens
from bsc.models.load import load_model
from bsc.stages import ActivationsSpec


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("results/models/smollm2-135m-instruct"))
    parser.add_argument("--tokens", type=Path, default=Path("results/tokens/smollm2-135m-instruct"))
    parser.add_argument("--layers", type=int, nargs="+", default=[0, 9, 18, 27])
    parser.add_argument("--contexts", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()

    spec = ActivationsSpec(
        split="train",
        first=0,
        contexts=arguments.contexts,
        hookpoints=[f"layers.{layer}.mlp" for layer in arguments.layers],
        batch_contexts=8,
        dtype="auto",
    )
    contexts = read_tokens(arguments.tokens, "train").tokens[: arguments.contexts].long()
    plain = load_model(arguments.model, torch.float32)

    def forward() -> None:
        with torch.inference_mode():
            for batch in contexts.split(spec.batch_contexts):
                plain(input_ids=batch, use_cache=False)

    def extraction() -> None:
        with tempfile.TemporaryDirectory() as folder:
            extract(spec, arguments.model, arguments.tokens, Path(folder) / "shard")

    def start() -> None:
        with tempfile.TemporaryDirectory() as folder:
            extract(spec.model_copy(update={"contexts": 1}), arguments.model, arguments.tokens, Path(folder) / "shard")

    cases = {"plain float32 forward": forward, "extraction": extraction, "start": start}
    taken = medians(cases, arguments.rounds)
    starting = taken.pop("start")
    rates = {case: round(1e3 * contexts.numel() / milliseconds) for case, milliseconds in taken.items()}
    steady = round(1e3 * contexts.numel() / (taken["extraction"] - starting))
    measured = {
        "tokens": contexts.numel(),
        "hookpoints": spec.hookpoints,
        "tokens_per_second": {**rates, "extraction without its start": steady},
        "ratio": round(steady / rates["plain float32 forward"], 2),
    }
    show(f"layers {arguments.layers}", measured)
    record("extraction", f"layers {arguments.layers}", measured)


if __name__ == "__main__":
    main()
