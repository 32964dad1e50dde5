"""Which device a stage computes on, and in which precision its products are fast there."""

import fcntl
import functools
import os
import platform
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch

_HELD: list[IO[str]] = []
"""Locks of this process: closing one would give it up."""
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
    """The GPU if this process sees one, else the CPU. Of several GPUs, one that no other process of this user's has taken."""
    import torch

    return torch.device("cuda", _gpu()) if torch.cuda.is_available() else torch.device("cpu")


@functools.cache
def _gpu() -> int:
    """The number of this process's GPU, which from now on is the current one of its first thread."""
    import torch

    count = torch.cuda.device_count()
    if count == 1:
        return 0
    names = [str(torch.cuda.get_device_properties(number).uuid) for number in range(count)]
    taken = take(names, Path(tempfile.gettempdir(), f"bsc-gpus-{os.getuid()}"))
    number = place().here % count if taken is None else taken
    torch.cuda.set_device(number)
    return number


def take(names: Sequence[str], folder: Path) -> int | None:
    """Take the first of `names` that no process has taken, until this one ends, by a lock in `folder`.

    Returns its number; None where all are taken, or the folder cannot be written.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for number, name in enumerate(names):
            file = (folder / name).open("w")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                continue
            _HELD.append(file)
            return number
    except OSError:
        pass
    return None


def machine() -> str:
    """What `device` is, in words: the GPU's name, else the processor's."""
    import torch

    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name(device()))
    return processor()


def processor() -> str:
    """The processor's name, or its kind where the system does not tell."""
    return _of_processor("model name") or platform.machine()


@functools.cache
def _of_processor(key: str) -> str | None:
    """What Linux says of the first core under a key of /proc/cpuinfo; None where it says nothing."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), None)


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
    """Whether products are faster in bfloat16 than in float32: on a GPU that knows it, with AMX, or with AMD's AVX512-bf16.

    Told by the kind of machine and not by a clock, so that a rerun computes the same. Elsewhere bfloat16 is emulated, or, on
    Intel's cores whose AMX is missing or hidden by a hypervisor, AVX512-bf16 multiplies half as fast as float32 does.
    """
    import torch

    if where.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if torch.cpu._is_amx_tile_supported():
        return True
    return bool(torch.cpu._is_avx512_bf16_supported()) and _of_processor("vendor_id") == "AuthenticAMD"


def resolve_dtype(name: str, where: "torch.device") -> "torch.dtype":
    """The precision of products that a config's `dtype` means on a device: `auto` is bfloat16 where it is fast."""
    import torch

    if name == "auto":
        return torch.bfloat16 if has_fast_bfloat16(where) else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]
