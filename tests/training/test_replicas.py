"""What one of several ranks does by itself, with others that are not there."""

from collections.abc import Callable

import pytest
import torch

from bsc.device import place
from bsc.ranks import Ranks
from bsc.stages import CoderSpec
from bsc.training import loop
from bsc.training.batches import Batch
from bsc.training.interruption import Interruption
from bsc.training.trainer import Trainer

MakeSpec = Callable[..., CoderSpec]
CPU = torch.device("cpu")


class Pretended(Ranks):
    """A rank of two, whose other one has zeros to add, and says `others` of what is agreed on."""

    def __init__(self, rank: int, others: tuple[bool, ...] = ()) -> None:
        super().__init__()
        self.rank, self.replicas, self.others = rank, 2, others

    def any(self, *facts: bool) -> list[bool]:
        return [mine or other for mine, other in zip(facts, self.others, strict=True)]

    def sum_(self, *tensors: torch.Tensor) -> None: ...

    def largest_(self, tensor: torch.Tensor) -> None: ...

    def from_first_(self, *tensors: torch.Tensor) -> None: ...


@pytest.mark.parametrize("binariser", ["gumbel", "reinmax", "groupmax"])
def test_replicas_draw_noise_of_their_own(binariser: str, make_spec: MakeSpec) -> None:
    """Of a batch whose halves are the same rows, two ranks see the same; what they draw is all that differs."""
    half = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
    batch = Batch(torch.cat([half, half]), torch.cat([half, half]))
    weights = []
    for rank in (0, 1):
        trainer = Trainer(make_spec(binariser=binariser), batch, CPU, ranks=Pretended(rank))
        for _ in range(2):
            trainer.advance(batch)
        weights.append(trainer.coder.W_enc.detach())
    assert torch.equal(*weights) == (binariser == "groupmax")


def test_a_checkpoint_is_due_when_it_is_at_any_rank() -> None:
    """Ranks that look at their logs at steps of their own would not agree on which coders have diverged."""
    for other in (False, True):
        pace = loop._Pace(Interruption(), 1e9, Pretended(0, (other, False)))
        pace.agree()
        assert (pace.due, pace.told) == (other, False)


def test_a_rank_is_one_only_where_torchrun_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", "3"), ("LOCAL_RANK", "1"), ("WORLD_SIZE", "4")):
        monkeypatch.setenv(name, value)
    assert place() == (0, 0, 1)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert place() == (3, 1, 4)
