"""The config, checked, and the helpers that every rule uses."""

import functools
import gc
import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(workflow.basedir)))

from snakemake.exceptions import WorkflowError
from snakemake.settings.types import RerunTrigger

from bsc import config as bsc_config, paths
from bsc.activations.disk import check_disk, coder_bytes, is_streamed, stored_splits, window_bytes
from bsc.check import unset_keys
from bsc.errors import UserError
from bsc.figures.registry import FIGURES
from bsc.io import read_json, read_manifest
from bsc.paths import CoderId
from bsc.stages import Plan

# `.venv/bin/snakemake` works without an activated environment: its own Python is the first that jobs find.
os.environ |= {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])}

# A DAG of thousands of jobs stays to the end: to look for garbage in it, over and over, took a seventh of planning.
gc.disable()

try:
    plan = Plan(bsc_config.load([Path(file) for file in workflow.configfiles], config))
except UserError as error:
    raise WorkflowError(str(error)) from None

results = plan.config.results
grid = frozenset(plan.config.coder_ids)
evaluated = grid.union(plan.joint_coders)
streamed, in_cohorts = is_streamed(plan.config), plan.config.in_cohorts


wildcard_constraints:
    **paths.CONSTRAINTS,


onstart:
    gc.freeze()
    gc.enable()
    # Up to 100 jobs a second, Snakemake's default, is no limit here, and to heed it costs a timer at each look at the DAG that sets off
    # the next look and timer a second later, for ever (9.27): after 200 jobs, a third of a core.
    limit = workflow.scheduling_settings.max_jobs_per_timespan
    if limit and (limit.max_jobs, limit.timespan) == (100, 1):
        workflow.scheduler.job_rate_limiter = None
    try:
        print(
            check_disk(plan.config, Path(results)), *unset_keys(plan.config, os.environ), sep="\n", file=sys.stderr
        )
    except UserError as error:
        raise WorkflowError(str(error)) from None


def at(pattern, coder=None, *, file=None, **wildcards):
    """A path under the results folder: a pattern of bsc.paths, with wildcards filled in (all, or none to leave them)."""
    path = "/".join([results, pattern, *([file] if file else [])])
    if coder is not None:
        return path.format(**vars(coder), **wildcards)
    return path.format(**wildcards) if wildcards else path


def coder_of(wildcards, among=grid):
    """The coder that a job's wildcards name. Raises WorkflowError for one that is not among those that the job is for."""
    w = wildcards
    coder = CoderId(w.model, w.hookpoint, w.architecture, w.binariser, int(w.k), int(w.seed))
    if coder not in among:
        raise WorkflowError(f"`{coder}` is not in the grid of this config: add its k, seed or binariser under `coders`")
    return coder


def evaluated_of(wildcards):
    """The coder, or the coders at all of a model's hookpoints, that an evaluation's wildcards name."""
    return coder_of(wildcards, evaluated)


def choice_of(wildcards):
    """Where the learning rate of a tuned coder stands; nothing for one whose config names it."""
    coder = coder_of(wildcards)
    if not plan.config.tuned(coder):
        return []
    return [at(paths.CHOICE, plan.sweep(coder), file="choice.json")]


def train_index(wildcards):
    """The index of what a coder is trained on.

    For a coder that is as it should be it is `ancient`: its digest covers what the activations are, and an index that is
    written anew retrains nothing. For others it is not: of a job behind an `ancient` file that is made anew, Snakemake does not
    ask whether it has other reasons to run.
    """
    coder = coder_of(wildcards)
    index = at(paths.INDEX, model=coder.model, split="train", hookpoint=coder.hookpoint)
    return ancient(index) if is_fresh(coder) else index


