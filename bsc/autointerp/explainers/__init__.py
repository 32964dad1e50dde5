"""Explainers, by the `kind` of a spec: each is a module here with `build(options, access)`, which is entered to have it.

A module is found by its name when it is asked for, so a stage's fingerprint holds the one that it uses and no other.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from importlib import import_module
from typing import Any

from bsc.autointerp.explainers.base import Access, Explainer


def explainer_for(options: Mapping[str, Any], access: Access) -> AbstractContextManager[Explainer]:
    """The explainer of a spec's `explainer`, `kind` and that kind's options, to be entered before it is used."""
    module = import_module(f"{__name__}.{options['kind']}")
    built: AbstractContextManager[Explainer] = module.build({k: v for k, v in options.items() if k != "kind"}, access)
    return built
