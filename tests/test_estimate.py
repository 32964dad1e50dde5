"""What a config costs: every job is counted, and what it is said to compute is what it computes."""

import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from bsc.activations.disk import WINDOW_BYTES, is_streamed, stored_splits
from bsc.cli import main
from bsc.coders.binarisers.registry import REGISTRY
from bsc.config import Config, load
from bsc.estimate.jobs import Jobs, Row
from bsc.estimate.machines import MACHINES, Machine, Phase, find_machine
from bsc.estimate.report import report
from bsc.estimate.work import encode, forward, held_memory, parameters, step
from bsc.figures.registry import FIGURES
from bsc.stages import CoderSpec, Plan

ROOT = Path(__file__).parent.parent
CONFIGS = ROOT / "config"
CPU, GPU = MACHINES["cpu2"], MACHINES["h100"]


def shipped(name: str) -> Config:
    return load([CONFIGS / f"{name}.yaml"])


def changed(folder: Path, name: str, **keys: Any) -> Config:
    """A shipped config with dotted keys changed (`training__tokens`)."""
    raw = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    for dotted, value in keys.items():
        *parents, last = dotted.split("__")
        target = raw
        for parent in parents:
            target = target[parent]
        target[last] = value
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(raw))
    return load([path])


STORED = {"cohort": 1, "activations__mode": "store", "disk_gb": 200_000}
"""The paper's grid as it would be with activations stored, a job a coder."""


def spec(**changes: Any) -> CoderSpec:
    values = {
        "width": 8,
        "latents": 96,
        "k": 4,
        "architecture": "transcoder",
        "binariser": "topk",
        "options": {},
        "seed": 1,
        "tokens": 640,
        "batch_tokens": 32,
        "optimiser": "adam",
        "learning_rate": 1e-3,
        "warmup_steps": 1,
        "auxk": False,
        "multi_topk": False,
        "dead_after_tokens": 1000,
        "dtype": "bfloat16",
    }
    return CoderSpec.model_validate(values | changes)


def options(binariser: str, **chosen: Any) -> dict[str, Any]:
    given = {key: value[0] if isinstance(value, tuple) else value for key, value in REGISTRY[binariser].options.items()}
    return given | chosen


@pytest.mark.parametrize("name", ["config", "smoke", "paper", "frequency"])
def test_every_job_of_the_plan_is_counted(name: str) -> None:
    config = shipped(name)
    plan, coders = Plan(config), config.coder_ids
    hookpoints = {(coder.model, coder.hookpoint) for coder in coders}
    variants = sum(len(plan.variants(coder)) for coder in coders)
    joint = plan.joint_coders
    assert Counter(job.rule for job in Jobs(config, GPU).all) == {
        "model": len(config.models),
        "tokens": len(config.models),
        "activations": len(config.models) * sum(map(plan.shards, stored_splits(config))),
        "index": len(stored_splits(config)) * len(hookpoints),
        **({"recipe": len(hookpoints)} if is_streamed(config) else {}),
        **({"cohort": len(plan.cohorts)} if config.cohort > 1 else {}),
        "baseline": len(config.models),
        "references": len(config.models),
        **({"choose": len(plan.sweeps), "trial": len(plan.sweeps) * len(plan.rates)} if plan.sweeps else {}),
        "train": len(coders),
        "evaluate": len(coders) + len(joint),
        **dict.fromkeys(("latents", "explain", "score"), variants),
        **({"ablation": len(plan.figure_coders("fig18"))} if config.ablation else {}),
        **({"runtime": len(config.models)} if config.runtime else {}),
        "figure": sum(bool(plan.figure_coders(figure)) for figure in FIGURES),
        "gallery": 1,
    }


def test_embeddings_are_made_once_a_model_and_ask_nothing(tmp_path: Path) -> None:
    model = {"source": "pypi:some-embedder==1", "sha256": "0" * 64}
    raw = yaml.safe_load((CONFIGS / "smoke.yaml").read_text())["autointerp"]
    asked = {**raw, "scorers": ["detection", "fuzzing", "embedding"], "embedding": model}
    plain, embedded = (Jobs(changed(tmp_path, "smoke", **more), CPU) for more in ({}, {"autointerp": asked}))
    counts = Counter(job.rule for job in embedded.all)
    assert counts - Counter(job.rule for job in plain.all) == {"embedder": 1, "embed": 1}
    assert sum(job.seconds for job in embedded.all if job.rule == "score") == pytest.approx(
        sum(job.seconds for job in plain.all if job.rule == "score")
    )