def trained_by(wildcards):
    """What says that a coder's cohort is trained; nothing for one that trains alone, or is as it should be.

    So a coder that is written waits for no cohort, and is not stale for having been behind one: Snakemake must not take
    another set of files for a reason to run. Nothing is lost by it, as what a job is made from is in its parameters; it is said
    here, as there are no settings yet when this file is read.
    """
    coder = coder_of(wildcards)
    if is_fresh(coder):
        workflow.dag_settings.rerun_triggers = frozenset(workflow.rerun_triggers) - {RerunTrigger.INPUT}
        return []
    key = plan.cohort_keys.get(coder) if in_cohorts else None
    if key is None:
        return []
    model, hookpoint, seed, part = key
    return [at(paths.COHORT, model=model, hookpoint=hookpoint, seed=seed, part=part)]


def trial_index(wildcards, split):
    """The index of what a trial is trained or judged on, `ancient` for one that is as it should be, as `train_index` is."""
    coder = coder_of(wildcards)
    index = at(paths.INDEX, model=coder.model, split=split, hookpoint=coder.hookpoint)
    try:
        tried = read_json(Path(at(paths.TRIAL, coder, rate=wildcards.rate, file="trial.json")))
    except UserError:
        return index
    return ancient(index) if tried.get("digest") == plan.trial(coder, wildcards.rate).digest else index


@functools.cache
def is_fresh(coder):
    """Whether a coder's files are there, and made as the plan says, when first asked."""
    folder = Path(at(paths.CODERS, coder))
    try:
        manifest = read_manifest(folder, verify=False)
    except UserError:
        return False
    return manifest.get("digest") == plan.coder(coder).digest and all(
        (folder / name).exists() for name in manifest["files"]
    )


def cohort_of(wildcards):
    """The key in `plan.cohorts` that a job's wildcards name."""
    w = wildcards
    return w.model, w.hookpoint, int(w.seed), int(w.part)


def cohort_hookpoints(wildcards):
    """Where a cohort's coders are."""
    return list(dict.fromkeys(coder.hookpoint for coder in plan.cohorts[cohort_of(wildcards)]))


def coder_megabytes(wildcards):
    """What training holds of one coder: itself, its gradients and two moments, and 7.3 GB for the process and a window."""
    return 7_300 + 4 * coder_bytes(plan.config, wildcards.model) // 10**6


