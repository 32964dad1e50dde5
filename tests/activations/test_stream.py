"""Activations that are made as they are read have the bits of those that are stored, and so have the coders."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import specs
import torch
from killing import train_and_kill

from bsc.activations.extract import extract
from bsc.activations.index import write_index
from bsc.activations.recipe import write_recipe
from bsc.activations.store import ActivationStore
from bsc.activations.stream import Forward, open_activations
from bsc.errors import CorruptFile, UserError
from bsc.stages import ActivationsSpec, CoderSpec, CohortSpec, RecipeSpec
from bsc.training import batches, loop
from bsc.training.cohort import train_cohort
from bsc.training.train import train
from bsc.training.trainer import Trainer

CONTEXTS, CONTEXT, SHARD, WIDTH = 20, 16, 6, 32
HOOKPOINT = "layers.1.mlp"
ROW_BYTES = 2 * 2 * WIDTH


def recipe_spec(**changes: object) -> RecipeSpec:
    plain = {
        "split": "train",
        "hookpoint": HOOKPOINT,
        "width": WIDTH,
        "contexts": CONTEXTS,
        "shard_contexts": SHARD,
        "batch_contexts": 4,
        "dtype": "float32",
    }
    return RecipeSpec.model_validate(plain | changes)


@pytest.fixture
def recipe(tiny_model: Path, tiny_tokens: Path, tmp_path: Path) -> Path:
    path = tmp_path / "recipe.json"
    write_recipe(recipe_spec(), tiny_model, tiny_tokens, path)
    return path


@pytest.fixture
def stored(tiny_model: Path, tiny_tokens: Path, tmp_path: Path) -> Path:
    """The same activations in shards, extracted with another hookpoint, as a model with several has them."""
    for number, first in enumerate(range(0, CONTEXTS, SHARD)):
        spec = ActivationsSpec(
            split="train",
            first=first,
            contexts=min(SHARD, CONTEXTS - first),
            hookpoints=[HOOKPOINT, "layers.2.mlp"],
            batch_contexts=4,
            dtype="float32",
        )
        extract(spec, tiny_model, tiny_tokens, tmp_path / f"shard{number}")
    index = tmp_path / "stored.json"
    write_index([tmp_path / f"shard{number}" / f"{HOOKPOINT}.safetensors" for number in range(4)], CONTEXT, index)
    return index


def coder_spec(**changes: Any) -> CoderSpec:
    return specs.coder_spec(**{"width": WIDTH, "binariser": "binary-topk", "tokens": 15 * 64, "batch_tokens": 64} | changes)


def opened(index: Path, kept_rows: int = 10**6, between: Callable[[], None] = lambda: None) -> ActivationStore:
    return open_activations([index], kept_bytes=kept_rows * ROW_BYTES, between=between)[index]


def test_shards_are_those_that_are_stored(recipe: Path, stored: Path) -> None:
    made, read = opened(recipe), opened(stored)
    assert (made.hookpoint, made.rows, made.width, made.context) == (read.hookpoint, read.rows, read.width, read.context)
    for computed, mapped in zip(made.shards, read.shards, strict=True):
        assert (computed.first_row, computed.rows) == (mapped.first_row, mapped.rows)
        assert torch.equal(computed.input, mapped.input)
        assert torch.equal(computed.output, mapped.output)


@pytest.mark.parametrize("window_rows", [10**6, 2 * SHARD * CONTEXT, SHARD * CONTEXT])
@pytest.mark.parametrize("architecture", ["sae", "skip-transcoder"])
def test_coders_are_bit_for_bit_the_same(
    architecture: str, window_rows: int, recipe: Path, stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the buffer holds a part of the activations only, and with batches that lie across its turns."""
    monkeypatch.setattr(batches, "WINDOW_BYTES", window_rows * ROW_BYTES)
    monkeypatch.setattr(loop, "WINDOW_BYTES", window_rows * ROW_BYTES)
    spec = coder_spec(architecture=architecture)
    train(spec, recipe, tmp_path / "streamed")
    train(spec, stored, tmp_path / "stored")
    made, read = ((tmp_path / name / "coder.safetensors").read_bytes() for name in ("streamed", "stored"))
    assert made == read


@pytest.mark.parametrize("order", [("stored", "recipe"), ("recipe", "stored")])
def test_a_run_goes_on_with_activations_that_come_the_other_way(
    order: tuple[str, str], recipe: Path, stored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As when `activations.mode` is changed in mid-grid: the digest of the coder's plan is the same."""
    first, second = ({"stored": stored, "recipe": recipe}[name] for name in order)
    spec, advance = coder_spec(), Trainer.advance

    def lose(trainer: Trainer, batch: batches.Batch) -> None:
        advance(trainer, batch)
        if trainer.step == 7:
            raise OSError("the node went away")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "advance", lose)
        with pytest.raises(OSError, match="went away"):
            train(spec, first, tmp_path / "changed", digest="plan", checkpoint_seconds=0)
    train(spec, second, tmp_path / "changed", digest="plan")
    assert "going on from the checkpoint after step 6" in capsys.readouterr().err
    train(spec, second, tmp_path / "whole")
    made, whole = ((tmp_path / name / "coder.safetensors").read_bytes() for name in ("changed", "whole"))
    assert made == whole


@pytest.mark.slow
def test_kill_9_and_again(recipe: Path, tmp_path: Path) -> None:
    spec, output = coder_spec(tokens=500 * 64), tmp_path / "killed"
    train_and_kill(spec, recipe, output)
    train(spec, recipe, output)
    train(spec, recipe, tmp_path / "whole")
    assert (output / "coder.safetensors").read_bytes() == (tmp_path / "whole" / "coder.safetensors").read_bytes()


