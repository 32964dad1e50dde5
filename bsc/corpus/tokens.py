"""Text to contexts: documents are tokenised, packed one after another and cut, and each split gets documents of its own.

A run that is killed goes on where it was. What it saves is what it holds between two batches of documents: where the source
stands, and the few tokens that do not fill a context yet.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from bsc.corpus.column import Document, Ids
from bsc.corpus.dataset import NetworkFault
from bsc.corpus.documents import Documents, documents, identity
from bsc.corpus.packing import Packer
from bsc.corpus.writer import TokenWriter
from bsc.errors import UserError
from bsc.io import MANIFEST, read_json, read_manifest, sha256
from bsc.models.load import load_tokenizer
from bsc.progress import Progress
from bsc.spec import fingerprint
from bsc.stages import SplitSpec, TokensSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SPLIT_ORDER = ("evaluation", "interpretation", "train")
"""The small splits come first, so that more training text changes nothing in them."""

_BATCH = 1_000_000
"""Characters (or ids) at which a batch of documents ends."""


def make_tokens(spec: TokensSpec, model: Path, output: Path) -> None:
    """Write `{split}.safetensors` with `tokens` and `documents`, int32 [contexts, context], and the manifest.

    A split holds exactly as many contexts as its spec says; no document is in two splits. With `separator`, that token
    follows each document; with `bos`, every context begins with BOS, which counts as the next token's document. A run that
    was killed leaves its work under `output/.partial`; the same call, or one for more or fewer tokens of the last split, goes
    on from there, and the files are bit for bit those of an uninterrupted run.

    Raises UserError when contexts are longer than the model's, there is too little text, a tokenised set has ids that the
    model has not, the tokenizer has no such separator or no BOS, or the network fails for long; what was made is kept.
    """
    manifest = read_manifest(model, verify=False)
    _check_contexts(spec, model)
    encoder = Encoder(spec, model, manifest["vocabulary"])
    output.mkdir(parents=True, exist_ok=True)
    (output / MANIFEST).unlink(missing_ok=True)  # what it lists is about to be replaced
    splits = {split: spec.splits[split] for split in SPLIT_ORDER}
    sizes = {split: (wanted.contexts, wanted.context) for split, wanted in splits.items()}
    facts: dict[str, Any] = {"bos": spec.bos, "separator": spec.separator, "corpus": spec.source, "model": manifest["source"]}
    if spec.ids_column is not None:
        facts["ids_column"] = spec.ids_column
    with TokenWriter(output, sizes, _identity(spec, model)) as writer:
        packer = Packer(writer.splits, encoder.bos, writer.state and writer.state["packer"])
        source = documents(spec, manifest["vocabulary"], writer.state and writer.state["position"])
        _fill(writer, packer, encoder, source)
        if not packer.full:
            raise _too_little(packer.split, packer.written, splits[packer.split], writer.partial)
        if revision := source.position.get("revision"):
            facts["revision"] = revision
        facts["splits"] = {
            split: {"contexts": part.contexts, "context": part.length, "documents": part.documents}
            for split, part in writer.splits.items()
        }
        writer.finish(facts)


def _check_contexts(spec: TokensSpec, model: Path) -> None:
    most = read_json(model / "config.json").get("max_position_embeddings")
    for split, wanted in spec.splits.items():
        if most is not None and wanted.context > most:
            raise UserError(
                f"contexts of {wanted.context} tokens are longer than the {most} that the model knows",
                where=f"corpus.splits.{split}.context",
                fix="lower it",
            )


def _identity(spec: TokensSpec, model: Path) -> dict[str, Any]:
    """What bytes depend on. Not the size of the training split: it comes last, and of fewer tokens they are the same."""
    asked = json.loads(spec.json_text)
    del asked["splits"][SPLIT_ORDER[-1]]["tokens"]
    return {
        "spec": asked,
        "corpus": identity(spec),
        "model": sha256(model / MANIFEST),
        "code": fingerprint(__name__),
    }


def _fill(writer: TokenWriter, packer: Packer, encoder: "Encoder", source: Documents) -> None:
    """Put documents into the splits until they are full or there are no more; saves what there is, at times and at the end."""
    state = writer.state
    total = sum(split.contexts * split.length for split in writer.splits.values())
    with Progress("tokens", total, "tokens", done=packer.tokens) as progress:
        try:
            for batch in () if packer.full else batches(source):
                done = packer.tokens
                for ids in encoder(batch):
                    packer.add(ids)
                state = {"packer": packer.state(), "position": source.position}
                progress.advance(packer.tokens - done)
                if packer.full:
                    break
                if writer.due:
                    writer.save(state)
        except NetworkFault as error:
            if state is not None:
                writer.save(state)
            kept = f"{packer.tokens:,} of {total:,} tokens are kept in {writer.partial}"
            raise NetworkFault(error.what, where=error.where, fix=f"{kept}: {error.fix}, and it goes on from there") from error
    if state is not None:
        writer.save(state)


def batches(source: Iterable[Document]) -> Iterator[list[Document]]:
    """Documents that are not empty, in batches. A batch ends with the document that fills it: none is read ahead."""
    batch: list[Document] = []
    size = 0
    for document in source:
        if len(document):
            batch.append(document)
            size += len(document)
        if size >= _BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class Encoder:
    """Makes ids of documents, and puts the separator's behind each. bos: the id that contexts begin with, or None.

    Raises UserError as `make_tokens` does.
    """

    def __init__(self, spec: TokensSpec, model: Path, vocabulary: int) -> None:
        self._tokenised = spec.ids_column is not None
        self.bos: int | None = None
        self._ending = np.empty(0, np.int32)
        if not self._tokenised or spec.bos or spec.separator is not None:
            self._tokenizer = load_tokenizer(model)
            _check_vocabulary(self._tokenizer, vocabulary, model)
            self.bos = _bos(self._tokenizer) if spec.bos else None
            if spec.separator is not None:
                self._ending = np.array([_single_token(self._tokenizer, spec.separator)], np.int32)

    def __call__(self, batch: list[Document]) -> Iterator[Ids]:
        """The ids of each document that has any, followed by the separator's.

        Text that looks like a special token ("<|im_start|>" in a data set) is tokenised as text, and none is added.
        """
        for ids in batch if self._tokenised else self._ids(cast("list[str]", batch)):
            if len(ids):
                yield np.concatenate([np.asarray(ids, np.int32), self._ending])

    def _ids(self, texts: list[str]) -> list[list[int]]:
        options = {"add_special_tokens": False, "split_special_tokens": True, "return_attention_mask": False}
        made: list[list[int]] = self._tokenizer(texts, **options, verbose=False)["input_ids"]
        return made


def _single_token(tokenizer: "PreTrainedTokenizerBase", separator: str) -> int:
    ids: list[int] = tokenizer.encode(separator, add_special_tokens=False)
    if len(ids) != 1 or (ids[0] == tokenizer.unk_token_id and separator != tokenizer.unk_token):
        fix = f"use one of {', '.join(map(repr, tokenizer.all_special_tokens)) or 'its tokens'}, or leave it out"
        raise UserError(f"{separator!r} is not one token of this tokenizer", where="corpus.separator", fix=fix)
    return ids[0]


def _bos(tokenizer: "PreTrainedTokenizerBase") -> int:
    if tokenizer.bos_token_id is None:
        raise UserError("this tokenizer has no BOS token", where="corpus.bos", fix="set `bos: false`")
    return int(tokenizer.bos_token_id)


def _check_vocabulary(tokenizer: "PreTrainedTokenizerBase", vocabulary: int, model: Path) -> None:
    highest = max(tokenizer.get_vocab().values())
    if highest >= vocabulary:
        what = f"its tokenizer has ids up to {highest} and its embedding {vocabulary} rows"
        raise UserError(what, where=str(model), fix="give the model the tokenizer that it was trained with")


def _too_little(split: str, contexts: int, wanted: SplitSpec, partial: Path) -> UserError:
    got, asked = contexts * wanted.context, wanted.contexts * wanted.context
    fix = "ask for fewer tokens, or name more text under `corpus`"
    if split == SPLIT_ORDER[-1] and contexts:
        fix = f"set `tokens` to {got} or fewer: what was made is kept in {partial}, and taken then; or name more text"
    return UserError(
        f"the text ended after {got:,} of the {asked:,} tokens of split `{split}` ({', '.join(SPLIT_ORDER)} in turn)",
        where=f"corpus.splits.{split}",
        fix=fix,
    )