def cohort_megabytes(wildcards):
    """What the ranks of a cohort hold: each itself and a buffer for each hookpoint; all coders, or each its own, with optimisers."""
    coders = 4 * len(plan.cohorts[cohort_of(wildcards)]) * coder_bytes(plan.config, wildcards.model) // 10**6
    held = 3_500 + (200 + window_bytes(plan.config, wildcards.model) // 10**6) * len(cohort_hookpoints(wildcards))
    if plan.config.parallel == "batches":
        return plan.config.gpus * (held + coders)
    return plan.config.gpus * held + coders


def runtime_megabytes(wildcards):
    """What timing holds of the largest coder: itself, its gradients and two moments, three tensors of N x M, and the process."""
    coders = plan.runtime(wildcards.model).spec.coders.values()
    return 3_500 + max(4 * coder.latents * (8 * coder.width + 3 * coder.batch_tokens) for coder in coders) // 10**6


def ranks(count, threads):
    """The command that runs a module in so many processes, one a GPU, and lets them save their state before it ends them."""
    if count == 1:
        return "python -m"
    options = f"--nproc-per-node={count} --signals-to-handle=SIGTERM,SIGINT,SIGUSR2 --shutdown-timeout=600"
    # Snakemake gives a process all of the job's threads, by several variables, of which torch heeds two.
    each = max(threads // count, 1)
    return f"OMP_NUM_THREADS={each} MKL_NUM_THREADS={each} python -m torch.distributed.run --standalone {options} -m --"


def shard_files():
    """Every shard of the splits whose activations are stored."""
    return [
        at(paths.SHARD, model=name, split=split, shard=shard, hookpoint=hookpoint)
        for name, hooked in plan.config.models.items()
        for split in stored_splits(plan.config)
        for shard in range(plan.shards(split))
        for hookpoint in hooked.hookpoints
    ]


def stage(of):
    """A rule's `stage` parameter, from a function of its wildcards: the spec as JSON, and the digest of it and its code."""

    def described(wildcards):
        found = of(wildcards)
        return [found.json, found.digest]

    return described


def log_of(pattern):
    """Where a rule's log goes."""
    return f"{results}/logs/{pattern}.log"


def benchmark_of(pattern):
    """Where a rule's time and memory are recorded."""
    return f"{results}/benchmarks/{pattern}.tsv"


def grown(amount):
    """A resource that is doubled at each new attempt at a job."""
    return lambda wildcards, attempt: amount * 2 ** (attempt - 1)


def llm_model(llm):
    """The manifest of the model that runs in a job's process, where it is one of the config's `models`."""
    name = plan.config.llms[llm].transformers
    return [at(paths.MODEL, file="manifest.json", model=name)] if name in plan.config.models else []


def llm_gpus(llm):
    """One GPU where the job itself runs the language model."""
    return 0 if plan.config.llms[llm].endpoint else 1


def reached_by():
    """How language models are reached: resources and no parameters, as it changes no answer and must rerun nothing."""
    return {"llms": lambda wildcards: json.dumps(plan.llm_settings), "answers": lambda wildcards: plan.answers}


def saved():
    """How often training saves its state: a resource and no parameter, as it changes no coder and must rerun nothing."""
    return {"checkpoint_minutes": f"{plan.config.checkpoint_minutes:g}"}


def figure_files():
    """The files of every figure and table that this grid has coders for."""
    drawn = [name for name in FIGURES if plan.figure_coders(name)]
    return [f"{results}/{name}" for figure in drawn for name in FIGURES[figure].files(figure)]


def figure_inputs(figure):
    """The results that a figure reads. Raises WorkflowError when this config has nothing for it."""
    coders, needs = plan.figure_coders(figure), FIGURES[figure].needs
    if not coders:
        raise WorkflowError(f"`{figure}` has nothing to show: it needs {FIGURES[figure].lacks}")
    everything = coders + (plan.joint_coders if FIGURES[figure].joint else [])
    models = sorted({coder.model for coder in everything})
    found = []
    if "evaluation" in needs:
        found += [at(paths.EVALUATION, coder, file="metrics.json") for coder in everything]
    if "references" in needs:
        found += [at(paths.REFERENCES, model=model, file="metrics.json") for model in models]
    if "choice" in needs:
        found += [at(paths.CHOICE, coder, file="choice.json") for coder in coders]
    if "training" in needs:
        found += [at(paths.CODERS, coder, file="manifest.json") for coder in coders]
    if "ablation" in needs:
        found += [at(paths.ABLATION, coder, file="manifest.json") for coder in coders]
    if "probing" in needs:
        found += [at(paths.PROBES, coder, file="manifest.json") for coder in coders]
    if "runtime" in needs:
        found += [at(paths.RUNTIME, model=model, file="manifest.json") for model in models]
    if "latents" in needs:
        found += [at(paths.LATENTS, coder, variant="trained", file="manifest.json") for coder in coders]
    if "explanations" in needs:
        found += [at(paths.MODEL, model=model, file="manifest.json") for model in models]
        found += [at(paths.TOKENS, model=model, file="interpretation.safetensors") for model in models]
        found += [
            at(paths.interpreted(paths.EXPLANATIONS, explainer), coder, variant="trained", file="manifest.json")
            for explainer in plan.figure_explainers(figure)
            for coder in coders
        ]
    if "scores" in needs:
        found += [
            at(paths.interpreted(paths.SCORES, explainer), coder, variant=variant, file="manifest.json")
            for explainer in plan.figure_explainers(figure)
            for coder in coders
            for variant in plan.variants(coder)
        ]
    return found