def test_ablation_and_probing_are_counted_where_they_are_asked_for(tmp_path: Path) -> None:
    blocks = {
        "ablation": {"bins": 10, "sequences": 4},
        "probing": {"source": "documentation", "packages": ["numpy", "pandas"], "documents": 64},
    }
    config = changed(tmp_path, "config", **blocks)
    counts = Counter(job.rule for job in Jobs(config, CPU).all)
    assert counts["ablation"] == counts["probe"] == 6
    assert counts["labelled"] == 1
    few, many = (
        max(
            job.seconds
            for job in Jobs(changed(tmp_path, "config", **blocks | {"ablation": {"bins": bins, "sequences": 4}}), CPU).all
            if job.rule == "ablation"
        )
        for bins in (10, 100)
    )
    assert few < many < 12 * few


def finetuned(folder: Path, cohort: int = 1, **settings: Any) -> Config:
    """The smoke config with its SAEs finetuned, and those of all hookpoints."""
    sae = {"architectures": ["sae"], "binarisers": ["binary-topk", "binary-topk.e2e"], "k": [16]}
    variant = {"finetune": {"tokens": 65_536, "warmup_steps": 2, **settings}}
    return changed(folder, "smoke", coders=[sae], binarisers={"binary-topk.e2e": variant}, cohort=cohort)


@pytest.mark.parametrize("cohort", [1, 4])
def test_finetuning_is_counted_beside_training(cohort: int, tmp_path: Path) -> None:
    jobs = Jobs(finetuned(tmp_path, cohort), GPU)
    counts = Counter(job.rule for job in jobs.all)
    assert (counts["train"], counts["finetune"]) == (2, 2)
    assert counts["cohort"] == (2 if cohort > 1 else 0)
    assert counts["evaluate"] == 6  # two of them joint
    assert all(row.gpu for row in jobs.rows() if row.rule == "finetune")


def test_finetuning_costs_what_its_tokens_and_layers_do(tmp_path: Path) -> None:
    def seconds(**settings: Any) -> list[float]:
        return [job.seconds - 6 for job in Jobs(finetuned(tmp_path, **settings), CPU).all if job.rule == "finetune"]

    first, second = seconds()
    assert seconds(tokens=131_072) == pytest.approx([2 * first, 2 * second])
    assert 0.9 * first < second < first, "of layer 1 one layer more is below, where it runs once and not three times"
    assert min(seconds(others=True)) > first


def test_finetuning_makes_the_logits_that_the_estimate_says() -> None:
    from bsc.estimate.jobs import CHUNK_TOKENS
    from bsc.finetuning import divergence

    assert divergence.CHUNK_TOKENS == CHUNK_TOKENS


@pytest.mark.parametrize("mode", ["store", "stream"])
@pytest.mark.parametrize("cohort", [1, 2, 100])
def test_jobs_where_activations_are_streamed_and_coders_trained_together(mode: str, cohort: int, tmp_path: Path) -> None:
    config = changed(tmp_path, "smoke", cohort=cohort, activations={"shard_tokens": 4096, "mode": mode})
    counts = Counter(job.rule for job in Jobs(config, GPU).all)
    streamed = mode == "stream"
    assert counts["activations"] == (2 if streamed else 4)
    assert counts["index"] == (2 if streamed else 4)
    assert counts["recipe"] == (2 if streamed else 0)
    assert counts["cohort"] == {1: 0, 2: 3, 100: 2}[cohort]
    assert counts["train"] == 5


def hours_of_training(config: Config) -> float:
    return sum(row.seconds for row in Jobs(config, GPU).rows() if row.rule in ("cohort", "train")) / 3600


