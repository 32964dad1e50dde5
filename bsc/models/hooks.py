"""Hookpoints: reading what goes in and out of a module of a model, and putting something else in its place."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from bsc.errors import UserError

Activations = Float[Tensor, "batch position d"]
Replacement = Callable[[Activations, Activations], Activations]
"""What stands in for a module: from its input x and its own output y to the output that the model goes on with."""


def module_at(model: nn.Module, hookpoint: str) -> nn.Module:
    """The module that a hookpoint such as `layers.9.mlp` names, in a model with or without a vocabulary head.

    Raises UserError, naming the layers there are, when the model has no such module.
    """
    decoder: nn.Module = getattr(model, "base_model", model)
    try:
        return decoder.get_submodule(hookpoint)
    except AttributeError as error:
        layers = getattr(decoder, "layers", None)
        have = f"layers 0 to {len(layers) - 1}" if isinstance(layers, nn.ModuleList) else "no `layers`"
        raise UserError(
            f"the model has no module at this hookpoint; it has {have}",
            where=hookpoint,
            fix="name hookpoints as `layers.N.mlp`, N among the model's layers",
        ) from error


@contextmanager
def capture(model: nn.Module, hookpoints: Sequence[str]) -> Iterator[dict[str, tuple[Activations, Activations]]]:
    """While open, each forward pass fills the dict that is yielded: hookpoint -> (input x, output y) of its module.

    The tensors are the model's own, in its precision. The hooks are gone when the block ends, however it ends.
    """
    captured: dict[str, tuple[Activations, Activations]] = {}

    def reader(hookpoint: str) -> Callable[..., None]:
        def read(module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> None:
            captured[hookpoint] = (arguments[0], output)

        return read

    with _hooked({module_at(model, hookpoint): reader(hookpoint) for hookpoint in hookpoints}):
        yield captured


@contextmanager
def splice(model: nn.Module, replacements: Mapping[str, Replacement]) -> Iterator[None]:
    """While open, the output of each hookpoint's module is what its replacement makes of (x, y).

    With several hookpoints, a later one sees the x and y that the earlier replacements led to. The hooks are gone when the
    block ends, however it ends.
    """

    def writer(replacement: Replacement) -> Callable[..., Tensor]:
        def write(module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> Tensor:
            return replacement(arguments[0], output)

        return write

    with _hooked({module_at(model, hookpoint): writer(replacement) for hookpoint, replacement in replacements.items()}):
        yield


@contextmanager
def _hooked(hooks: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    with ExitStack() as stack:
        for module, hook in hooks.items():
            stack.callback(module.register_forward_hook(hook).remove)
        yield
