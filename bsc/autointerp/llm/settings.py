"""How a language model is reached: what a job is told beside its spec, since none of it changes an answer. No torch."""

import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from bsc.errors import UserError
from bsc.io import MANIFEST, sha256

_MILLION = 1e6


@dataclass(frozen=True)
class Settings:
    """One model, as in the config's `llms`, with the folder of a model in the process filled in.

    prices: for a million tokens in and out; key: the environment variable that holds the API key.
    """

    name: str
    model: str
    endpoint: str | None = None
    serve: dict[str, Any] | None = None
    transformers: str | None = None
    key: str | None = None
    concurrency: int = 64
    timeout: float = 120.0
    attempts: int = 6
    prices: dict[str, float] | None = None
    budget: float | None = None

    @classmethod
    def of(cls, name: str, settings: str) -> "Settings":
        """Those of one model from the JSON of all. Raises UserError when it is not among them."""
        known = json.loads(settings)
        if name not in known:
            raise UserError(f"nothing says how `{name}` is reached", where="--llms", fix="copy the rule's shell line whole")
        return cls(name=name, **known[name])

    @cached_property
    def known_as(self) -> str:
        """What the keys of its answers know the model by: its name and, in the process, what its folder says of its files.

        That is the SHA-256 of the manifest, or of `config.json` in a folder that another program wrote; the name alone while
        neither is there.
        """
        if self.transformers is None:
            return self.model
        files = (Path(self.transformers) / name for name in (MANIFEST, "config.json"))
        return next((f"{self.model} {sha256(file)}" for file in files if file.exists()), self.model)

    def cost(self, prompt_tokens: float, completion_tokens: float) -> float:
        """What tokens cost, in the money of `prices`; 0 without prices."""
        prices = self.prices or {"input": 0.0, "output": 0.0}
        return (prompt_tokens * prices["input"] + completion_tokens * prices["output"]) / _MILLION

    def secret(self) -> str | None:
        """The API key, from the environment. Raises UserError when the variable is not set."""
        if self.key is None:
            return None
        found = os.environ.get(self.key, "").strip()
        if not found:
            raise UserError(
                f"the environment variable `{self.key}` is not set, and `{self.name}` needs its key",
                where=f"llms.{self.name}.key",
                fix=f"export {self.key}=... in the shell that runs this (jobs on a cluster get that shell's environment)",
            )
        return found
