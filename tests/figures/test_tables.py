import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_results import figure_spec, grid, metrics_of, summary_of

from bsc.figures.draw import draw
from bsc.figures.latex import concise, escape
from bsc.paths import JOINT

VARIANTS = ("trained", "random", "binarised")


@pytest.fixture
def coders():
    return grid() + grid(hookpoints=(JOINT,), seeds=(1,))


def table_of(name: str, coders, results: Path, output: Path) -> pd.DataFrame:
    draw(figure_spec(name, coders, VARIANTS), results, output / name)
    return pd.read_csv(output / f"{name}.csv")


def test_coders_has_one_row_a_coder_with_every_interval(coders, written, tmp_path: Path) -> None:
    table = table_of("coders", coders, written(coders, VARIANTS), tmp_path)
    rows = table[table["kind"] == "coder"]
    assert len(rows) == len(coders)
    for coder in coders:
        here = rows[(rows[list(vars(coder))] == list(vars(coder).values())).all(axis=1)]
        assert len(here) == 1
        shown, metrics = here.iloc[0], metrics_of(coder)
        assert shown["baseline_ce"] == metrics["baseline"]["ce"]
        left_out = np.nan if coder.hookpoint == JOINT else metrics["variance_left_out"]
        assert shown["variance_left_out"] == pytest.approx(left_out, nan_ok=True)
        for name in ("ce_increase", "fvu", "l0"):
            ends = metrics[name] or {"value": np.nan, "low": np.nan, "high": np.nan}
            found = shown[[name, f"{name}_low", f"{name}_high"]].tolist()
            assert found == pytest.approx([ends["value"], ends["low"], ends["high"]], rel=1e-7, nan_ok=True)


def test_coders_has_scores_of_controls_and_variants(coders, written, tmp_path: Path) -> None:
    table = table_of("coders", coders, written(coders, VARIANTS), tmp_path)
    rows = table[(table["binariser"] == "topk") & (table["k"] == 16) & (table["hookpoint"] != JOINT)].set_index("seed")
    coder = next(coder for coder in coders if coder.binariser == "topk" and coder.k == 16)
    for variant, front in (("trained", ""), ("random", "random_"), ("binarised", "binarised_")):
        scores = summary_of(coder, variant)["scorers"]["fuzzing"]
        assert rows.loc[1, f"{front}fuzzing_weighted_low"] == pytest.approx(scores["none"]["weighted"]["low"], rel=1e-7)
        assert rows.loc[1, f"{front}fuzzing_weighted_effective_sample_size"] == 46.5
        shuffled = scores["shuffled"]["unweighted"]["value"]
        assert rows.loc[1, f"{front}fuzzing_shuffled_unweighted"] == pytest.approx(shuffled, rel=1e-7)
    assert np.isnan(rows.loc[2, "random_fuzzing_weighted"])
    assert rows.loc[1, "latents_scored"] == 184
    assert (rows["fuzzing_unparsed_share"] == 0).all()
    assert (rows["latents_unexplained"] == 0).all()


def test_coders_has_what_a_language_model_said_that_could_not_be_read(coders, written, tmp_path: Path) -> None:
    results = written(coders, VARIANTS)
    draw(figure_spec("coders", coders, VARIANTS, "some-llm"), results, tmp_path / "coders")
    table = pd.read_csv(tmp_path / "coders.csv")
    rows = table[(table["binariser"] == "topk") & (table["k"] == 32) & (table["hookpoint"] != JOINT)].set_index("seed")
    for name in ("fuzzing_unparsed_share", "detection_shuffled_unparsed_share"):
        assert rows.loc[1, name] == pytest.approx(0.032)
    assert rows.loc[1, ["latents_unexplained", "random_latents_unexplained"]].tolist() == [2, 2]