def test_the_buffer_is_bounded_and_nothing_is_computed_twice_a_window(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[int] = []
    largest = 0
    compute = Forward._compute

    def watch(forward: Forward, first: int, count: int) -> object:
        nonlocal largest
        computed.append(first)
        largest = max(largest, sum(len(made[HOOKPOINT][0]) for made in forward._kept.values()) + count * CONTEXT)
        return compute(forward, first, count)

    monkeypatch.setattr(Forward, "_compute", watch)
    window_rows = 2 * SHARD * CONTEXT
    read = batches.Batches(opened(recipe, window_rows), 37, 3, "input", torch.device("cpu"), window_rows=window_rows)
    epochs = 3
    for step in range(epochs * CONTEXTS * (CONTEXT - 1) // 37):
        read.at(step)
    assert largest <= window_rows
    assert len(computed) <= epochs * 4, "each shard once an epoch"
    assert set(computed) == {0, SHARD, 2 * SHARD, 3 * SHARD}


def test_coders_of_several_hookpoints_share_the_passes_and_come_out_as_alone(
    tiny_model: Path, tiny_tokens: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a buffer of two shards, so that batches lie across its turns: no shard is made twice for that."""
    for module in (batches, loop):
        monkeypatch.setattr(module, "WINDOW_BYTES", 2 * SHARD * CONTEXT * ROW_BYTES)
    indices = {hookpoint: tmp_path / f"{hookpoint}.json" for hookpoint in ("layers.0.mlp", "layers.2.mlp")}
    for hookpoint, index in indices.items():
        write_recipe(recipe_spec(hookpoint=hookpoint), tiny_model, tiny_tokens, index)
    members = [
        {"spec": coder_spec(architecture=architecture), "hookpoint": hookpoint, "folder": f"{hookpoint}/{architecture}"}
        for hookpoint, architecture in zip([*indices, *indices], ["sae", "sae", "transcoder", "skip-transcoder"], strict=True)
    ]
    computed: list[int] = []
    compute = Forward._compute
    monkeypatch.setattr(Forward, "_compute", lambda self, first, count: computed.append(first) or compute(self, first, count))
    cohort = CohortSpec.model_validate({"members": [{**member, "digest": "made"} for member in members]})
    train_cohort(cohort, list(indices.values()), tmp_path / "coders", tmp_path / "cohort.json")
    epochs = -(-15 * 64 // (CONTEXTS * (CONTEXT - 1)))
    assert len(computed) <= 4 * epochs + 4, "each shard once an epoch, and those of the first batch, which is read twice"
    for member in cohort.members:
        for run in ("coders", "alone"):
            train(member.spec, indices[member.hookpoint], tmp_path / run / member.folder)
        made, alone = (tmp_path / run / member.folder / "coder.safetensors" for run in ("coders", "alone"))
        assert made.read_bytes() == alone.read_bytes()


def test_hookpoints_that_are_not_made_alike_are_refused(
    recipe: Path, tiny_model: Path, tiny_tokens: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.json"
    write_recipe(recipe_spec(hookpoint="layers.0.mlp", batch_contexts=2), tiny_model, tiny_tokens, other)
    with pytest.raises(UserError, match="in another way than"):
        open_activations([recipe, other], kept_bytes=1, between=lambda: None)


@pytest.mark.parametrize("passes", [1, 3, 9])
def test_told_to_stop_while_it_waits_for_activations(passes: int, recipe: Path, tmp_path: Path) -> None:
    """The signal comes in a forward pass: the first ever, or one in mid-training; the run goes on with the same bits."""
    spec, seen = coder_spec(), 0
    compute_between = loop.Interruption.check

    def tell(interruption: loop.Interruption) -> None:
        nonlocal seen
        seen += 1
        if seen == passes:
            os.kill(os.getpid(), signal.SIGTERM)
        compute_between(interruption)

    with pytest.MonkeyPatch.context() as patch:
        for module in (batches, loop):
            patch.setattr(module, "WINDOW_BYTES", SHARD * CONTEXT * ROW_BYTES)
        patch.setattr(loop.Interruption, "check", tell)
        with pytest.raises(SystemExit) as stopped:
            train(spec, recipe, tmp_path / "stopped")
        assert stopped.value.code == 75
        assert not (tmp_path / "stopped" / "coder.safetensors").exists()
        patch.setattr(loop.Interruption, "check", compute_between)
        train(spec, recipe, tmp_path / "stopped")
        train(spec, recipe, tmp_path / "whole")
    assert (tmp_path / "stopped" / "coder.safetensors").read_bytes() == (tmp_path / "whole" / "coder.safetensors").read_bytes()


def test_other_tokens_than_the_recipes_are_refused(recipe: Path) -> None:
    facts = json.loads(recipe.read_text())
    recipe.write_text(json.dumps(facts | {"tokens": facts["tokens"] | {"manifest": "0" * 64}}))
    with pytest.raises(CorruptFile, match=r"the tokens in .* changed"):
        opened(recipe)


def test_more_contexts_than_there_are(tiny_model: Path, tiny_tokens: Path, tmp_path: Path) -> None:
    write_recipe(recipe_spec(contexts=25), tiny_model, tiny_tokens, tmp_path / "recipe.json")
    with pytest.raises(UserError, match="25 contexts are asked for and the split has 24"):
        opened(tmp_path / "recipe.json")
