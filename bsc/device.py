"""Which device a stage computes on, and in which precision its products are fast there."""

import os
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of malloc.h


class Place(NamedTuple):
    """A process among those of its job: its number, its number on this node, and how many there are."""

    rank: int
    here: int
    size: int


def place() -> Place:
    """Where torchrun put this process; (0, 0, 1) for one that it did not start, whatever other variables say."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return Place(0, 0, 1)
    return Place(*(int(os.environ[name]) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE")))


def enter_device() -> None:
    """Make `device` the current one of this thread: each begins with the first GPU."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.set_device(device())


def device() -> "torch.device":
    """The GPU if this process sees one, else the CPU. Of several GPUs, its own among the processes that torchrun started."""
    import torch

    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", place().here)


def keep_freed_memory() -> None:
    """Have glibc keep the memory that this process frees; elsewhere nothing is done.

    By default every large tensor is mapped anew and given back when it is freed, and the system clears each of its pages first:
    for a step of a wide coder a gigabyte, and a quarter of its time.
    """
    import ctypes

    library = ctypes.CDLL(None)
    if hasattr(library, "gnu_get_libc_version"):
        library.mallopt(_M_MMAP_MAX, 0)
        library.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def has_fast_bfloat16(where: "torch.device") -> bool:
    """Whether bfloat16 products are computed by the hardware (AVX512-bf16, AMX or a GPU that knows them) and not emulated."""
    import torch

    if where.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def resolve_dtype(name: str, where: "torch.device") -> "torch.dtype":
    """The precision of products that a config's `dtype` means on a device: `auto` is bfloat16 where it is fast."""
    import torch

    if name == "auto":
        return torch.bfloat16 if has_fast_bfloat16(where) else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]
