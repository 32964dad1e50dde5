"""The machines that an estimate can be made for, and the rates that they sustain."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from bsc.errors import UserError

Kind = Literal["bfloat16", "float32", "forward"]

PRODUCT_SHARE, MEMORY_SHARE = 0.35, 0.5
"""Of a GPU's datasheet: what products and memory are assumed to sustain."""
READ = 1e9
"""Bytes a second that one job reads and hashes, or writes. SHA-256 on one core does 1.0e9 (measured); storage is assumed to."""
TOKENISED = 500_000
"""Tokens a second of the tokens stage (measured: the tokenizer of SmolLM2 on two cores, 519,000)."""
PACKED = 7_400_000
"""Token ids a second that it takes from a data set that was tokenised before (measured: parquet, one core)."""
SORTED = 6_800_000
"""Firings a second that the latent cache sorts (measured, one core, 36,864 latents)."""
EXPLAINED, ANSWERED = 1.6e-5, 2.5e-6
"""Seconds of the n-gram explainer for a window that it reads, and for a question that it answers (measured, one core)."""
START, START_WITH_TORCH = 1.5, 6.0
"""Seconds until a job is at work: Python, imports, opening a model (measured, cpu2)."""


class Phase(NamedTuple):
    """A part of a job: operations, and bytes moved in memory meanwhile. The slower of the two is what it takes."""

    kind: Kind
    operations: float
    moved: float


@dataclass(frozen=True)
class Machine:
    """What one job has of a machine.

    Rates are sustained ones. bfloat16, float32: products; forward: a language model's forward pass; all in floating-point
    operations a second. memory: bytes a second. jobs: how many jobs run at a time unless said otherwise. device: bytes that a
    GPU holds.
    """

    name: str
    gpu: bool
    bfloat16: float
    float32: float
    forward: float
    memory: float
    jobs: int
    source: str
    device: float = 0.0

    def seconds(self, *phases: Phase) -> float:
        """What phases take one after another."""
        rates = {"bfloat16": self.bfloat16, "float32": self.float32, "forward": self.forward}
        return sum(max(phase.operations / rates[phase.kind], phase.moved / self.memory) for phase in phases)


def _datasheet(name: str, bfloat16: float, float32: float, memory: float, sheet: str) -> Machine:
    product = PRODUCT_SHARE * bfloat16
    shares = f"{PRODUCT_SHARE:.0%} of the products and {MEMORY_SHARE:.0%} of the memory bandwidth"
    source = f"an estimate, not a measurement: {shares} of {sheet}"
    return Machine(name, True, product, PRODUCT_SHARE * float32, product, MEMORY_SHARE * memory, 64, source, 80e9)


MACHINES: dict[str, Machine] = {
    machine.name: machine
    for machine in (
        Machine(
            name="cpu2",
            gpu=False,
            bfloat16=194e9,
            float32=92e9,
            forward=128e9,
            memory=10e9,
            jobs=2,
            source="measured by this project on one of two cores with AVX512-bf16, another job on the other: a coder's step "
            "with 4,608 latents, the extraction of SmolLM2-135M's activations (a bfloat16 product alone reaches 340 GFLOP/s)",
        ),
        _datasheet("h100", 989e12, 67e12, 3.35e12, "NVIDIA's datasheet of the H100 SXM (989 TFLOP/s bfloat16, 3.35 TB/s)"),
        _datasheet("a100", 312e12, 19.5e12, 2.04e12, "NVIDIA's datasheet of the A100 80 GB (312 TFLOP/s bfloat16, 2.04 TB/s)"),
    )
}
"""By name. One job has one GPU, or one core."""


def find_machine(name: str, rates: Path) -> Machine:
    """A machine by its name: as `benchmarks/rates.py` measured it, if the file `rates` has it, else as it is built in.

    Raises UserError when neither is so, or the file is not what that wrote.
    """
    try:
        measured = json.loads(rates.read_bytes()) if rates.exists() else {}
        if name in measured:
            return _measured(name, measured[name], rates)
        known = sorted(MACHINES | measured)
    except (ValueError, TypeError, KeyError) as error:
        message = f"not what benchmarks/rates.py writes: {error!r}"
        raise UserError(message, where=str(rates), fix="delete it, and measure again") from error
    if name not in MACHINES:
        fix = f"take one of {', '.join(known)}, or measure it there: python benchmarks/rates.py {name}"
        raise UserError(f"no rates of `{name}` are known", where="--machine", fix=fix)
    return MACHINES[name]


def _measured(name: str, facts: dict[str, Any], rates: Path) -> Machine:
    sustained = {kind: float(facts["rates"][kind]) for kind in ("bfloat16", "float32", "forward", "memory")}
    source = f"from rates measured on {facts['gpu'] or facts['cpu']} on {facts['date']} ({rates})"
    return Machine(name, bool(facts["gpu"]), **sustained, jobs=facts["jobs"], source=source, device=facts["gpu_bytes"])
