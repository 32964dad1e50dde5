"""From a Snakemake job's resources to what submitit asks of the cluster.

The names are those of snakemake-executor-plugin-slurm, so that a workflow moves over unchanged: `runtime` (minutes), `mem_mb`
or `mem_mb_per_cpu`, `threads` or `cpus_per_task`, `gpus` or `gpu` (with `gpu_model`), `gres`, `nodes`, `slurm_partition`,
`slurm_account`, `slurm_qos` or `qos`, `slurm_constraint` or `constraint`, `slurm_extra`.
"""

import json
import re
import shlex
from collections.abc import Mapping
from typing import Any

from .launch import KEEP
from .settings import ExecutorSettings

FOREVER_MINUTES = 60 * 24 * 365
RESERVED = {"array", "chdir", "comment", "error", "job-name", "open-mode", "output", "parsable", "signal", "wait", "wrap"}
SHORT = {"A": "account", "C": "constraint", "L": "licenses", "p": "partition", "q": "qos", "w": "nodelist", "x": "exclude"}
TEXTS = {
    "slurm_partition": ("slurm_partition",),
    "slurm_account": ("slurm_account",),
    "slurm_qos": ("slurm_qos", "qos"),
    "slurm_constraint": ("slurm_constraint", "constraint"),
}
Resources = Mapping[str, Any]


class ShapeError(ValueError):
    """A job asks for something that cannot be submitted; the text says what, and what to write instead."""


def parameters(rule: str, threads: int, resources: Resources, settings: ExecutorSettings, setup: list[str]) -> dict[str, Any]:
    """Arguments of submitit's `AutoExecutor.update_parameters` for a job of this rule.

    threads: CPUs on one node. resources: Snakemake's, of this attempt. setup: shell lines run before the job.
    Raises ShapeError.
    """
    if resources.get("mpi"):
        raise ShapeError(
            "resource mpi: MPI jobs are not supported by this plugin; use snakemake-executor-plugin-slurm for them"
        )
    minutes = _minutes(resources, settings)
    setup = [KEEP, *setup] if settings.cluster == "slurm" else setup
    asked = {
        "name": re.sub(r"[^\w.-]", "_", rule),
        "timeout_min": minutes,
        "cpus_per_task": max(1, int(resources.get("cpus_per_task") or threads)),
        "nodes": int(resources.get("nodes") or 1),
        "stderr_to_stdout": True,
        "slurm_use_srun": False,  # a job step would only stand between Slurm's signals and the job
        "slurm_array_parallelism": settings.array_running,
        "slurm_additional_parameters": {
            "requeue": True,
            "signal": f"B:USR2@{min(settings.signal_seconds, 30 * minutes)}",
            **extra_options(str(resources.get("slurm_extra") or "")),
        },
        f"{settings.cluster}_setup": setup or None,
        **_memory(resources),
        **_gpus(resources),
    }
    for parameter, names in TEXTS.items():
        asked[parameter] = next((str(resources[name]) for name in names if resources.get(name)), None)
    return {name: value for name, value in asked.items() if value is not None and not name.startswith("debug_")}


def shape(rule: str, asked: Mapping[str, Any]) -> str:
    """Equal for jobs that may share an array: those of one rule that ask for the same."""
    return json.dumps([rule, asked], sort_keys=True)


def extra_options(text: str) -> dict[str, Any]:
    """Options of sbatch in `slurm_extra` by long name; a flag's value is True. Raises ShapeError."""
    options: dict[str, Any] = {}
    words = shlex.split(text)
    while words:
        name, equals, value = words.pop(0).partition("=")
        if not name.startswith("-") or name.lstrip("-") == "":
            raise ShapeError(f"slurm_extra: {name!r} is not an option; write '--name=value'")
        if not equals and words and not words[0].startswith("-"):
            equals, value = "=", words.pop(0)
        name = _long_name(name)
        if name in RESERVED:
            raise ShapeError(f"slurm_extra: --{name} is set by the plugin and cannot be overridden")
        options[name] = value if equals else True
    return options


def _long_name(name: str) -> str:
    if name.startswith("--"):
        return name[2:]
    if name[1:] not in SHORT:
        raise ShapeError(f"slurm_extra: write the long name of {name!r}, as in '--name=value'")
    return SHORT[name[1:]]


def _minutes(resources: Resources, settings: ExecutorSettings) -> int:
    if resources.get("runtime"):
        return max(1, int(resources["runtime"]))
    if settings.cluster == "slurm":
        raise ShapeError("no runtime: give the rule `resources: runtime=MINUTES`, or the profile a default-resources `runtime`")
    return FOREVER_MINUTES


def _memory(resources: Resources) -> dict[str, Any]:
    if resources.get("mem_mb_per_cpu"):
        return {"slurm_mem_per_cpu": f"{int(resources['mem_mb_per_cpu'])}MB"}
    return {"mem_gb": int(resources["mem_mb"]) / 1024} if resources.get("mem_mb") else {}


def _gpus(resources: Resources) -> dict[str, Any]:
    count = int(resources.get("gpus") or resources.get("gpu") or 0)
    gres, model = resources.get("gres"), resources.get("gpu_model")
    if gres and (count or model):
        raise ShapeError(f"resources name GPUs twice: gres={gres} and gpus={count or 1}; keep one")
    if gres:
        return {"slurm_gres": str(gres)}
    if model:
        return {"slurm_gres": f"gpu:{model}:{count or 1}"}
    return {"gpus_per_node": count} if count else {}
