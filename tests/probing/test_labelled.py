import ast
import json
from importlib.metadata import version

import pandas as pd
import pytest

from bsc.corpus.labelled import code, labelled_documents
from bsc.errors import UserError

LONG = "words " * 50


def rows(count):
    return [{"text": f"{number} {LONG}", "label": number % 3, "other": "x"} for number in range(count)]


@pytest.mark.parametrize("ending", ["jsonl", "parquet", "csv"])
def test_files_give_text_and_label_as_text(tmp_path, labelled_spec, ending):
    path = tmp_path / f"texts.{ending}"
    table = [*rows(5), {"text": "short", "label": 0, "other": "x"}, {"text": None, "label": 1, "other": "x"}, *rows(4)]
    if ending == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in table))
    else:
        frame = pd.DataFrame(table)
        frame.to_parquet(path) if ending == "parquet" else frame.to_csv(path, index=False)
    found = labelled_documents(labelled_spec(files=[str(path)], documents=7))
    assert [label for _, label in found] == ["0", "0", "0", "1", "1", "2", "2"], "as equally many of each as there are"
    assert all(text.endswith(LONG) for text, _ in found)


def test_rows_that_are_sorted_by_label_are_balanced(tmp_path, labelled_spec):
    """As of many a data set; and the choice does not depend on the order."""
    table, found = sorted(rows(300), key=lambda row: row["label"]), []
    for name, order in (("sorted", table), ("reversed", table[::-1])):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in order))
        found.append(labelled_documents(labelled_spec(files=[str(path)], documents=60)))
    assert found[0] == found[1]
    assert [label for _, label in found[0]] == ["0"] * 20 + ["1"] * 20 + ["2"] * 20
    assert len({text for text, _ in found[0]}) == 60


def test_a_missing_column_is_named(tmp_path, labelled_spec):
    path = tmp_path / "texts.jsonl"
    path.write_text(json.dumps(rows(1)[0]) + "\n")
    with pytest.raises(UserError, match=r"no column `sort`") as raised:
        labelled_documents(labelled_spec(files=[str(path)], label_column="sort"))
    assert "`other`" in str(raised.value)
    assert "probing.label_column" in str(raised.value)


def test_files_of_other_kinds_and_broken_ones_are_refused(tmp_path, labelled_spec):
    (tmp_path / "texts.txt").write_text(LONG)
    with pytest.raises(UserError, match=r"\.parquet or \.csv"):
        labelled_documents(labelled_spec(files=[str(tmp_path / "texts.txt")]))
    (tmp_path / "texts.parquet").write_bytes(b"nothing")
    with pytest.raises(UserError, match="cannot be read"):
        labelled_documents(labelled_spec(files=[str(tmp_path / "texts.parquet")]))


def test_packages_are_told_by_their_names(labelled_spec):
    versions = {name: version(name) for name in ("submitit", "jaxtyping")}
    found = labelled_documents(labelled_spec(source="documentation", versions=versions, documents=8))
    assert sorted(label for _, label in found) == ["jaxtyping"] * 4 + ["submitit"] * 4
    assert found == labelled_documents(labelled_spec(source="documentation", versions=versions, documents=8))


def test_code_has_no_docstrings_and_prose_is_documentation(labelled_spec):
    versions = {"submitit": version("submitit")}
    found = labelled_documents(labelled_spec(source="documentation", versions=versions, labels="kind", documents=8))
    assert sorted({label for _, label in found}) == ["code", "prose"]
    for text in code(versions):
        if len(text) < 4_000:
            tree = ast.parse(text)
            assert ast.get_docstring(tree) is None
            assert not any(
                ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, ast.ClassDef | ast.FunctionDef)
            )


def test_a_package_that_is_not_there_is_named():
    with pytest.raises(UserError, match="`no-such-package` is not installed"):
        list(code({"no-such-package": "1"}))