def test_several_gpus_divide_the_forward_passes_and_the_coders_or_the_batches(tmp_path: Path) -> None:
    def cohort(**changes: Any) -> Row:
        (row,) = (row for row in Jobs(changed(tmp_path, "paper", cohort=36, **changes), GPU).rows() if row.rule == "cohort")
        return row

    jobs = Jobs(changed(tmp_path, "paper", cohort=36), GPU)
    one, coders, batches = cohort(), cohort(gpus=4), cohort(gpus=4, parallel="batches")
    assert coders.longest == pytest.approx(one.longest / 4, rel=0.15), "36 coders of unequal cost over 4 GPUs"
    assert batches.longest == pytest.approx(one.longest / 4, rel=0.01)
    held = sum(map(held_memory, map(jobs.spec, next(iter(jobs.plan.cohorts.values())))))
    assert one.device - coders.device == pytest.approx(held * 3 / 4, rel=0.1), "weights, gradients and optimisers are divided"
    assert held < batches.device < coders.device + held, "or what a step takes"
    for row in (coders, batches):
        assert row.seconds == pytest.approx(4 * row.jobs * row.longest, rel=0.01), "hours of GPUs, not of jobs"


def test_a_cohort_runs_the_model_once(tmp_path: Path) -> None:
    """Beyond the steps, 36 coders in one job cost what one coder does: what is left is a thirty-sixth of the forward passes."""
    alone = hours_of_training(changed(tmp_path, "paper", cohort=1))
    together = hours_of_training(changed(tmp_path, "paper", cohort=36))
    stream = {"mode": "stream", "shard_tokens": 1_048_576}
    steps = hours_of_training(changed(tmp_path, "paper", cohort=1, corpus__splits__train__tokens=1_048_576, activations=stream))
    assert (together - steps) / (alone - steps) == pytest.approx(1 / 36, rel=0.1)


def test_auto_streams_what_the_disk_does_not_hold(tmp_path: Path) -> None:
    assert Jobs(changed(tmp_path, "paper", disk_gb=30_000), GPU).streamed
    assert not Jobs(changed(tmp_path, "paper", disk_gb=300_000), GPU).streamed


def test_the_paper_grid_has_the_jobs_that_snakemake_plans() -> None:
    rows = {row.rule: row.jobs for row in Jobs(shipped("paper"), GPU).rows()}
    assert rows["train"] == 432
    assert rows["cohort"] == 108
    assert rows["evaluate"] == 540
    assert rows["latents"] == rows["explain"] == rows["score"] == 640


def test_operations_of_a_small_model_by_hand() -> None:
    model = shipped("smoke").models["smollm2-135m-instruct"].model_copy(update={"width": 4})
    blocks, head = forward(model, 3, 10, 16, head=True)
    assert blocks.operations == 10 * 3 * (24 * 16 + 2 * 16 * 4)
    assert head.operations == 10 * 2 * 4 * 50_000


def test_operations_of_a_small_step_by_hand() -> None:
    phases = step(spec(architecture="skip-transcoder"), gpu=False)
    dense = sum(phase.operations for phase in phases if phase.kind == "bfloat16")
    sparse = sum(phase.operations for phase in phases if phase.kind == "float32")
    assert dense == 32 * (2 * 8 * 96 + 4 * 8 * 8)
    assert sparse == 32 * 4 * (2 * 4 * 8)  # decode, the values' gradient, the rows' gradient of decoder and encoder
    assert phases[-1].moved == (2 * 96 * 8 + 2 * 96 + 8 + 64) * 4 * 9


CASES = [(key, options(key)) for key in REGISTRY] + [("binary-threshold", options("binary-threshold", threshold="learned"))]


