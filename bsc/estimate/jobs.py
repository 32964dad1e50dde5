"""The jobs of a config, rule by rule, and what each costs on a machine."""

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import cast

from bsc.activations.disk import (
    BFLOAT16,
    FLOAT32,
    INT32,
    INT64,
    VOCABULARY,
    is_streamed,
    stored_splits,
    window_bytes,
)
from bsc.config import Config, Model
from bsc.estimate.machines import ANSWERED, EXPLAINED, PACKED, READ, SORTED, START, START_WITH_TORCH, TOKENISED, Machine, Phase
from bsc.estimate.work import decode, encode, forward, held_memory, model_parameters, parameters, step, step_memory
from bsc.figures.registry import FIGURES
from bsc.paths import CoderId, layer
from bsc.shares import shares
from bsc.stages import EMBEDDING, AblationSpec, CoderSpec, Plan, ReferencesSpec, RuntimeSpec

FLOAT64 = 8
PROGRAM = 600_000_000
"""Bytes of a job before it holds anything (measured: Python with torch and transformers)."""
EMBEDDER, EMBEDDED = 10_600_000, 384
"""Weights in the layers of a MiniLM with six, and the width of its embeddings."""
CHUNK_TOKENS = 256
"""Tokens whose logits are there at a time in finetuning (`bsc.finetuning.divergence`)."""
KEPT_WIDTHS, HEAD_WIDTH = 13, 64
"""Float32 numbers that a layer keeps of each token for the gradient, in widths (measured, SmolLM2-135M's shapes); of a head."""
WAVES = (
    ("model", "embedder"),
    ("tokens", "labelled"),
    ("activations", "embed"),
    ("index", "recipe", "baseline"),
    ("trial",),
    ("choose", "runtime"),
    ("cohort", "references"),
    ("train",),
    ("finetune",),
    ("evaluate", "latents"),
    ("explain",),
    ("score", "probe"),
    ("ablation",),
    ("figure",),
    ("gallery",),
)
"""Rules whose jobs run beside each other; each wave is taken to wait for the one before."""
ON_GPU = frozenset(
    {
        "activations",
        "embed",
        "baseline",
        "references",
        "runtime",
        "trial",
        "cohort",
        "train",
        "finetune",
        "evaluate",
        "latents",
        "ablation",
        "labelled",
        "probe",
    }
)
WITHOUT_TORCH = frozenset({"embedder", "index", "recipe", "choose", "explain", "score", "figure", "gallery"})


@dataclass(frozen=True)
class Job:
    """seconds: from its start to its end. memory: bytes in the node's memory. device: bytes in a GPU's."""

    rule: str
    seconds: float
    memory: int
    device: int = 0


@dataclass(frozen=True)
class Row:
    """A rule: how many jobs, seconds of all (of each of their GPUs) and of the longest, bytes of the largest."""

    rule: str
    gpu: bool
    jobs: int
    seconds: float
    longest: float
    memory: int
    device: int


