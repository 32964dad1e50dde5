"""A transformers model in this process, asked in batches. Its replies are kept as those of a server are."""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bsc.autointerp.llm.answers import AnswerCache
from bsc.autointerp.llm.messages import Alternatives, Failure, Outcome, Reply, Request, Sampling
from bsc.autointerp.llm.settings import Settings
from bsc.device import device, resolve_dtype
from bsc.errors import UserError
from bsc.models.faults import FAULTS, reason
from bsc.models.load import pretrained

_ALTERNATIVES = 5
_PROBE = "a system's text"


class LocalModel:
    """Loaded when the first question is not in the cache. `concurrency` prompts make a batch.

    A reply that is sampled (temperature above 0) is drawn from a generator that is made of the prompts of its batch. Of the
    folder's `generation_config.json` only the tokens that end a reply count: penalties, `top_k` and the like would change
    replies, and are not in their keys.
    """

    def __init__(self, settings: Settings, cache: AnswerCache) -> None:
        self._settings, self._cache = settings, cache

    def __enter__(self) -> "LocalModel":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        pass

    def ask(self, requests: Iterable[Request]) -> Iterator[Outcome]:
        """The reply to each request, in order; a failure where prompt and reply may be longer than what the model was made for.

        Raises UserError when the model does not load or has no chat template that takes these prompts.
        """
        feed = iter(requests)
        while batch := list(itertools.islice(feed, self._settings.concurrency)):
            yield from self._batch(batch)

    def _batch(self, requests: Sequence[Request]) -> list[Outcome]:
        keys = [request.key(self._settings.known_as) for request in requests]
        found: dict[str, Outcome] = {**self._cache.get(keys)}
        by_sampling: dict[Sampling, dict[str, Request]] = {}
        for key, request in zip(keys, requests, strict=True):
            if key not in found:
                by_sampling.setdefault(request.sampling, {})[key] = request
        for sampling, asked in by_sampling.items():
            made = dict(zip(asked, self._generate(list(asked.values()), sampling, list(asked)), strict=True))
            self._cache.put([(key, outcome) for key, outcome in made.items() if isinstance(outcome, Reply)])
            found |= made
        return [found[key] for key in keys]

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        """Model and tokenizer."""
        from transformers import AutoTokenizer

        folder, where = Path(str(self._settings.transformers)), f"llms.{self._settings.name}.transformers"
        try:
            tokenizer: Any = AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False, padding_side="left"
            )
        except FAULTS as error:
            raise UserError(f"no model loads from {folder}: {reason(error, folder)}", where=where) from error
        model: Any = pretrained(folder, f"{where}: {folder}", dtype=resolve_dtype("auto", device()))
        if tokenizer.chat_template is None:
            raise UserError(
                "the model has no chat template", where=str(folder), fix="use one that was tuned to follow instructions"
            )
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        found = model.generation_config
        model.generation_config = type(found)(bos_token_id=found.bos_token_id, eos_token_id=found.eos_token_id)
        return model.eval().to(device()), tokenizer

    @cached_property
    def _knows_system(self) -> bool:
        """Whether the chat template shows a system's text; those of Gemma and early Mistral raise an error, or drop it."""
        from jinja2.exceptions import TemplateError

        try:
            return _PROBE in self._loaded[1].apply_chat_template(_chat(_PROBE, "a user's text"), tokenize=False)
        except TemplateError:
            return False

    def _prompt(self, request: Request) -> list[int]:
        """The token ids of a prompt; the system's text stands in front of the user's where the template knows no system."""
        from jinja2.exceptions import TemplateError

        tokenizer = self._loaded[1]
        chat = _chat(request.system, request.user) if self._knows_system else _chat("", f"{request.system}\n\n{request.user}")
        try:
            ids: list[int] = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)["input_ids"]
        except TemplateError as error:
            where, fix = str(self._settings.transformers), "mend the template, or use another model"
            raise UserError(f"the model's chat template takes no prompt ({error})", where=where, fix=fix) from error
        return ids

    def _generate(self, requests: list[Request], sampling: Sampling, keys: list[str]) -> list[Outcome]:
        """What comes of each request. keys: theirs, of which the generator is made."""
        most = getattr(self._loaded[0].config.get_text_config(), "max_position_embeddings", None) or math.inf
        prompts = [self._prompt(request) for request in requests]
        fit = [place for place, prompt in enumerate(prompts) if len(prompt) + sampling.max_tokens <= most]
        made = self._replies([requests[place] for place in fit], [prompts[place] for place in fit], sampling, keys[0])
        replies = dict(zip(fit, made, strict=True))
        return [replies.get(place) or _too_long(len(prompt), sampling.max_tokens, most) for place, prompt in enumerate(prompts)]

    @torch.inference_mode()
    def _replies(self, requests: list[Request], prompts: list[list[int]], sampling: Sampling, key: str) -> list[Reply]:
        if not requests:
            return []
        model, tokenizer = self._loaded
        inputs = tokenizer.pad({"input_ids": prompts}, return_tensors="pt").to(model.device)
        drawn: dict[str, Any] = {"do_sample": False}
        if sampling.temperature:
            drawn = {"do_sample": True, "temperature": sampling.temperature, "top_k": 0}  # it is 50 by default
        with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
            torch.manual_seed(int(key[:15], 16))
            made = model.generate(
                **inputs,
                **drawn,
                max_new_tokens=sampling.max_tokens,
                pad_token_id=tokenizer.pad_token_id,
                return_dict_in_generate=True,
                output_logits=sampling.logprobs,
            )
        prompt = inputs["input_ids"].shape[1]
        lengths = inputs["attention_mask"].sum(1).tolist()
        return [
            self._reply(made, line, prompt, lengths[line], request, sampling.logprobs) for line, request in enumerate(requests)
        ]

    def _reply(self, made: Any, line: int, prompt: int, length: int, request: Request, logprobs: bool) -> Reply:
        model, tokenizer = self._loaded
        tokens: Int[Tensor, " tokens"] = made.sequences[line, prompt:]
        ends = model.generation_config.eos_token_id
        stop = torch.isin(tokens, torch.tensor(ends, device=tokens.device).reshape(-1)).nonzero()
        count = int(stop[0]) if len(stop) else len(tokens)
        positions = [self._alternatives(made.logits[step][line], int(tokens[step])) for step in range(count if logprobs else 0)]
        return Reply(
            text=tokenizer.decode(tokens[:count], skip_special_tokens=True),
            finish="stop" if len(stop) else "length",
            prompt_tokens=length,
            completion_tokens=count,
            characters=request.characters,
            logprobs=tuple(positions),
        )

    def _alternatives(self, logits: Float[Tensor, " vocabulary"], token: int) -> Alternatives:
        tokenizer = self._loaded[1]
        logprobs = torch.log_softmax(logits.float(), 0)
        best = logprobs.topk(_ALTERNATIVES)
        pairs = [(token, float(logprobs[token])), *zip(best.indices.tolist(), best.values.tolist(), strict=True)]
        return tuple((tokenizer.decode([one]), value) for one, value in pairs)


def _chat(system: str, user: str) -> list[dict[str, str]]:
    """A chat that asks; without a system where it has no text."""
    said = [{"role": "system", "content": system}] if system else []
    return [*said, {"role": "user", "content": user}]


def _too_long(prompt: int, reply: int, most: float) -> Failure:
    reason = f"the prompt has {prompt:,} tokens and the reply may have {reply:,}, and the model was made for {most:,}"
    return Failure(reason, refused=True)
