"""What a language model is asked and what it replies, whichever way it is reached. No torch."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_TEMPLATE_TOKENS = 64


@dataclass(frozen=True)
class Sampling:
    """How replies are drawn. logprobs: whether those of the tokens are asked for, where the server knows them.

    temperature: None leaves it to the server. parameters: further fields of the request, None to leave out one that is there.
    """

    temperature: float | None
    max_tokens: int
    logprobs: bool = False
    parameters: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def most_tokens(self) -> int:
        """The most that a reply may have, thoughts that it does not show included."""
        named = [self.parameters.get(name) for name in ("max_tokens", "max_completion_tokens")]
        return max((limit for limit in named if isinstance(limit, int)), default=self.max_tokens)


@dataclass(frozen=True)
class Request:
    """One prompt. schema: the JSON schema that the reply must follow, where the server can see to that."""

    system: str
    user: str
    sampling: Sampling
    schema: Mapping[str, Any] | None = None

    def body(self, model: str) -> bytes:
        """The request as an OpenAI-compatible server takes it: JSON, the same for equal requests."""
        messages = [{"role": "system", "content": self.system}, {"role": "user", "content": self.user}]
        sampling: dict[str, Any] = {"temperature": self.sampling.temperature, "max_tokens": self.sampling.max_tokens}
        if self.sampling.temperature is None:
            del sampling["temperature"]
        if self.sampling.logprobs:
            sampling |= {"logprobs": True, "top_logprobs": 5}
        if self.schema is not None:
            named = {"name": "answer", "strict": True, "schema": dict(self.schema)}
            sampling["response_format"] = {"type": "json_schema", "json_schema": named}
        sampling |= self.sampling.parameters
        for name, value in self.sampling.parameters.items():
            if value is None:
                del sampling[name]
        return json.dumps({"model": model, "messages": messages, **sampling}, sort_keys=True, separators=(",", ":")).encode()

    def key(self, model: str) -> str:
        """What names the reply in the cache: SHA-256 of model, messages and sampling parameters."""
        return key_of(self.body(model))

    @property
    def most_tokens(self) -> int:
        """No fewer tokens than the prompt can have: one a byte, and some for the chat template."""
        return len(f"{self.system}{self.user}".encode()) + _TEMPLATE_TOKENS

    @property
    def dearest(self) -> tuple[int, int]:
        """Tokens in and out that it can cost at the most."""
        return self.most_tokens, self.sampling.most_tokens

    @property
    def characters(self) -> int:
        """The length of the prompt."""
        return len(self.system) + len(self.user)


def key_of(body: bytes) -> str:
    """What names the reply to a request in the cache, by its body."""
    return hashlib.sha256(body).hexdigest()


Alternatives = tuple[tuple[str, float], ...]
"""A token and its log-probability (nats), and the most probable others in its place; the one that was drawn comes first."""


@dataclass(frozen=True)
class Reply:
    """What came back. finish: why it ended (`stop`, `length`); characters: of the prompt.

    tokens: by the server's count, and where it gave none the most that there can be.
    """

    text: str
    finish: str
    prompt_tokens: int
    completion_tokens: int
    characters: int = 0
    logprobs: tuple[Alternatives, ...] = field(default=())

    def as_json(self) -> str:
        """For the cache."""
        return json.dumps(vars(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> "Reply":
        """From the cache."""
        values = json.loads(text)
        logprobs = tuple(tuple((token, value) for token, value in position) for position in values.pop("logprobs"))
        return cls(**values, logprobs=logprobs)


@dataclass(frozen=True)
class Failure:
    """A prompt that got no reply: it was refused, or every attempt failed. It is recorded, never kept as an answer."""

    reason: str
    refused: bool = False


Outcome = Reply | Failure
