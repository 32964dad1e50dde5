"""Compile the C++ kernels for this machine's CPU, once, into the user's cache."""

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from bsc.errors import UserError
from bsc.io import atomic, sha256, write_text

FOLDER = Path(__file__).parent
SOURCES = tuple(FOLDER / name for name in ("native.cpp", "screening.cpp"))
HEADER = FOLDER / "common.hpp"
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fopenmp-simd", "-ffp-contract=fast", "-fPIC", "-shared", "-pthread")
COMPILERS = ("c++", "g++", "clang++")


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels; None, and a line on stderr that says why, where they cannot be had.

    They lie under $XDG_CACHE_HOME/bsc (else ~/.cache/bsc), by the digest of source, flags, compiler and CPU, and are compiled
    when they are not there, or damaged: about six seconds. $CXX is the compiler, with arguments if it has some, as
    `ccache g++`; without it the first of COMPILERS is taken.
    """
    try:
        compiler = shlex.split(os.environ.get("CXX", "")) or list(filter(shutil.which, COMPILERS))[:1]
        if not compiler:
            raise RuntimeError("no C++ compiler was found; install g++ or set CXX")
        return ctypes.CDLL(str(_built(compiler)))
    except subprocess.CalledProcessError as error:
        reason = f"{shlex.join(compiler)} failed: {error.stderr.strip()[-500:]}"
    except ValueError as error:
        reason = f"CXX: {error}"
    except (OSError, RuntimeError, UserError) as error:  # RuntimeError also where there is no home folder
        reason = str(error)
    print(f"slower CPU kernels are used: {reason}", file=sys.stderr, flush=True)
    return None


def _built(compiler: list[str]) -> Path:
    version = subprocess.run([*compiler, "--version"], check=True, capture_output=True, text=True).stdout
    facts = "\n".join([*(file.read_text() for file in (HEADER, *SOURCES)), *FLAGS, *compiler, version, _cpu()])
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bsc"
    path = cache / f"native-{hashlib.sha256(facts.encode()).hexdigest()[:16]}.so"
    digest = path.with_suffix(".sha256")
    if not (path.exists() and digest.exists() and digest.read_text() == sha256(path)):  # to load half a library is to die of it
        with atomic(path) as made:
            subprocess.run([*compiler, *FLAGS, *map(str, SOURCES), "-o", str(made)], check=True, capture_output=True, text=True)
        write_text(digest, sha256(path))
    return path


def _cpu() -> str:
    """What tells CPUs apart for which different code is compiled: a cache may be shared by the nodes of a cluster."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.platform()
    return "\n".join(dict.fromkeys(line for line in lines if line.startswith(("flags", "Features", "model name"))))
