"""Activations made when they are asked for: the language model runs in the training job, and nothing is stored.

The result looks like a store. Its shards are computed as `bsc activations` computes them (the same contexts, in the same
batches, in the same precision), so they hold the same bits, and a coder cannot tell; several ranks compute a shard together, a
batch each in turn. The last shards stay in memory, as bf16,
as many as training shuffles together; that buffer is a function of the seed and the step, so no checkpoint has to hold it.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
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

    @property
    def input(self) -> BFloat16[Tensor, "rows d"]:
        """What goes into the hooked module."""
        return self.source.shard(self.first_row, self.rows)[0]

    @property
    def output(self) -> BFloat16[Tensor, "rows d"]:
        """What comes out of the hooked module."""
        return self.source.shard(self.first_row, self.rows)[1]


class Forward:
    """The language model up to a hookpoint, and the last shards that it made: at most `kept_rows` rows, or one shard.

    between: called between two forward passes, so that whoever waits for a shard can say stop (by raising).
    """

    def __init__(
        self, spec: RecipeSpec, model: Path, tokens: Path, kept_rows: int, between: Callable[[], None], ranks: Ranks = ALONE
    ) -> None:
        self._spec, self._kept_rows, self._between, self._ranks = spec, kept_rows, between, ranks
        self._contexts: Int32[Tensor, "contexts length"] = read_tokens(tokens, spec.split).tokens
        if len(self._contexts) < spec.contexts:
            raise UserError(
                f"{spec.contexts} contexts are asked for and the split has {len(self._contexts)}",
                where=f"{tokens}, split {spec.split}",
                fix="make the tokens again with the config that asks for them",
            )
        dtype = resolve_dtype(spec.dtype, device())
        self._model = load_model(model, dtype, layers=1 + layer(spec.hookpoint), head=False)
        self.context, self.width = self._contexts.shape[1], int(self._model.config.hidden_size)
        self._kept: OrderedDict[int, Pair] = OrderedDict()

    def shard(self, first_row: int, rows: int) -> Pair:
        """Input and output of these rows, from the buffer or computed."""
        if first_row not in self._kept:
            self._make_room(rows)
            self._kept[first_row] = self._compute(first_row // self.context, rows // self.context)
        return self._kept[first_row]

    def _make_room(self, rows: int) -> None:
        """Drop the shards that were made first."""
        while self._kept and sum(len(x) for x, _ in self._kept.values()) + rows > self._kept_rows:
            self._kept.popitem(last=False)

    @torch.inference_mode()
    def _compute(self, first: int, count: int) -> Pair:
        contexts = self._contexts[first : first + count]
        pair = (self._empty(contexts.numel()), self._empty(contexts.numel()))
        pieces = range(0, count, self._spec.batch_contexts)
        with capture(self._model, [self._spec.hookpoint]) as captured:
            for piece, start in enumerate(pieces):
                if not self._ranks.makes(piece):
                    continue
                self._between()
                batch = contexts[start : start + self._spec.batch_contexts].long().to(device())
                self._model(input_ids=batch, use_cache=False)
                for kept, made in zip(pair, captured[self._spec.hookpoint], strict=True):
                    self._rows_of(kept, start).copy_(made.flatten(0, 1))
        for piece, start in enumerate(pieces):
            for kept in pair:
                self._ranks.hand_round(piece, self._rows_of(kept, start))
        return pair

    def _rows_of(self, shard: BFloat16[Tensor, "rows d"], start: int) -> BFloat16[Tensor, "some d"]:
        """Those of the batch of contexts that begins with number `start` of the shard."""
        return shard[start * self.context : (start + self._spec.batch_contexts) * self.context]

    def _empty(self, rows: int) -> BFloat16[Tensor, "rows d"]:
        return torch.empty(rows, self.width, dtype=torch.bfloat16)


def open_activations(index: Path, *, kept_bytes: int, between: Callable[[], None], ranks: Ranks = ALONE) -> ActivationStore:
    """The store that an index stands for: of files where it lists shards, computed where it is a recipe.

    kept_bytes: of the buffer of computed shards. ranks: that compute them together. Raises as `ActivationStore.open` does, and
    where model or tokens do not fit.
    """
    recipe = read_recipe(index)
    if recipe is None:
        return ActivationStore.open(index)
    spec, folders = recipe
    width = spec.width
    source = Forward(spec, folders["model"], folders["tokens"], kept_bytes // (2 * 2 * width), between, ranks)
    rows, context = spec.contexts * source.context, source.context
    held = spec.shard_contexts * context
    shards = tuple(ComputedShard(index, first, min(held, rows - first), source=source) for first in range(0, rows, held))
    return ActivationStore(spec.hookpoint, rows, source.width, context, shards)
