"""The prompts, one file each: the system's message and the user's, with a line of three dashes between them.

Names after a $ are filled in. The files' digests are part of the spec of what is asked with them.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from string import Template

from bsc.errors import UserError

EXPLAIN, DETECTION, FUZZING = "explain", "detection", "fuzzing"


def digests() -> dict[str, str]:
    """The SHA-256 of each prompt file, in hexadecimal."""
    return {name: hashlib.sha256(_path(name).read_bytes()).hexdigest() for name in (EXPLAIN, DETECTION, FUZZING)}


def check(expected: Mapping[str, str]) -> None:
    """Raise UserError unless the prompt files are those that a spec was made with."""
    for name, found in digests().items():
        if expected.get(name) != found:
            fix = "run the workflow again, which sees the change"
            raise UserError("the prompt is not the one that the spec names", where=str(_path(name)), fix=fix)


def filled(name: str, **values: object) -> tuple[str, str]:
    """The system's and the user's message of a prompt file."""
    system, _, user = _path(name).read_text(encoding="utf-8").partition("\n---\n")
    return Template(system).substitute(values).strip(), Template(user).substitute(values).strip()


def _path(name: str) -> Path:
    return Path(__file__).parent / f"{name}.md"