@pytest.mark.parametrize(("binariser", "chosen"), CASES, ids=lambda case: str(case)[:60])
@pytest.mark.parametrize("architecture", ["sae", "transcoder", "skip-transcoder"])
def test_the_dense_products_are_those_that_torch_counts(
    binariser: str, chosen: dict[str, Any], architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from bsc.coders import kernels
    from bsc.coders.coder import SparseCoder
    from bsc.training.losses import losses

    monkeypatch.setattr(kernels, "_twin", lambda *tensors: kernels.reference)  # has no products that look dense
    asked = spec(architecture=architecture, binariser=binariser, options=chosen)
    coder = SparseCoder.build(asked).train()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(32, 8, generator=generator)
    y = x if architecture == "sae" else torch.randn(32, 8, generator=generator)
    uncounted = {torch.ops.mkldnn._linear_pointwise: lambda x, W, *rest, **more: 2 * x[0] * x[1] * W[0]}
    with FlopCounterMode(display=False, custom_mapping=uncounted) as counter, torch.autocast("cpu", torch.bfloat16):
        losses(coder, x, y, generator).total.backward()  # type: ignore[no-untyped-call]
    learned = chosen.get("threshold") == "learned"
    counted = sum(phase.operations for phase in step(asked, gpu=True) if learned or phase.kind == "bfloat16")
    centre = 2 * asked.width * asked.latents if architecture == "sae" else 0  # its gradient: a vector's product, left out
    assert counter.get_total_flops() == counted + centre
    assert 0 <= parameters(asked) - sum(parameter.numel() for parameter in coder.parameters()) <= asked.latents


def test_a_binariser_without_a_line_of_its_own_counts_as_the_papers() -> None:
    assert step(spec(binariser="new"), gpu=True) == step(spec(binariser="binary-topk"), gpu=True)


def test_sampling_costs_nothing_where_the_largest_is_taken() -> None:
    asked = spec(binariser="gumbel")
    assert encode(asked, 32, training=False)[1].moved < encode(asked, 32, training=True)[1].moved / 10


@pytest.mark.parametrize("machine", [CPU, GPU], ids=lambda machine: machine.name)
def test_twice_the_tokens_take_twice_the_training(machine: Machine, tmp_path: Path) -> None:
    def hours(tokens: int) -> float:
        config = changed(tmp_path, "paper", **STORED, training__tokens=tokens, corpus__splits__train__tokens=2_097_152)
        return next(row.seconds for row in Jobs(config, machine).rows() if row.rule == "train")

    tenth, once, twice = hours(2_000_000_000), hours(20_000_000_000), hours(40_000_000_000)
    assert (twice - tenth) / (once - tenth) == pytest.approx(38 / 18, rel=1e-3)
    assert twice > once > tenth


def test_a_store_that_stays_in_memory_is_read_once(tmp_path: Path) -> None:
    small = changed(tmp_path, "paper", **STORED, corpus__splits__train__tokens=1_048_576, activations__shard_tokens=65_536)
    large = changed(tmp_path, "paper", **STORED, corpus__splits__train__tokens=104_857_600, activations__shard_tokens=65_536)
    rapid = Machine("rapid", True, 1e30, 1e30, 1e30, 1e30, 1, "no time but reading")
    first, second = (next(job for job in Jobs(config, rapid).all if job.rule == "train") for config in (small, large))
    assert first.seconds == pytest.approx(6 + 1_048_576 * 4 * 576 / 1e9)
    assert second.seconds == pytest.approx(6 + 104_857_600 * 4 * 576 / 1e9 + 20_000_000_000 // 65_536 * 65_536 * 2 * 576 / 1e9)


def test_the_slower_of_operations_and_bytes_takes_the_time() -> None:
    machine = Machine("m", True, 10.0, 5.0, 2.0, 4.0, 1, "")
    assert machine.seconds(Phase("bfloat16", 100, 4), Phase("float32", 5, 400), Phase("forward", 6, 0)) == 10 + 100 + 3


def test_time_from_beginning_to_end() -> None:
    jobs = Jobs(shipped("smoke"), CPU)
    total, longest = sum(job.seconds for job in jobs.all), sum(row.longest for row in jobs.rows())
    assert jobs.wall_seconds(1) == pytest.approx(total)
    assert longest > jobs.wall_seconds(1000) >= max(row.longest for row in jobs.rows())
    assert total > jobs.wall_seconds(2) > jobs.wall_seconds(3)


def test_without_a_gpu_all_memory_is_the_nodes() -> None:
    config = shipped("paper")
    for here, there in zip(Jobs(config, CPU).rows(), Jobs(config, GPU).rows(), strict=True):
        assert (here.gpu, here.device) == (False, 0)
        assert here.memory == there.memory + there.device


def test_training_shuffles_what_the_estimate_says() -> None:
    from bsc.training import batches

    assert batches.WINDOW_BYTES == WINDOW_BYTES


def test_the_command_says_what_there_is_to_know(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["estimate", str(CONFIGS / "paper.yaml"), "--machine", "a100", "--jobs", "8"]) == 0
    said = capsys.readouterr().out
    assert "an estimate, not a measurement" in said
    assert f"total: {len(Jobs(shipped('paper'), GPU).all):,} jobs" in said
    assert "with 8 jobs at a time" in said
    assert "activations (train)" not in said
    assert "activations (interpretation) 96.6 GB" in said
    assert "tokens, train: 20,000,000,000 in 9,765,625 contexts of 2,048" in said


def test_shards_that_are_too_large_to_shuffle_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changed(tmp_path, "paper", activations__shard_tokens=268_435_456)
    assert main(["estimate", str(tmp_path / "config.yaml")]) == 0
    assert "`activations.shard_tokens` of 1,864,135 or less" in capsys.readouterr().out
    changed(tmp_path, "paper", activations__shard_tokens=1_048_576)
    assert main(["estimate", str(tmp_path / "config.yaml")]) == 0
    assert "look out" not in capsys.readouterr().out


def test_rates_that_were_measured_are_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rates = {"bfloat16": 2e12, "float32": 1e12, "forward": 3e12, "memory": 4e11}
    facts = {"cpu": "2 x CPU", "gpu": "A Card", "date": "2026-11-28", "rates": rates, "jobs": 64, "gpu_bytes": 48 << 30}
    (tmp_path / "rates.json").write_text(json.dumps({"card": facts, "h100": facts}))
    for name in ("card", "h100"):
        assert main(["estimate", str(CONFIGS / "smoke.yaml"), "--machine", name, "--rates", str(tmp_path / "rates.json")]) == 0
        said = capsys.readouterr().out
        assert f"on {name}: from rates measured on A Card on 2026-11-28" in said
        assert "a GPU of 52 GB trains" in said
    found = find_machine("card", tmp_path / "rates.json")
    assert found.seconds(Phase("forward", 6e12, 0), Phase("float32", 0, 8e11)) == pytest.approx(4)


def test_what_this_repository_measured_can_be_estimated_from() -> None:
    path = ROOT / "benchmarks" / "results" / "rates.json"
    for name in json.loads(path.read_text()):
        assert Jobs(shipped("smoke"), find_machine(name, path)).wall_seconds(1) > 0


def test_a_machine_without_rates_is_refused_and_says_how_to_measure_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["estimate", str(CONFIGS / "smoke.yaml"), "--machine", "b200"]) == 1
    said = capsys.readouterr().err
    assert "no rates of `b200` are known" in said
    assert "python benchmarks/rates.py b200" in said


@pytest.mark.parametrize("text", ["no JSON", '{"h100": 3}', '{"h100": {}}'])
def test_rates_that_are_no_rates_are_refused(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "rates.json").write_text(text)
    assert main(["estimate", str(CONFIGS / "smoke.yaml"), "--rates", str(tmp_path / "rates.json")]) == 1
    assert "rates.json" in capsys.readouterr().err


def test_no_jobs_at_a_time_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["estimate", str(CONFIGS / "smoke.yaml"), "--jobs", "0"]) == 1
    assert "from 1 on" in capsys.readouterr().err


