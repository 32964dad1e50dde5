"""Installed documentation: docstrings and prose, without licences, data, tests and repeats, the same everywhere."""

import hashlib
from importlib.metadata import version
from pathlib import Path

import pytest

from bsc.corpus import documentation as module
from bsc.corpus.documentation import LONGEST, SHORTEST, docstrings, documentation
from bsc.errors import UserError

PROSE = "The quick brown fox jumps over the lazy dog, again and again, until the evening comes and it is dark outside. "
MODULE = '''"""First."""

def outer():
    """Second, with a bad \\escape."""
    class Inner:
        """Third."""
        async def method(self):
            """   Fourth,

            indented.   """
    text = """not a docstring"""

raise SystemExit("imported")
'''


def words(seed: str) -> str:
    """A text that shares no paragraph with one of another seed."""
    return f"{seed}: {PROSE * 3}"


def install(site: Path, package: str, files: dict[str, str], *, record: bool = True) -> None:
    """What pip leaves of a package."""
    info = site / f"{package}-1.0.dist-info"
    listed = {**files, f"{info.name}/METADATA": f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n"}
    for name, text in listed.items():
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text(text, encoding="utf-8")
    if record:
        (info / "RECORD").write_text("".join(f"{name},,\n" for name in listed))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_docstrings_come_in_the_order_of_the_source_and_nothing_is_imported() -> None:
    assert list(docstrings(MODULE)) == ["First.", "Second, with a bad \\escape.", "Third.", "Fourth,\n\nindented."]


@pytest.mark.parametrize("source", ["def (", "\0", "x = 1"])
def test_what_is_no_python_or_has_no_docstring_says_nothing(source: str) -> None:
    assert list(docstrings(source)) == []


def test_a_modules_docstrings_are_one_document(site: Path) -> None:
    install(site, "apple", {"apple/a.py": f'"""{words("one")}"""\ndef f():\n    """{words("two")}"""\n'})
    assert list(documentation({"apple": "1.0"})) == [f"{words('one').strip()}\n\n{words('two').strip()}"]


def test_prose_is_taken_and_licences_data_tests_and_short_texts_are_not(site: Path) -> None:
    files = {
        "pear/README.md": words("readme"),
        "pear/guide.rst": words("guide"),
        "pear/notes.txt": words("notes"),
        "pear/LICENSE.txt": words("licence"),
        "pear/COPYING.md": words("copying"),
        "pear/requirements-dev.txt": words("requirements"),
        "pear/numbers.txt": "0.123 4.567\n" * 99,
        "pear/tests/test_pear.py": f'"""{words("tests")}"""',
        "pear/conftest.py": f'"""{words("conftest")}"""',
        "pear/short.md": "x" * (SHORTEST - 1),
        "pear/data.csv": words("csv"),
        "pear-1.0.dist-info/licenses/README.md": words("info"),
        "../bin/pear.py": f'"""{words("script")}"""',
    }
    install(site, "pear", files)
    found = {text.split(":")[0] for text in documentation({"pear": "1.0"})}
    assert found == {"readme", "guide", "notes"}


def test_what_has_stood_before_is_left_out_and_what_is_mostly_new_is_whole(site: Path) -> None:
    mixed = f"{words('again')}\n\n{words('new')}\n\n{words('newer')}"
    install(site, "plum", {f"plum/{name}.md": words("again") for name in "abc"} | {"plum/mixed.md": mixed})
    found = sorted(documentation({"plum": "1.0"}), key=len)
    assert found[-1] == mixed.strip()
    assert sum(text == words("again").strip() for text in found) <= 1


def test_a_long_module_ends_with_the_docstring_that_reaches_the_limit(site: Path) -> None:
    source = "\n".join(f'def f{number}():\n    """{words(str(number))}"""' for number in range(99))
    install(site, "fig", {"fig/a.py": source})
    (text,) = documentation({"fig": "1.0"})
    assert LONGEST <= len(text) < LONGEST + len(words("99")) + 2


def test_the_order_depends_on_the_names_alone(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {f"kiwi/{name}.md": words(name) for name in "abcdefgh"}
    install(site, "kiwi", files)
    first = list(documentation({"kiwi": "1.0"}))
    by_hash = sorted(files, key=lambda name: hashlib.sha256(name.encode()).digest())
    assert first == [files[name].strip() for name in by_hash]
    other = tmp_path / "elsewhere"
    install(other, "kiwi", dict(reversed(files.items())))
    monkeypatch.syspath_prepend(str(other))
    assert list(documentation({"kiwi": "1.0"})) == first


def test_a_document_is_read_when_it_is_asked_for(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(site, "lime", {f"lime/{name}.md": words(name) for name in "abcdefgh"})
    read = []
    original = module._read
    monkeypatch.setattr(module, "_read", lambda path: read.append(path) or original(path))
    next(iter(documentation({"lime": "1.0"})))
    assert len(read) == 1


def test_a_package_that_is_not_installed_or_has_changed_is_refused(site: Path) -> None:
    install(site, "date", {})
    with pytest.raises(UserError, match=r"`date` is now 1\.0 and was 2\.0"):
        list(documentation({"date": "2.0"}))
    with pytest.raises(UserError, match=r"`no-such-fruit` is not installed\n.*pip install no-such-fruit"):
        list(documentation({"no-such-fruit": "1.0"}))


def test_a_package_without_a_list_of_files_is_refused(site: Path) -> None:
    install(site, "sloe", {}, record=False)
    with pytest.raises(UserError, match="without a list of its files"):
        list(documentation({"sloe": "1.0"}))


def test_a_real_package_gives_readable_text() -> None:
    texts = list(documentation({"networkx": version("networkx")}))
    assert sum(map(len, texts)) > 500_000
    assert len(set(texts)) == len(texts)
    letters = sum(character.isalpha() or character.isspace() for text in texts for character in text)
    assert letters > 0.8 * sum(map(len, texts))
