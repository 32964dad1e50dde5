"""Explainers, by the config's `autointerp.explainer.kind`: each is a module here with `build(options) -> Explainer`.

A module is found by its name when it is asked for, so a stage's fingerprint holds the one that it uses and no other.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from bsc.autointerp.explainers.base import Explainer


def explainer_for(options: Mapping[str, Any]) -> Explainer:
    """The explainer of a config's `explainer` block: `kind` and that kind's options."""
    module = import_module(f"{__name__}.{options['kind']}")
    built: Explainer = module.build({key: value for key, value in options.items() if key != "kind"})
    return built
