"""What goes wrong while transformers loads something, told in a line."""

from pathlib import Path

from safetensors import SafetensorError

FAULTS = (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError, RuntimeError, SafetensorError)
"""What it raises for files that are missing, broken or of a kind that it does not know."""


def reason(error: Exception, folder: Path) -> str:
    """What such an error says of the files in a folder: its first sentence, as what follows are hints for programmers.

    The folder is not named in it.
    """
    said = str(error).strip().partition("\n")[0]
    if "custom code" in said:
        return "it needs code of its own, which is not run"
    first = said.partition(". ")[0].rstrip(" .:")
    return first.replace(f"{folder}/", "").replace(str(folder), "it") or type(error).__name__