def test_references_are_rows_of_their_own(coders, written, tmp_path: Path) -> None:
    table = table_of("coders", coders, written(coders, VARIANTS), tmp_path)
    kinds = table.groupby("hookpoint")["kind"].value_counts()
    for hookpoint in ("layers.9.mlp", JOINT):
        assert kinds[hookpoint, "zero-ablated"] == kinds[hookpoint, "mean-ablated"] == kinds[hookpoint, "linear"] == 1
    assert table.loc[table["kind"] == "zero-ablated", "binariser"].isna().all()


def test_saes_have_no_linear_reference(written, tmp_path: Path) -> None:
    coders = grid(architectures=("sae",)) + grid(("layers.3.mlp",), architectures=("sae", "transcoder"))
    table = table_of("coders", coders, written(coders, VARIANTS), tmp_path)
    assert table.loc[table["kind"] == "linear", "hookpoint"].tolist() == ["layers.3.mlp"]


def test_table1_is_means_over_seeds(coders, written, tmp_path: Path) -> None:
    table = table_of("table1", coders, written(coders, VARIANTS), tmp_path)
    here = (table["binariser"] == "topk") & (table["k"] == 32) & (table["hookpoint"] == "layers.9.mlp")
    values = [
        metrics_of(coder)["ce_increase"]["value"]
        for coder in coders
        if coder.binariser == "topk" and coder.k == 32 and coder.hookpoint != JOINT
    ]
    (shown,) = table[here].to_dict("records")
    assert shown["seeds"] == 2
    assert shown["ce_increase"] == pytest.approx(np.mean(values), rel=1e-7)
    assert shown["ce_increase_sem"] == pytest.approx(abs(values[0] - values[1]) / 2, rel=1e-6)
    assert np.isnan(table.loc[table["binariser"] == "gumbel", "ce_increase_sem"]).all()


def test_latex_rows_have_all_cells_and_nothing_unescaped(coders, written, tmp_path: Path) -> None:
    table_of("table1", coders, written(coders, VARIANTS), tmp_path)
    text = (tmp_path / "table1.tex").read_text()
    columns = len(re.search(r"\\begin\{longtable\}\{(l*r*)\}", text)[1])
    rows = [line for line in text.splitlines() if " & " in line]
    assert len(rows) == 2 + 8 + 8 + 2 * 3
    assert {line.count("&") + 1 for line in rows} == {columns}
    assert text.count("{") == text.count("}")
    assert re.search(r"(?<!\\)_", text.replace("$L_0$", "")) is None


@given(st.text())
@settings(deadline=None)
def test_escaped_text_has_no_special_character_left(text: str) -> None:
    plain = escape(text)
    for macro in (r"\textbackslash{}", r"\textasciitilde{}", r"\textasciicircum{}", *(f"\\{c}" for c in "&%$#_{}")):
        plain = plain.replace(macro, "")
    assert not set(plain) & set("\\&%$#_{}~^")


def test_escapes_are_those_of_latex() -> None:
    assert escape(r"50% of a_b & {c} #1 $x$ ~ ^ \d") == (
        r"50\% of a\_b \& \{c\} \#1 \$x\$ \textasciitilde{} \textasciicircum{} \textbackslash{}d"
    )


@pytest.mark.parametrize(
    ("value", "error", "digits", "shown"),
    [
        (0.1234, 0.0041, 3, "0.123(4)"),
        (0.1234, float("nan"), 3, "0.123"),
        (-2.5, 0.25, 1, "$-$2.5(2)"),
        (float("nan"), float("nan"), 2, "--"),
        (12.0, 1.26, 1, "12.0(13)"),
        (0.0031, 0.00004, 3, "0.00310(4)"),
        (-0.0031, 0.0005, 3, "$-$0.0031(5)"),
        (0.5, 0.0, 3, "0.500(0)"),
        (0.5, 1e-17, 3, "0.500(0)"),
    ],
)
def test_errors_stand_in_units_of_the_last_digit(value: float, error: float, digits: int, shown: str) -> None:
    assert concise(value, error, digits) == shown
