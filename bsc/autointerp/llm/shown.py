"""Windows as a prompt shows them. No torch."""

import itertools
import re

import numpy as np
from jaxtyping import Bool, Float, Int

from bsc.autointerp.explainers.base import Decode

_STRONGEST = 10
_UNSEEN = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")


def numbered(shown: list[str], label: str) -> str:
    """Windows as numbered lines."""
    return "\n".join(f"{label} {number}: {text}" for number, text in enumerate(shown, 1))


def window_text(tokens: Int[np.ndarray, " window"], marks: Bool[np.ndarray, " window"] | None, decode: Decode) -> str:
    """One window on one line; each run of marked tokens is in one pair of delimiters, as in the authors' code."""
    if marks is None:
        return _on_a_line(decode(tokens.tolist()))
    runs = itertools.groupby(range(len(tokens)), key=lambda place: bool(marks[place]))
    texts = [(marked, _on_a_line(decode(tokens[list(places)].tolist()))) for marked, places in runs]
    return "".join(f"<<{text}>>" if marked else text for marked, text in texts)


def strengths(
    tokens: Int[np.ndarray, " window"], activations: Float[np.ndarray, " window"], most: float, decode: Decode
) -> str:
    """The tokens of a window that fire, each with its activation from 0 to 10; most: the largest of all windows."""
    places = np.flatnonzero(activations > 0)
    scaled = np.rint(_STRONGEST * activations / most).astype(int)
    pairs = [f'("{_on_a_line(decode([int(tokens[place])]))}", {scaled[place]})' for place in places]
    return f"Activations: {', '.join(pairs)}"


def _on_a_line(text: str) -> str:
    """Text with line breaks of any kind and control characters, but for the tab, escaped as in Python."""
    return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text.replace("\\", "\\\\"))
