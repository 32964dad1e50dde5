"""Ablation of all bins of a coder, beside one evaluation of its cross-entropy on the same sequences, in the same run.

    python benchmarks/ablation.py

Needs the model and the tokens of config/config.yaml: `snakemake -c2 results/tokens/smollm2-135m-instruct/manifest.json`. The
coder has random weights: what it costs does not depend on them. For each layer it prints, and writes to
benchmarks/results/ablation.json, the median seconds of an evaluation and of an ablation without their loading of the model, and
what a bin costs, over an evaluation times the share of the layers above the hook, which run once a bin (aim: at most 3). The
vocabulary head runs once a bin too, and is a fifth of this model: behind a late layer it is most of what a bin costs.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from bench_specs import coder_spec
from machine import medians, record, show

from bsc.coders.coder import SparseCoder
from bsc.coders.load import load_coder, save_coder
from bsc.device import device, resolve_dtype
from bsc.evaluation.ablation import ablate
from bsc.evaluation.language import load, score_sequences
from bsc.evaluation.replacement import Recorder, from_coder
from bsc.io import write_manifest, write_parquet
from bsc.paths import layer
from bsc.stages import AblationSpec, EvaluationSpec


def made_up(folder: Path, width: int, latents: int) -> tuple[Path, Path]:
    """A coder with random weights, and scores of its latents."""
    spec = coder_spec(
        width=width,
        latents=latents,
        k=32,
        binariser="topk",
        seed=0,
        tokens=1,
        batch_tokens=1,
        warmup_steps=0,
        dead_after_tokens=1,
        dtype="auto",
    )
    save_coder(SparseCoder.build(spec), spec, folder / "coder", pd.DataFrame({"step": [0]}))
    f1 = np.random.default_rng(0).uniform(size=latents)
    table = pd.DataFrame({"latent": range(latents), "scorer": "fuzzing", "control": "none", "f1": f1, "firings": 1})
    write_parquet(folder / "scores" / "scores.parquet", table)
    write_manifest(folder / "scores", ["scores.parquet"], {})
    return folder / "coder", folder / "scores"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("results/models/smollm2-135m-instruct"))
    parser.add_argument("--tokens", type=Path, default=Path("results/tokens/smollm2-135m-instruct"))
    parser.add_argument("--layers", type=int, nargs="+", default=[9, 27])
    parser.add_argument("--latents", type=int, default=4608)
    parser.add_argument("--bins", type=int, default=12)
    parser.add_argument("--sequences", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()

    for number in arguments.layers:
        measured = at(f"layers.{number}.mlp", arguments)
        show(f"layers.{number}.mlp", measured)
        record("ablation", f"layers.{number}.mlp", measured)


def at(hookpoint: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """What ablation costs at a hookpoint."""
    counts = {"sequences": arguments.sequences, "batch_sequences": 8, "resamples": 100, "seed": 0}
    evaluation = EvaluationSpec(hookpoints=[hookpoint], dtype="auto", **counts)
    language_model, contexts = load(evaluation, arguments.model, arguments.tokens)
    bfloat16 = resolve_dtype("auto", device()) == torch.bfloat16
    with tempfile.TemporaryDirectory() as name:
        coder, scores = made_up(Path(name), int(language_model.config.hidden_size), arguments.latents)
        spliced = {hookpoint: Recorder(from_coder(load_coder(coder).to(device()), bfloat16=bfloat16), arguments.latents)}
        asked = AblationSpec(evaluation=evaluation, bins=arguments.bins, scorer="fuzzing")
        cases = {
            "loading": lambda: load(evaluation, arguments.model, arguments.tokens),
            "evaluation": lambda: score_sequences(language_model, contexts, spliced, batch=8, label="evaluation"),
            "ablation": lambda: ablate(asked, arguments.model, arguments.tokens, coder, scores, Path(name) / "ablation"),
        }
        taken = medians(cases, arguments.rounds)
    layers = int(language_model.config.num_hidden_layers)
    above = (layers - 1 - layer(hookpoint)) / layers
    ablation = taken["ablation"] - taken["loading"]
    return {
        "latents": arguments.latents,
        "bins": arguments.bins,
        "tokens": contexts.tokens.numel(),
        "seconds": {"evaluation": round(taken["evaluation"] / 1e3, 2), "ablation": round(ablation / 1e3, 2)},
        "a bin over an evaluation's share above": round(ablation / arguments.bins / (taken["evaluation"] * above), 2),
    }


if __name__ == "__main__":
    main()
