"""How the ranks of a training job share its coders; without torch, as estimates ask too."""

from collections.abc import Sequence
from typing import Literal, TypeVar

Item = TypeVar("Item")
Parallel = Literal["coders", "batches"]
"""What the ranks of a training job share; see `bsc.ranks`."""


def shares(items: Sequence[Item], ranks: int) -> list[list[Item]]:
    """The share of each rank: items are dealt out in turns, and each turn begins one rank further.

    Coders of a grid come with k (and so with their cost) in a cycle, of a length that the number of ranks may well divide.
    """
    dealt: list[list[Item]] = [[] for _ in range(ranks)]
    for number, item in enumerate(items):
        dealt[(number + number // ranks) % ranks].append(item)
    return dealt