def test_an_estimate_needs_no_torch() -> None:
    code = "import sys; from bsc.cli import main; main(['estimate', 'config/paper.yaml']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.DEVNULL).returncode == 0


def test_a_gpu_holds_as_large_a_cohort_as_is_said_and_no_larger(tmp_path: Path) -> None:
    small = replace(GPU, device=50e9)
    most = Jobs(shipped("paper"), small).most_together()
    for cohort, fits in ((most, True), (most + 1, False)):
        jobs = Jobs(changed(tmp_path, "paper", cohort=cohort), small)
        (row,) = (row for row in jobs.rows() if row.rule == "cohort")
        assert (row.device <= small.device) == fits


def test_jobs_that_no_gpu_holds_are_named(tmp_path: Path) -> None:
    changed(tmp_path, "paper", cohort=36, training__expansion=512)
    said = report([tmp_path / "config.yaml"], GPU)
    assert "look out: `cohort` needs" in said
    assert "a GPU of 80 GB trains 0 of these coders at a time" in said


def test_prompts_of_language_models_are_told(tmp_path: Path) -> None:
    """Of 5 coders 10 latents each: an explanation, and by two scorers 10 firing and 10 silent windows, five to a prompt."""
    llms = {"one": {"model": "m", "endpoint": "http://127.0.0.1:1/v1", "prices": {"input": 1, "output": 2}}}
    changed(tmp_path, "smoke", llms=llms, autointerp__llms=["one"], autointerp__windows_a_prompt=5, autointerp__controls=[])
    said = report([tmp_path / "config.yaml"], CPU)
    assert f"one: {5 * 10 * (1 + 2 * 4):,} prompts, 0 of them answered" in said
    assert "the time that language models take is not in here" in said
    assert "prompts" not in report([CONFIGS / "smoke.yaml"], CPU)