class Jobs:
    """Every job that the default target of a config runs, when nothing is there yet."""

    def __init__(self, config: Config, machine: Machine) -> None:
        self.config, self.machine, self.plan = config, machine, Plan(config)
        self.streamed, self.in_cohorts = is_streamed(config), config.in_cohorts
        self._models = sorted({coder.model for coder in config.coder_ids})
        self._hookpoints = sorted({(coder.model, coder.hookpoint) for coder in config.coder_ids})

    @cached_property
    def all(self) -> list[Job]:
        """In the order in which they can run."""
        stages: tuple[Callable[[], Iterator[Job]], ...] = (
            self._once_a_model,
            self._embedded,
            self._stored,
            self._references,
            self._sweeps,
            self._coders,
        )
        drawn = (self._job("figure", 0, 0) for name in FIGURES if self.plan.figure_coders(name))
        asked = [*self._ablations(), *self._probes(), *self._runtimes()]
        return [*(job for stage in stages for job in stage()), *asked, *drawn, self._job("gallery", 0, 0)]

    def rows(self) -> list[Row]:
        """One for each rule, in the order of the waves."""
        return [self._row(rule) for wave in WAVES for rule in wave if any(job.rule == rule for job in self.all)]

    def wall_seconds(self, at_once: int) -> float:
        """From beginning to end with so many jobs at a time: wave after wave, in each the longest jobs first."""
        return sum(_packed([job.seconds for job in self.all if job.rule in wave], at_once) for wave in WAVES)

    def _row(self, rule: str) -> Row:
        jobs = [job for job in self.all if job.rule == rule]
        seconds = [job.seconds for job in jobs]
        memory, device = max(job.memory for job in jobs), max(job.device for job in jobs)
        busy = sum(seconds) * (self.config.gpus if rule == "cohort" else 1)
        return Row(rule, self.machine.gpu and rule in ON_GPU, len(jobs), busy, max(seconds), memory, device)

    def _job(self, rule: str, seconds: float, memory: int, device: int = 0) -> Job:
        """A job; without a GPU, what it would have there is in the node's memory."""
        held = device if self.machine.gpu else 0
        start = START if rule in WITHOUT_TORCH else START_WITH_TORCH
        return Job(rule, start + seconds, PROGRAM + memory + device - held, held)

    def _once_a_model(self) -> Iterator[Job]:
        for name in self._models:
            model = self.config.models[name]
            size = FLOAT32 * model_parameters(model)
            yield self._job("model", size / READ, size)
            tokens = sum(split.tokens for _, split in self.config.corpus.splits)
            rate = TOKENISED if self.config.corpus.ids_column is None else PACKED
            yield self._job("tokens", tokens / rate + tokens * 2 * INT32 / READ, 0)
            yield self._job("baseline", self._evaluated(model), 0, self._model_memory(model))

    def _embedded(self) -> Iterator[Job]:
        """The sentence-embedding model, taken to be a MiniLM of six layers, and the windows of half the text."""
        if not self.plan.embeds:
            return
        yield self._job("embedder", FLOAT32 * EMBEDDER / READ, 0)
        vectors = self.plan.rows("interpretation") // 2 // self.config.autointerp.window * EMBEDDED
        for _ in self._models:
            product = Phase("float32", 2 * EMBEDDER * self.plan.rows("interpretation") // 2, 0)
            yield self._job("embed", self.machine.seconds(product), 2 * FLOAT32 * vectors, FLOAT32 * EMBEDDER)

    def _stored(self) -> Iterator[Job]:
        """Extraction and indices, or recipes."""
        for name in self._models:
            model = self.config.models[name]
            for split in stored_splits(self.config):
                held, contexts = self.config.activations.shard_tokens // self.plan.context(split), self.plan.contexts(split)
                for first in range(0, contexts, held):
                    yield self._shard(model, split, min(held, contexts - first))
        for name, _ in self._hookpoints:
            for split in stored_splits(self.config):
                yield self._job("index", self._store_bytes(name, split) / READ, 0)
            if self.streamed:
                yield self._job("recipe", 0, 0)

    def _shard(self, model: Model, split: str, contexts: int) -> Job:
        context = self.plan.context(split)
        layers = 1 + max(map(layer, model.hookpoints))
        written = contexts * context * len(model.hookpoints) * 2 * BFLOAT16 * model.width
        seconds = self.machine.seconds(*forward(model, layers, contexts * context, context, head=False)) + written / READ
        batch = self.config.activations.batch_contexts * context * model.width * FLOAT32 * 16
        return self._job("activations", seconds, 0, BFLOAT16 * model_parameters(model) + batch)

    def _references(self) -> Iterator[Job]:
        """Three evaluations a site, and two passes up to the last hookpoint: for means, and for the sums of linear maps."""
        joint = {coder.model for coder in self.plan.joint_coders}
        for name in self._models:
            model, spec = self.config.models[name], cast(ReferencesSpec, self.plan.references(name).spec)
            hooked = spec.evaluation.hookpoints
            fitted = spec.fitted_contexts * self.plan.context("train")
            passes = (("evaluation", self.config.evaluation.sequences * self.plan.context("evaluation")), ("train", fitted))
            layers = 1 + max(map(layer, hooked))
            read = [
                phase
                for split, tokens in passes
                for phase in forward(model, layers, tokens, self.plan.context(split), head=False)
            ]
            summed = Phase("float32", len(hooked) * fitted * 4 * model.width**2, 0)
            seconds = 3 * (len(hooked) + (name in joint)) * self._evaluated(model) + self.machine.seconds(*read, summed)
            sums = len(hooked) * 2 * FLOAT64 * model.width**2
            yield self._job("references", seconds, 0, self._model_memory(model) + sums)

    def _sweeps(self) -> Iterator[Job]:
        for coder in self.plan.sweeps:
            yield self._job("choose", 0, 0)
            for rate in self.plan.rates:
                yield self._trial(coder, cast(CoderSpec, self.plan.trial(coder, rate).spec))

    def _trial(self, coder: CoderId, spec: CoderSpec) -> Job:
        """A training, and its coder applied to the held-out rows."""
        trained, rows = self._together("trial", [coder], [spec]), self.plan.rows("interpretation")
        judged = self.machine.seconds(*self._applied(spec, rows)) + self._store_bytes(coder.model, "interpretation") / READ
        return replace(trained, seconds=trained.seconds + judged)

    def _coders(self) -> Iterator[Job]:
        yield from self._trained()
        for coder in [*self.config.coder_ids, *self.plan.joint_coders]:
            yield self._evaluate(coder)
        for coder in self.config.coder_ids:
            for _ in self.plan.variants(coder):
                yield from self._interpret(coder, self.spec(coder))

    def spec(self, coder: CoderId) -> CoderSpec:
        """What `bsc train` is told of a coder."""
        return cast(CoderSpec, self.plan.coder(coder).spec)

    def _trained(self) -> Iterator[Job]:
        """Training: a job a coder, or a job a cohort and then one a coder, which reads a checkpoint and writes the coder."""
        for coder in self.config.coder_ids:
            if coder.binariser in self.config.finetunes:
                yield self._finetuned(coder)
        if not self.in_cohorts:
            for coder in self.plan.trained_coders:
                yield self._together("train", [coder], [self.spec(coder)])
            return
        for coders in self.plan.cohorts.values():
            yield self._together("cohort", coders, [self.spec(coder) for coder in coders])
        for coder in self.plan.trained_coders:
            held = held_memory(self.spec(coder))
            yield self._job("train", 2 * held / READ, 0, held)

    def _finetuned(self, coder: CoderId) -> Job:
        """Steps of a coder, each with the model below the hook once, and above it and its head three times.

        Above, that is without the coder, with it, and back: of frozen layers, the gradient takes as many products as the
        forward pass. With other coders spliced in, what is below runs with and without them.
        """
        spec, model, context = self.spec(coder), self.config.models[coder.model], self.plan.context("train")
        others = [self.spec(other) for other in self.config.others(coder)]
        steps, hooked, batch = spec.tokens // spec.batch_tokens, layer(coder.hookpoint) + 1, spec.batch_tokens
        below = forward(model, hooked * (2 if others else 1), batch, context, head=False)
        above = forward(model, 3 * (model.layers - hooked), batch, context, head=False)
        heads = 3 * forward(model, 0, batch, context, head=True)
        applied = [phase for other in others for phase in self._applied(other, batch)]
        seconds = steps * self.machine.seconds(*below, *above, *heads, *applied, *step(spec, gpu=self.machine.gpu))
        attended = 2 * context * model.width // HEAD_WIDTH if self.machine.gpu else 0  # unfused there, to have the same bits
        kept = batch * (model.layers - hooked) * (KEPT_WIDTHS * model.width + attended) * FLOAT32
        coders = held_memory(spec) + step_memory(spec) + sum(FLOAT32 * parameters(other) for other in others)
        device = BFLOAT16 * model_parameters(model) + kept + coders + CHUNK_TOKENS * VOCABULARY * 6 * FLOAT32
        return self._job("finetune", seconds, 0, device)

    def _together(self, rule: str, coders: list[CoderId], specs: list[CoderSpec]) -> Job:
        """Steps of coders that read the same batches, and beside them their activations.

        Stored, every shard is checked first, and then read, unless the store stays in memory. Streamed, the model runs in turn
        with the steps. On several GPUs the forward passes are divided, and the coders or the batches.
        """
        ranks, hookpoints = self.config.gpus if rule == "cohort" else 1, len({coder.hookpoint for coder in coders})
        parts = ranks if self.config.parallel == "batches" else 1
        dealt = [specs] if parts > 1 else list(filter(None, shares(specs, ranks)))
        sides = 1 if all(spec.architecture == "sae" for spec in specs) else 2
        row = BFLOAT16 * specs[0].width
        rows = window_bytes(self.config, coders[0].model) // (2 * row)
        steps = specs[0].tokens // specs[0].batch_tokens
        drawn = rows if rows == self.plan.rows("train") else steps * specs[0].batch_tokens
        stepped = (
            self.machine.seconds(*(phase for spec in share for phase in step(spec, gpu=self.machine.gpu))) for share in dealt
        )
        computed = steps * max(stepped) / parts
        order = 5 * INT64 * rows  # two shuffled windows are kept, and making one takes three more
        devices = [sum(map(held_memory, share)) + max(map(step_memory, share)) // parts for share in dealt] * parts
        device, more = max(devices) if self.machine.gpu else sum(devices), (ranks - 1) * PROGRAM
        if self.streamed:
            made, model = self._forward(max(coders, key=lambda coder: layer(coder.hookpoint)), drawn)
            at_once = self.config.activations.batch_contexts * self.plan.context("train")
            pieces = -(-self.config.activations.shard_tokens // at_once)  # of a shard, made by each rank in turn
            held = ranks * (hookpoints * rows * 2 * row + order) + more
            model *= 1 if self.machine.gpu else ranks
            return self._job(rule, computed + made * -(-pieces // ranks) / pieces, held, device + model)
        read = 0 if rows == self.plan.rows("train") else hookpoints * drawn * sides * row
        checked = hookpoints * self._store_bytes(coders[0].model, "train")
        return self._job(
            rule, checked / READ + max(computed, read / READ), hookpoints * rows * sides * row + ranks * order + more, device
        )

    def most_together(self) -> int:
        """How many of the config's largest coders a GPU holds while it trains them, beside what makes their activations."""
        specs, there = [self.spec(coder) for coder in self.plan.trained_coders], self.machine.device
        if self.streamed:
            there -= max(self._forward(coder, 0)[1] for coder in self.plan.trained_coders)
        return max(0, int((there - max(map(step_memory, specs))) // max(map(held_memory, specs))))

    def _forward(self, coder: CoderId, tokens: int) -> tuple[float, int]:
        """Seconds that the model takes up to a coder's hookpoint, and its bytes."""
        model, context = self.config.models[coder.model], self.plan.context("train")
        seconds = self.machine.seconds(*forward(model, 1 + layer(coder.hookpoint), tokens, context, head=False))
        batch = self.config.activations.batch_contexts * context * model.width * FLOAT32 * 16
        return seconds, BFLOAT16 * model_parameters(model) + batch

    def _evaluate(self, coder: CoderId) -> Job:
        model = self.config.models[coder.model]
        members = [self.spec(member) for member in self.plan.members(coder)]
        tokens = self.config.evaluation.sequences * self.plan.context("evaluation")
        spliced = [phase for spec in members for phase in self._applied(spec, tokens)]
        seconds = self._evaluated(model) + self.machine.seconds(*spliced)
        batch = self.config.evaluation.batch_sequences * self.plan.context("evaluation")
        coders = sum(FLOAT32 * parameters(spec) for spec in members) + batch * members[0].latents * 2 * FLOAT32
        return self._job("evaluate", seconds, 0, self._model_memory(model) + coders)

    def _interpret(self, coder: CoderId, spec: CoderSpec) -> Iterator[Job]:
        """The latent cache of a variant, and its latents explained and scored: all of them, unless the config says how many."""
        autointerp, rows = self.config.autointerp, self.plan.rows("interpretation")
        firings = rows * spec.k
        cache = firings * (INT64 + FLOAT32)
        computed = self.machine.seconds(*encode(spec, rows, training=False))
        read = self._store_bytes(coder.model, "interpretation") + cache
        device = FLOAT32 * (parameters(spec) + 1024 * spec.latents)
        yield self._job("latents", computed + firings / SORTED + read / READ, 10 * firings, device)
        grid = 6 * INT64 * rows  # documents and halves of the tokens; the cache itself is mapped
        latents = min(autointerp.latents or spec.latents, spec.latents)
        windows = 2 * autointerp.explanation_windows
        yield self._job("explain", latents * windows * EXPLAINED + cache / READ, grid)
        asking = len(set(autointerp.scorers) - {EMBEDDING})
        asked = (autointerp.test_firing + autointerp.test_silent) * asking
        questions = asked * (2 if "shuffled" in autointerp.controls else 1)
        yield self._job("score", latents * questions * ANSWERED + cache / READ, grid)

    def _ablations(self) -> Iterator[Job]:
        """What is below the hook once, and what is above it once for each bin."""
        for coder in self.plan.figure_coders("fig18"):
            spec = cast(AblationSpec, self.plan.ablation(coder).spec)
            model, context, hooked = self.config.models[coder.model], self.plan.context("evaluation"), layer(coder.hookpoint)
            tokens = spec.evaluation.sequences * context
            below = [*forward(model, hooked + 1, tokens, context, head=False), *self._applied(self.spec(coder), tokens)]
            above = forward(model, model.layers - hooked - 1, (spec.bins + 1) * tokens, context, head=True)
            device = self._model_memory(model) + FLOAT32 * parameters(self.spec(coder))
            yield self._job("ablation", self.machine.seconds(*below, *above), 0, device)

    def _probes(self) -> Iterator[Job]:
        """The labelled documents of each model, and their latents; fitting takes next to nothing."""
        coders, probing = self.plan.figure_coders("fig21"), self.config.probing
        if probing is None:
            return
        tokens = probing.documents * probing.tokens
        for name in sorted({coder.model for coder in coders}):
            model = self.config.models[name]
            seconds = self.machine.seconds(
                *forward(model, 1 + max(map(layer, model.hookpoints)), tokens, probing.tokens, head=False)
            )
            stored = tokens * len(model.hookpoints) * 2 * BFLOAT16 * model.width
            yield self._job("labelled", seconds + stored / READ, stored, BFLOAT16 * model_parameters(model))
        for coder in coders:
            spec = self.spec(coder)
            pooled = probing.documents * 2 * (spec.latents + spec.width) * FLOAT32
            device = FLOAT32 * (parameters(spec) + probing.tokens * spec.latents)
            yield self._job("probe", self.machine.seconds(*encode(spec, tokens, training=False)), 2 * pooled, device)

    def _runtimes(self) -> Iterator[Job]:
        """Steps that are timed, and the first of each round; what cases have in common once."""
        for name in sorted({coder.model for coder in self.plan.figure_coders("runtime")}):
            spec = cast(RuntimeSpec, self.plan.runtime(name).spec)
            coders = spec.coders.values()
            seconds = sum(self.machine.seconds(*step(coder, gpu=self.machine.gpu)) for coder in coders)
            device = max(held_memory(coder) + step_memory(coder) for coder in coders)
            yield self._job("runtime", spec.rounds * (1 + spec.steps) * seconds, 0, device)

    def _applied(self, spec: CoderSpec, tokens: int) -> list[Phase]:
        return [*encode(spec, tokens, training=False), *decode(spec, tokens, gpu=self.machine.gpu)]

    def _evaluated(self, model: Model) -> float:
        """Seconds of one pass over the evaluated sequences."""
        context = self.plan.context("evaluation")
        tokens = self.config.evaluation.sequences * context
        return self.machine.seconds(*forward(model, model.layers, tokens, context, head=True))

    def _model_memory(self, model: Model) -> int:
        """A model in bfloat16, and the logits of a sequence."""
        return BFLOAT16 * model_parameters(model) + self.plan.context("evaluation") * VOCABULARY * 4 * FLOAT32

    def _store_bytes(self, name: str, split: str) -> int:
        """Inputs and outputs of one hookpoint."""
        return 2 * BFLOAT16 * self.plan.rows(split) * self.config.models[name].width


def _packed(seconds: list[float], at_once: int) -> float:
    """When the last of some jobs ends, if the longest go first to whichever place is free."""
    free = [0.0] * at_once
    for job in sorted(seconds, reverse=True):
        heapq.heappush(free, heapq.heappop(free) + job)
    return max(free)
