"""How many threads tests compute with."""

from collections.abc import Iterator

import torch


def one_thread() -> Iterator[None]:
    """For a fixture. On busy cores, threads that wait for each other make small tensors a hundred times slower."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
