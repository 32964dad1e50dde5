"""The processes of one training job: torchrun starts one a GPU, and they share its work. Most jobs are one process.

The language model's forward passes are divided among the ranks, a batch of contexts each in turn, and what comes out of the
hooked module is handed round through the host's memory, bit for bit: every rank sees the batches that a process alone sees.
Then, as the config says, each rank trains `coders` of its own, which come out as they would alone; or every rank has all
coders and takes a part of each of the `batches`, and gradients are added up, which is the same but for the order of the sum
(and, for binarisers that sample, for what is drawn). Ranks take their steps together, and stop together.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed

from bsc.device import enter_device, place
from bsc.errors import UserError
from bsc.shares import Item, Parallel, shares


class Ranks:
    """This process among those of its job. replicas: ranks that share each batch, 1 where they share the coders."""

    def __init__(self, rank: int = 0, size: int = 1, parallel: Parallel = "coders") -> None:
        self.rank, self.size = rank, size
        self.replicas = size if parallel == "batches" else 1
        self._parent = os.getppid()
        self._exchange: Any = distributed.new_group(backend="gloo") if size > 1 else None

    @property
    def writes(self) -> bool:
        """Whether this rank writes the state of the coders that it has: those of replicas are the first one's to write."""
        return self.replicas == 1 or self.rank == 0

    @property
    def orphaned(self) -> bool:
        """Whether torchrun, which started this rank in a session of its own, is gone: killed, and not asked to end."""
        return self.size > 1 and os.getppid() != self._parent

    def own(self, coders: Sequence[Item]) -> list[Item]:
        """Those of a job's coders that this rank trains."""
        return list(coders) if self.replicas > 1 else shares(coders, self.size)[self.rank]

    def any(self, *facts: bool) -> list[bool]:
        """Of each fact, whether it is so at any rank. Waits for all ranks."""
        if self.size == 1:
            return list(facts)
        counted = torch.tensor(facts, dtype=torch.int64)
        distributed.all_reduce(counted, distributed.ReduceOp.MAX)
        return [bool(fact) for fact in counted]

    def least(self, number: int) -> int:
        """The least of all ranks' numbers. Waits for all ranks."""
        if self.size == 1:
            return number
        least = torch.tensor(number)
        distributed.all_reduce(least, distributed.ReduceOp.MIN)
        return int(least)

    def makes(self, piece: int) -> bool:
        """Whether piece number `piece` of what all need is this rank's to make."""
        return piece % self.size == self.rank

    def hand_round(self, piece: int, made: Tensor) -> None:
        """Give what the rank that `makes` this piece has in `made`, on the CPU, to all others. All call it, in one order."""
        if self.size > 1:
            distributed.broadcast(made.view(torch.uint8), piece % self.size, group=self._exchange)

    def part(self, rows: Tensor) -> Tensor:
        """The rows of a batch that this rank computes on; every replica has equally many."""
        held = len(rows) // self.replicas
        return rows[self.rank * held : (self.rank + 1) * held] if self.replicas > 1 else rows

    def from_first_(self, *tensors: Tensor) -> None:
        """Give all replicas the first one's tensors, in place."""
        if self.replicas > 1:
            for tensor in tensors:
                distributed.broadcast(tensor, 0)

    def sum_(self, *tensors: Tensor) -> None:
        """Add up the replicas' tensors, in place."""
        if self.replicas > 1:
            for tensor in tensors:
                distributed.all_reduce(tensor)

    def largest_(self, tensor: Tensor) -> None:
        """The largest of the replicas' numbers at each place, in place."""
        if self.replicas > 1:
            distributed.all_reduce(tensor, distributed.ReduceOp.MAX)


ALONE = Ranks()
"""A process that trains by itself."""


@contextmanager
def joined(parallel: Parallel = "coders") -> Iterator[Ranks]:
    """The ranks of this job: those of the environment that torchrun sets, else this process alone.

    On a machine with GPUs, the rank's own becomes the current one. Raises UserError when there are fewer GPUs than ranks.
    """
    here = place()
    if here.size == 1:
        yield ALONE
        return
    if torch.cuda.is_available() and here.here >= (found := torch.cuda.device_count()):
        raise UserError(f"{here.size} ranks and {found} GPUs on this node", where="torchrun", fix="set `gpus` to those it has")
    enter_device()
    distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    yield Ranks(here.rank, here.size, parallel)
    distributed.destroy_process_group()
