"""Activations made when they are asked for: the language model runs in the training job, and nothing is stored.

The result looks like a store. Its shards are computed as `bsc activations` computes them (the same contexts, in the same
batches, in the same precision), so they hold the same bits, and a coder cannot tell; several ranks compute a shard together, a
batch each in turn. The last shards stay in memory, as bf16, as many as training shuffles together; that buffer is a function of
the seed and the step, so no checkpoint has to hold it.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import torch
from jaxtyping import BFloat16, Int32
from torch import Tensor

from bsc.activations.recipe import read_recipe
from bsc.activations.store import ActivationStore, Shard
from bsc.corpus.store import read_tokens
from bsc.device import device, resolve_dtype
from bsc.errors import UserError
from bsc.models.hooks import capture
from bsc.models.load import load_model
from bsc.paths import layer
from bsc.ranks import ALONE, Ranks
from bsc.stages import RecipeSpec

Pair = tuple[BFloat16[Tensor, "rows d"], BFloat16[Tensor, "rows d"]]


@dataclass(frozen=True)
class ComputedShard(Shard):
    """A shard that is computed when it is read, and again when the buffer has dropped it."""

    source: "Forward" = field(kw_only=True)
    hookpoint: str = field(kw_only=True)

    @property
    def input(self) -> BFloat16[Tensor, "rows d"]:
        """What goes into the hooked module."""
        return self.source.shard(self.hookpoint, self.first_row, self.rows)[0]

    @property
    def output(self) -> BFloat16[Tensor, "rows d"]:
        """What comes out of the hooked module."""
        return self.source.shard(self.hookpoint, self.first_row, self.rows)[1]


class Forward:
    """The language model up to its last hookpoint, and the last shards that it made: at most `kept_rows` rows, or one shard.

    specs: alike but for their hookpoints, whose activations are made together. between: called between two forward passes, so
    that whoever waits for a shard can say stop (by raising). ranks: each makes a part of every shard.
    """

    def __init__(
        self,
        specs: Sequence[RecipeSpec],
        model: Path,
        tokens: Path,
        kept_rows: int,
        between: Callable[[], None],
        ranks: Ranks = ALONE,
    ) -> None:
        self._spec = spec = specs[0]
        self._hookpoints = [one.hookpoint for one in specs]
        self._kept_rows, self._between, self._ranks = kept_rows, between, ranks
        self._contexts: Int32[Tensor, "contexts length"] = read_tokens(tokens, spec.split).tokens
        if len(self._contexts) < spec.contexts:
            raise UserError(
                f"{spec.contexts} contexts are asked for and the split has {len(self._contexts)}",
                where=f"{tokens}, split {spec.split}",
                fix="make the tokens again with the config that asks for them",
            )
        dtype = resolve_dtype(spec.dtype, device())
        self._model = load_model(model, dtype, layers=1 + max(map(layer, self._hookpoints)), head=False)
        self.context, self.width = self._contexts.shape[1], int(self._model.config.hidden_size)
        self._kept: OrderedDict[int, dict[str, Pair]] = OrderedDict()

    def shard(self, hookpoint: str, first_row: int, rows: int) -> Pair:
        """Input and output of these rows at a hookpoint, from the buffer or computed."""
        if first_row not in self._kept:
            self._make_room(rows)
            self._kept[first_row] = self._compute(first_row // self.context, rows // self.context)
        return self._kept[first_row][hookpoint]

    def _make_room(self, rows: int) -> None:
        """Drop the shards that were made first."""
        while self._kept and sum(map(self._rows, self._kept.values())) + rows > self._kept_rows:
            self._kept.popitem(last=False)

    def _rows(self, made: dict[str, Pair]) -> int:
        return len(made[self._hookpoints[0]][0])

    @torch.inference_mode()
    def _compute(self, first: int, count: int) -> dict[str, Pair]:
        contexts = self._contexts[first : first + count]
        made = {name: (self._empty(contexts.numel()), self._empty(contexts.numel())) for name in self._hookpoints}
        pieces = range(0, count, self._spec.batch_contexts)
        with capture(self._model, self._hookpoints) as captured:
            for piece, start in enumerate(pieces):
                if not self._ranks.makes(piece):
                    continue
                self._between()
                batch = contexts[start : start + self._spec.batch_contexts].long().to(device())
                self._model(input_ids=batch, use_cache=False)
                for name, pair in made.items():
                    for kept, seen in zip(pair, captured[name], strict=True):
                        self._rows_of(kept, start).copy_(seen.flatten(0, 1))
        for piece, start in enumerate(pieces):
            for kept in chain.from_iterable(made.values()):
                self._ranks.hand_round(piece, self._rows_of(kept, start))
        return made

    def _rows_of(self, shard: BFloat16[Tensor, "rows d"], start: int) -> BFloat16[Tensor, "some d"]:
        """Those of the batch of contexts that begins with number `start` of the shard."""
        return shard[start * self.context : (start + self._spec.batch_contexts) * self.context]

    def _empty(self, rows: int) -> BFloat16[Tensor, "rows d"]:
        return torch.empty(rows, self.width, dtype=torch.bfloat16)


def open_activations(
    indices: Sequence[Path], *, kept_bytes: int, between: Callable[[], None], ranks: Ranks = ALONE
) -> dict[Path, ActivationStore]:
    """The stores that indices stand for: of files where they list shards, computed where they are recipes.

    Recipes are to be alike but for their hookpoints: one pass of the model makes the activations of all. kept_bytes: of the
    buffer of computed shards, for each hookpoint. ranks: that compute them together. Raises as `ActivationStore.open` does,
    where model or tokens do not fit, and UserError where recipes differ in more.
    """
    recipes = {index: found for index in indices if (found := read_recipe(index)) is not None}
    stores = {index: ActivationStore.open(index) for index in indices if index not in recipes}
    if recipes:
        _check_alike(recipes)
        spec, folders = next(iter(recipes.values()))
        kept_rows = kept_bytes // (2 * 2 * spec.width)
        source = Forward([one for one, _ in recipes.values()], folders["model"], folders["tokens"], kept_rows, between, ranks)
        stores |= {index: _computed(index, one, source) for index, (one, _) in recipes.items()}
    return stores


def _check_alike(recipes: dict[Path, tuple[RecipeSpec, dict[str, Path]]]) -> None:
    (one, first), *others = recipes.items()
    for index, other in others:
        if _shared(*other) != _shared(*first):
            what = f"it says to make activations in another way than {one}"
            raise UserError(what, where=str(index), fix="train on the two apart, or make both from one config")


def _shared(spec: RecipeSpec, folders: dict[str, Path]) -> tuple[object, ...]:
    return spec.model_dump(exclude={"hookpoint"}), {name: folder.resolve() for name, folder in folders.items()}


def _computed(index: Path, spec: RecipeSpec, source: Forward) -> ActivationStore:
    rows, held = spec.contexts * source.context, spec.shard_contexts * source.context
    shards = tuple(
        ComputedShard(index, first, min(held, rows - first), source=source, hookpoint=spec.hookpoint)
        for first in range(0, rows, held)
    )
    return ActivationStore(spec.hookpoint, rows, source.width, source.context, shards)
