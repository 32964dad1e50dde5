"""Every binariser by its key, with what the config, the DAG and the figures need to know of it before torch is there.

To add one: write its file here and add its line below. `code` names the class, `module:Class`; `options` are the keys that
`binarisers.KEY` takes in the config, each with its default, or, as a tuple, its choices with the default first.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

Option = float | int | tuple[str, ...]


@dataclass(frozen=True)
class Entry:
    """What is known of a binariser without importing it.

    continuous: its values are real numbers, not 0 or 1. grouped: it takes one latent from each of k groups of M/k.
    """

    code: str
    label: str
    continuous: bool = False
    grouped: bool = False
    options: Mapping[str, Option] = field(default_factory=dict)

    @property
    def module(self) -> str:
        """The full name of the module that holds its class."""
        return f"bsc.coders.binarisers.{self.code.partition(':')[0]}"

    def load(self) -> Any:
        """Import its class (and torch)."""
        return getattr(import_module(self.module), self.code.partition(":")[2])


_STE: tuple[str, ...] = ("sigmoid", "rectangle", "identity", "power")
_BINARY: dict[str, Option] = {"ste": _STE, "temperature": 2.0, "threshold": 0.004}

REGISTRY: dict[str, Entry] = {
    "topk": Entry("topk:TopK", "TopK", continuous=True),
    "groupmax": Entry("groupmax:GroupMax", "GroupMax", continuous=True, grouped=True),
    "binary-topk": Entry("binary_topk:BinaryTopK", "Binary TopK", options=_BINARY),
    "binary-topk-exact": Entry("binary_topk:ExactBinaryTopK", "Binary TopK, exact", options=_BINARY),
    "binary-threshold": Entry(
        "binary_threshold:BinaryThreshold",
        "Binary threshold",
        options={"threshold": ("solved", "learned"), "temperature": 2.0, "initial_threshold": 0.004, "penalty": 1e-3},
    ),
    "binary-groupmax": Entry("binary_groupmax:BinaryGroupMax", "Binary GroupMax", grouped=True, options=_BINARY),
    "gumbel": Entry("gumbel:Gumbel", "Gumbel", grouped=True, options={"tau": 0.5}),
    "reinmax": Entry("reinmax:ReinMax", "ReinMax", grouped=True, options={"tau": 1.1}),
}
