"""`bsc check`: is a config whole and consistent, and what does it ask for?"""

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from bsc.coders.binarisers.registry import kind_of
from bsc.config import Config, load
from bsc.stages import Plan


def report(files: list[Path]) -> str:
    """What a config asks for, in lines to print. Raises UserError with every fault when it has any."""
    from bsc.activations.disk import check_allowed

    config = load(files)
    names = ", ".join(map(str, files))
    return "\n".join(
        [
            f"{names}: no faults",
            *_models(config),
            _grid(config),
            *_finetuned(config),
            *_sweeps(config),
            *_asked(config),
            check_allowed(config),
            *unset_keys(config, os.environ),
        ]
    )


def unset_keys(config: Config, environment: Mapping[str, str]) -> list[str]:
    """A warning for each language model that is to be asked, and whose key is not in the environment."""
    asked = {*config.autointerp.llms, *filter(None, [config.autointerp.judge])}
    return [
        f"look out: `llms.{name}.key`: {key} is not set here, and jobs that ask `{name}` need it"
        for name, llm in config.llms.items()
        if name in asked and (key := llm.key) and not environment.get(key)
    ]


def _models(config: Config) -> list[str]:
    return [
        f"model {name}: {model.source}, {model.layers} layers of width {model.width}, hooked at {', '.join(model.hookpoints)}; "
        f"coders have {config.latents(name):,} latents"
        for name, model in config.models.items()
    ]


def _grid(config: Config) -> str:
    trained = [coder for coder in config.coder_ids if coder.binariser not in config.finetunes]
    kinds = Counter((coder.architecture, coder.binariser) for coder in trained)
    listed = ", ".join(f"{count} {architecture} {binariser}" for (architecture, binariser), count in sorted(kinds.items()))
    training = config.training
    return (
        f"coders: {len(trained)} ({listed}), each trained on {training.tokens:,} tokens "
        f"in {training.tokens // training.batch_tokens:,} steps"
    )


def _finetuned(config: Config) -> list[str]:
    counts = Counter(coder.binariser for coder in config.coder_ids if coder.binariser in config.finetunes)
    return [
        f"finetuned end to end: {count} {name}, from as many {kind_of(name)}, each on {config.finetunes[name].tokens:,} tokens"
        for name, count in sorted(counts.items())
    ]


def _asked(config: Config) -> list[str]:
    if not config.autointerp.llms:
        return []
    from bsc.autointerp.estimate import totals  # which reads what is there, with pandas

    return totals(Plan(config))


def _sweeps(config: Config) -> list[str]:
    if config.tune is None:
        return []
    kinds = sorted({(coder.model, coder.architecture, coder.binariser) for coder in config.coder_ids if config.tuned(coder)})
    listed = ", ".join(f"{architecture} {binariser}" for _, architecture, binariser in kinds) or "nothing: each has its rate"
    return [f"learning rates tuned: {listed}; {len(config.tune.rates)} trials each, on {config.tune.tokens:,} tokens"]
