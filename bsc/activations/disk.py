"""How much disk a config asks for, before anything runs. No torch in here.

Sizes follow from shapes alone, so they are right to a few percent where shapes are in the config (tokens, activations, coders)
and rough where they are not (a model's vocabulary; how often latents fire: k a token is taken, which learned thresholds may
exceed). Checkpoints are counted for one training job at a time, and, with cohorts, the last one of every coder: it waits until
all cohorts of the coder's hookpoint are trained.
"""

import os
import shutil
from pathlib import Path

from bsc.config import Config, Model
from bsc.errors import UserError
from bsc.stages import Plan

STORED_SPLITS = ("train", "interpretation")
"""Splits whose activations are read by more than one stage; evaluation runs the model itself."""
STREAMED_SPLIT = "train"
"""The split whose activations need not be stored."""
VOCABULARY = 50_000
FLOAT32, BFLOAT16, INT32, INT64 = 4, 2, 4, 8
WINDOW_BYTES = 4 << 30
"""Activations of a hookpoint that training shuffles together (`bsc.training.batches`); at least one shard."""
CHECKPOINTS, ADAM_STATES = 2, 3


def is_streamed(config: Config) -> bool:
    """Whether the activations of the train split are made in the jobs that read them: `activations.mode`.

    `auto` stores them if everything together then fits into `disk_gb`.
    """
    mode = config.activations.mode
    return mode == "stream" or (mode == "auto" and sum(_sizes(config, STORED_SPLITS).values()) > config.disk_gb * 1e9)


def stored_splits(config: Config) -> tuple[str, ...]:
    """The splits whose activations are written."""
    return tuple(split for split in STORED_SPLITS if split != STREAMED_SPLIT or not is_streamed(config))


def estimate(config: Config) -> dict[str, int]:
    """Bytes by kind: models, tokens, activations of each stored split, coders, their checkpoints, latent caches."""
    return _sizes(config, stored_splits(config))


def _sizes(config: Config, stored: tuple[str, ...]) -> dict[str, int]:
    plan = Plan(config)
    activations = {f"activations ({split})": _activations(config, plan.rows(split)) for split in stored}
    sizes = [coder_bytes(config, coder.model) for coder in config.coder_ids]
    largest = max((len(coders) for coders in plan.cohorts.values()), default=0)
    waiting = ADAM_STATES * sum(sizes) if config.in_cohorts else 0
    return {
        "models": sum(map(_model, config.models.values())),
        "tokens": len(config.models) * sum(split.tokens for _, split in config.corpus.splits) * 2 * INT32,
        **activations,
        "coders": sum(sizes),
        "checkpoints": waiting + CHECKPOINTS * ADAM_STATES * max(sizes, default=0) * largest,
        "latents": _latents(config, plan),
        **(
            {"labelled documents": _activations(config, probed.documents * probed.tokens)} if (probed := config.probing) else {}
        ),
    }


def describe_disk(config: Config) -> str:
    """The estimate in one line."""
    sizes = estimate(config)
    listed = ", ".join(f"{kind} {_gigabytes(size)}" for kind, size in sizes.items())
    return f"disk: about {_gigabytes(sum(sizes.values()))} of {config.disk_gb:g} GB allowed (`disk_gb`): {listed}"


def check_allowed(config: Config) -> str:
    """The estimate in one line. Raises UserError when it exceeds `disk_gb`."""
    wanted, text = sum(estimate(config).values()), describe_disk(config)
    if wanted > config.disk_gb * 1e9:
        raise UserError(
            f"this config asks for about {_gigabytes(wanted)} and `disk_gb` allows {config.disk_gb:g} GB",
            where="disk_gb",
            fix=f"raise `disk_gb`, or lower `corpus.splits` or the number of coders\n  {text}",
        )
    return text


def check_disk(config: Config, results: Path) -> str:
    """The estimate in one line; what is in `results` already counts as written.

    Raises UserError when the estimate exceeds `disk_gb`, or what is still to be written exceeds the space left on the disk.
    """
    text = check_allowed(config)
    missing = max(0, sum(estimate(config).values()) - _written(results))
    free = shutil.disk_usage(_existing(results)).free
    if missing > free:
        raise UserError(
            f"about {_gigabytes(missing)} are still to be written and the disk has {_gigabytes(free)} left",
            where=str(results),
            fix=f"free some space, or point `results` at another disk\n  {text}",
        )
    return f"{text}; {_gigabytes(missing)} to be written, {_gigabytes(free)} left"


def window_bytes(config: Config, name: str) -> int:
    """Of the activations of a hookpoint that training shuffles together, and streaming keeps: all, if they are no more."""
    row, plan = 2 * BFLOAT16 * config.models[name].width, Plan(config)
    return row * min(plan.rows("train"), max(config.activations.shard_tokens, WINDOW_BYTES // row))


def _model(model: Model) -> int:
    """Llama-like: about 12 d² a layer and one matrix for the vocabulary, in float32."""
    return FLOAT32 * (12 * model.width**2 * model.layers + VOCABULARY * model.width)


def _activations(config: Config, rows: int) -> int:
    """bf16 inputs and outputs at every hookpoint."""
    return sum(2 * BFLOAT16 * rows * model.width * len(model.hookpoints) for model in config.models.values())


def coder_bytes(config: Config, name: str) -> int:
    """Of a coder of a model: encoder, decoder, biases, thresholds and a skip, in float32."""
    width, latents = config.models[name].width, config.latents(name)
    return FLOAT32 * (2 * latents * width + 2 * latents + width + width**2)


def _latents(config: Config, plan: Plan) -> int:
    """A row number and a value for each of about k firings a token, for each variant of each coder."""
    rows = plan.rows("interpretation")
    return sum(rows * coder.k * (INT64 + FLOAT32) * len(plan.variants(coder)) for coder in config.coder_ids)


def _written(results: Path) -> int:
    """What files take on the disk, which is less than their size where they are not filled yet; jobs may be at work on them."""
    return sum(_taken(Path(folder, name)) for folder, _, names in os.walk(results) for name in names)


def _taken(path: Path) -> int:
    try:
        return 512 * path.stat().st_blocks
    except FileNotFoundError:
        return 0


def _existing(path: Path) -> Path:
    """The nearest folder above a path that is there."""
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e8 else f"{size / 1e6:,.1f} MB"
