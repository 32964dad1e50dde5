"""Every binariser by its key, with what the config, the DAG and the figures need to know of it before torch is there.

To add one: write its file here and add its line below, as the last one: colours go by place. `code` names the class,
`module:Class`; `options` are the keys that `binarisers.KEY` takes in the config, each with its default, or, as a tuple, its
choices with the default first.

A config may have several settings of one binariser beside each other: variants, named after it, as `binary-topk.capped`.
`REGISTRY` answers for their names too; it lists the binarisers alone.
"""

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any

VARIANT = r"\.[a-z0-9_]+"
"""What makes a variant's name of its binariser's: no dash, so that `-k16` after it stays what it is."""


class Share(float):
    """The default of an option that lies between 0 and 1, both left out."""


class Bits(int):
    """The default of an option that is a number of bits, 1 to 16."""


Option = float | int | tuple[str, ...]


@dataclass(frozen=True)
class Entry:
    """What is known of a binariser without importing it.

    continuous: all its values are real numbers, not 0 or 1. between: it lies between binary and continuous, and figures and
    comparisons that set one against the other count it as neither. grouped: it takes one latent from each of k groups of M/k.
    ranked: it selects the latents that come first by a score, so that a bias of that score changes which. smallest_k: of k.
    """

    code: str
    label: str
    continuous: bool = False
    between: bool = False
    grouped: bool = False
    ranked: bool = True
    smallest_k: int = 1
    options: Mapping[str, Option] = field(default_factory=dict)

    @property
    def module(self) -> str:
        """The full name of the module that holds its class."""
        return f"bsc.coders.binarisers.{self.code.partition(':')[0]}"

    def faults(self) -> Iterator[str]:
        """What is wrong with this line of the registry, by reading the file that it names."""
        module, _, name = self.code.partition(":")
        file = Path(__file__).with_name(f"{module}.py")
        if not name:
            yield f"`code` is `{self.code}` and not `module:Class`"
            return
        if not file.is_file():
            yield f"there is no bsc/coders/binarisers/{file.name}"
            return
        try:
            body = ast.parse(file.read_text(encoding="utf-8")).body
        except (SyntaxError, ValueError) as error:
            yield f"bsc/coders/binarisers/{file.name} cannot be read: {error.args[0]}, line {getattr(error, 'lineno', '?')}"
            return
        made = next((node for node in body if isinstance(node, ast.ClassDef) and node.name == name), None)
        if made is None:
            yield f"bsc/coders/binarisers/{file.name} has no class `{name}`"
            return
        for node in made.body:
            if isinstance(node, ast.FunctionDef) and node.name == "__init__" and node.args.kwarg is None:
                taken = {argument.arg for argument in (*node.args.args, *node.args.kwonlyargs)}
                yield from (f"`__init__` of `{name}` takes no `{option}`" for option in self.options if option not in taken)

    def load(self) -> Any:
        """Import its class (and torch)."""
        return getattr(import_module(self.module), self.code.partition(":")[2])


_STE: tuple[str, ...] = ("sigmoid", "rectangle", "identity", "power")
_BINARY: dict[str, Option] = {"ste": _STE, "temperature": 2.0, "threshold": 0.004}


class Registry(dict[str, Entry]):
    """Entries by key; of a variant's name, its binariser's entry with the variant in its label."""

    def __missing__(self, name: str) -> Entry:
        kind = kind_of(name)
        if kind == name or kind not in self or not re.fullmatch(VARIANT, name.removeprefix(kind)):
            raise KeyError(name)
        variant = name.removeprefix(f"{kind}.").replace("_", " ")
        return replace(self[kind], label=f"{self[kind].label}, {variant}")


REGISTRY = Registry(
    {
        "topk": Entry("topk:TopK", "TopK", continuous=True),
        "groupmax": Entry("groupmax:GroupMax", "GroupMax", continuous=True, grouped=True),
        "binary-topk": Entry("binary_topk:BinaryTopK", "Binary TopK", options=_BINARY),
        "binary-topk-exact": Entry("binary_topk:ExactBinaryTopK", "Binary TopK, exact", options=_BINARY),
        "binary-threshold": Entry(
            "binary_threshold:BinaryThreshold",
            "Binary threshold",
            ranked=False,
            options={"threshold": ("solved", "learned"), "temperature": 2.0, "initial_threshold": 0.004, "penalty": 1e-3},
        ),
        "binary-groupmax": Entry("binary_groupmax:BinaryGroupMax", "Binary GroupMax", grouped=True, options=_BINARY),
        "gumbel": Entry("gumbel:Gumbel", "Gumbel", grouped=True, ranked=False, options={"tau": 0.5}),
        "reinmax": Entry("reinmax:ReinMax", "ReinMax", grouped=True, ranked=False, options={"tau": 1.1}),
        "nbit": Entry("nbit:NBit", "n-bit", continuous=True, between=True, options={"bits": Bits(2)}),
        "hybrid": Entry("hybrid:Hybrid", "Hybrid", between=True, smallest_k=2, options={"continuous": Share(0.5), **_BINARY}),
    }
)


def kind_of(name: str) -> str:
    """The binariser that a name is of: itself, or what a variant's name begins with."""
    return name.partition(".")[0]


def is_binariser(name: str) -> bool:
    """Whether a name is a binariser's, or could be a variant's of one."""
    return kind_of(name) in REGISTRY and re.fullmatch(f"({VARIANT})?", name.removeprefix(kind_of(name))) is not None


def rank(name: str) -> tuple[int, str]:
    """What sorts names of binarisers and variants: the registry's order, variants after their binariser."""
    return list(REGISTRY).index(kind_of(name)), name


def in_order(names: Iterable[str]) -> list[str]:
    """Names of binarisers and variants, sorted by `rank`, each once."""
    return sorted(set(names), key=rank)
