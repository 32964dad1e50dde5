"""Snakemake's executor plugin on submitit: `snakemake --executor submitit` (see README.md beside this file).

Snakemake looks for the three names below. They are imported when they are asked for, because a job on a node unpickles
`task.Task` out of this package and should not pay for Snakemake's interfaces before its command starts.
"""

from importlib import import_module
from typing import Any

_HOMES = {"Executor": "executor", "ExecutorSettings": "settings", "common_settings": "settings"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
