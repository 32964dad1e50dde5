"""Text to contexts: documents are tokenised, packed one after another and cut, and each split gets documents of its own."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32
from transformers import PreTrainedTokenizerBase

from bsc.corpus.documents import documents
from bsc.corpus.store import ContextWriter, write_contexts
from bsc.errors import UserError
from bsc.io import MANIFEST, read_manifest, write_manifest
from bsc.models.load import load_tokenizer
from bsc.progress import Progress
from bsc.stages import SplitSpec, TokensSpec

SPLIT_ORDER = ("evaluation", "interpretation", "train")
"""The small splits come first, so that more training text changes nothing in them."""

_BATCH_CHARACTERS = 1_000_000

Ids = Int32[np.ndarray, " tokens"]


def make_tokens(spec: TokensSpec, model: Path, output: Path) -> None:
    """Write `{split}.safetensors` with `tokens` and `documents`, int32 [contexts, context], and the manifest.

    A split holds exactly as many contexts as its spec says; no document is in two splits. With `separator`, that token
    follows each document; with `bos`, every context begins with BOS, which counts as the next token's document.
    Raises UserError when there is too little text, or the tokenizer has no such separator or no BOS.
    """
    manifest = read_manifest(model, verify=False)
    tokenizer = load_tokenizer(model)
    _check_vocabulary(tokenizer, manifest["vocabulary"], model)
    bos = _bos(tokenizer) if spec.bos else None
    output.mkdir(parents=True, exist_ok=True)
    (output / MANIFEST).unlink(missing_ok=True)  # what it lists is about to be replaced
    numbered = enumerate(token_stream(tokenizer, documents(spec), spec.separator))
    facts: dict[str, Any] = {"bos": spec.bos, "separator": spec.separator, "corpus": spec.source, "model": manifest["source"]}
    facts["splits"] = _fill({split: spec.splits[split] for split in SPLIT_ORDER}, numbered, bos, output)
    write_manifest(output, [f"{split}.safetensors" for split in SPLIT_ORDER], facts)


def _fill(
    splits: dict[str, SplitSpec], numbered: Iterator[tuple[int, Ids]], bos: int | None, output: Path
) -> dict[str, dict[str, int]]:
    """Write the splits' files, all of them or none; returns what the manifest says of each."""
    counts = {}
    total = sum(wanted.contexts * wanted.context for wanted in splits.values())
    with ExitStack() as stack, Progress("tokens", total, "tokens") as progress:
        for split, wanted in splits.items():
            path = output / f"{split}.safetensors"
            writer = stack.enter_context(write_contexts(path, wanted.contexts, wanted.context))
            used = _Packer(writer, wanted.context, bos, progress).fill(numbered)
            if not writer.full:
                raise _too_little(split, writer.written, wanted)
            counts[split] = {"contexts": wanted.contexts, "context": wanted.context, "documents": used}
    return counts


class _Packer:
    """Cuts documents into contexts, for one split."""

    def __init__(self, writer: ContextWriter, context: int, bos: int | None, progress: Progress) -> None:
        self._writer, self._bos, self._progress = writer, bos, progress
        self._body = context - (bos is not None)
        self._tokens, self._documents = np.empty(0, np.int32), np.empty(0, np.int32)

    def fill(self, numbered: Iterator[tuple[int, Ids]]) -> int:
        """Take documents until the split is full or they end; returns how many it holds tokens of."""
        used = 0
        while not self._writer.full and (document := next(numbered, None)) is not None:
            self._add(*document)
            used += 1
        return used

    def _add(self, number: int, ids: Ids) -> None:
        self._tokens = np.concatenate([self._tokens, ids])
        self._documents = np.concatenate([self._documents, np.full_like(ids, number)])
        count = min(len(self._tokens) // self._body, self._writer.contexts - self._writer.written)
        if count:
            self._write(count)

    def _write(self, count: int) -> None:
        end = count * self._body
        tokens = self._tokens[:end].reshape(count, self._body)
        numbers = self._documents[:end].reshape(count, self._body)
        if self._bos is not None:
            tokens = np.insert(tokens, 0, self._bos, axis=1)
            numbers = np.insert(numbers, 0, numbers[:, 0], axis=1)
        self._writer.append(tokens, numbers)
        self._progress.advance(tokens.size)
        self._tokens, self._documents = self._tokens[end:], self._documents[end:]


def token_stream(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str], separator: str | None) -> Iterator[Ids]:
    """The ids of each document that has any, followed by the separator's.

    Text that looks like a special token ("<|im_start|>" in a data set) is tokenised as text, and none is added.
    """
    ending = [] if separator is None else [_single_token(tokenizer, separator)]
    for batch in _batches(texts):
        options = {"add_special_tokens": False, "split_special_tokens": True, "return_attention_mask": False}
        for ids in tokenizer(batch, **options, verbose=False)["input_ids"]:
            if ids:
                yield np.array(ids + ending, dtype=np.int32)


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    characters = 0
    for text in chain(texts, [None]):
        if text is None or (batch and characters + len(text) > _BATCH_CHARACTERS):
            if batch:
                yield batch
            batch, characters = [], 0
        if text:
            batch.append(text)
            characters += len(text)


def _single_token(tokenizer: PreTrainedTokenizerBase, separator: str) -> int:
    ids: list[int] = tokenizer.encode(separator, add_special_tokens=False)
    if len(ids) != 1 or (ids[0] == tokenizer.unk_token_id and separator != tokenizer.unk_token):
        fix = f"use one of {', '.join(map(repr, tokenizer.all_special_tokens)) or 'its tokens'}, or leave it out"
        raise UserError(f"{separator!r} is not one token of this tokenizer", where="corpus.separator", fix=fix)
    return ids[0]


def _bos(tokenizer: PreTrainedTokenizerBase) -> int:
    if tokenizer.bos_token_id is None:
        raise UserError("this tokenizer has no BOS token", where="corpus.bos", fix="set `bos: false`")
    return int(tokenizer.bos_token_id)


def _check_vocabulary(tokenizer: PreTrainedTokenizerBase, vocabulary: int, model: Path) -> None:
    highest = max(tokenizer.get_vocab().values())
    if highest >= vocabulary:
        what = f"its tokenizer has ids up to {highest} and its embedding {vocabulary} rows"
        raise UserError(what, where=str(model), fix="give the model the tokenizer that it was trained with")


def _too_little(split: str, contexts: int, wanted: SplitSpec) -> UserError:
    got, asked = contexts * wanted.context, wanted.contexts * wanted.context
    return UserError(
        f"the text ended after {got:,} of the {asked:,} tokens of split `{split}` ({', '.join(SPLIT_ORDER)} in turn)",
        where=f"corpus.splits.{split}",
        fix="ask for fewer tokens, or name more text under `corpus`",
    )
