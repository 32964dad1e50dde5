"""Binary sparse coding: coders that explain a language model's activations by latents that are on or off."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bsc.coders.load import load_coder

__all__ = ["load_coder"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import torch only when a coder is asked for: `bsc --help` and the DAG do without it."""
    if name == "load_coder":
        from bsc.coders.load import load_coder

        return load_coder
    raise AttributeError(f"module 'bsc' has no attribute {name!r}")
