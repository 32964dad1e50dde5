from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_up_results import figure_spec, grid, latent_scores_of, metrics_of, sequences_of

from bsc import config as bsc_config
from bsc.claims import report
from bsc.errors import UserError
from bsc.figures.claims import _counterpart
from bsc.figures.draw import draw
from bsc.io import write_parquet
from bsc.paths import EVALUATION, SCORES

CONFIG = Path(__file__).parents[2] / "config" / "config.yaml"


def judged(name: str, coders, results: Path, tmp_path: Path) -> pd.DataFrame:
    draw(figure_spec(name, coders), results, tmp_path / name)
    return pd.read_csv(tmp_path / f"{name}.csv")


def one(table: pd.DataFrame, quantity: str, **keys) -> pd.Series:
    found = table[table["quantity"] == quantity]
    for key, value in keys.items():
        found = found[found[key] == value]
    assert len(found) == 1
    return found.iloc[0]


def mean_over(coders, binariser, statistic):
    return np.mean([statistic(coder) for coder in coders if coder.binariser == binariser])


def test_every_finding_has_rows_and_the_headline_pair(written, tmp_path: Path) -> None:
    coders = grid()
    table = judged("claims", coders, written(coders), tmp_path)
    assert table["finding"].value_counts().to_dict() == {1: 2, 2: 2, 3: 6, 4: 2}
    assert set(table["binary_binariser"]) == {"binary-topk"}
    assert set(table["continuous_binariser"]) == {"topk"}
    assert (table["cells"] == 2).all()
    assert (table["seeds"] == 2).all()


def test_differences_are_those_of_the_means(written, tmp_path: Path) -> None:
    coders = grid()
    table = judged("claims", coders, written(coders), tmp_path)

    def fvu(coder):
        found = sequences_of(coder)
        return found["squared_error"].sum() / found["squared_deviation"].sum()

    def weighted(coder):
        found = latent_scores_of(coder)
        found = found[(found["scorer"] == "fuzzing") & (found["control"] == "none")]
        return (found["f1"] * found["firings"]).sum() / found["firings"].sum()

    for quantity, statistic in (("FVU", fvu), ("fuzzing F1, weighted", weighted)):
        binary, continuous = (mean_over(coders, name, statistic) for name in ("binary-topk", "topk"))
        row = one(table, quantity)
        assert row[["binary", "continuous"]].tolist() == pytest.approx([binary, continuous], rel=1e-7)
        assert row["difference"] == pytest.approx(binary - continuous, rel=1e-6)
        assert row["low"] < row["difference"] < row["high"]
    dense = 0.3 / 0.9
    at_one = one(table, "fuzzing F1, weighted, too dense at 1")
    assert at_one["binary"] == pytest.approx(dense + (1 - dense) * mean_over(coders, "binary-topk", weighted), rel=1e-6)


def test_a_paired_interval_is_far_narrower_than_the_sequences_spread(written, tmp_path: Path) -> None:
    coders = grid(seeds=(1,))
    row = one(judged("claims", coders, written(coders), tmp_path), "CE increase (nats/token)")
    rises = [mean_over(coders, name, lambda c: metrics_of(c)["ce"]) for name in ("binary-topk", "topk")]
    assert row["difference"] == pytest.approx(rises[0] - rises[1], abs=0.002)
    assert row["high"] - row["low"] < 0.004  # the sequences' own spread gives 0.2
    assert (row["verdict"], row["n"], row["seeds"]) == ("holds", 64, 1)


def test_verdicts_are_those_of_the_made_up_numbers(written, tmp_path: Path) -> None:
    coders = grid()
    table = judged("claims", coders, written(coders), tmp_path)
    assert one(table, "FVU")["verdict"] == "holds"
    assert one(table, "latents on > 10% of tokens, of all")["verdict"] == "holds"
    assert one(table, "fuzzing F1, unweighted")["verdict"] == "holds"
    assert one(table, "fuzzing F1, weighted")["verdict"] == "holds"


def test_what_is_undecided_says_what_would_decide_it(written, tmp_path: Path) -> None:
    coders = grid(ks=(16,), seeds=(1,), binarisers=("topk", "binary-topk"))
    results = written(coders)
    noise = np.random.default_rng(3).normal(0, 1, 64)
    binary, continuous = (next(c for c in coders if c.binariser == name) for name in ("binary-topk", "topk"))
    same = sequences_of(continuous)
    write_parquet(results / binary.at(EVALUATION) / "sequences.parquet", same.assign(ce=same["ce"] + noise))
    row = one(judged("claims", coders, results, tmp_path), "CE increase (nats/token)")
    assert row["verdict"] == "undecided"
    half, needed = (row["high"] - row["low"]) / 2, int(row["note"].split("about ")[1].split(" ")[0].replace(",", ""))
    assert needed == pytest.approx(64 * (half / row["difference"]) ** 2, rel=0.02)


def test_comparisons_have_each_cell_and_grouped_binarisers_meet_groupmax(written, tmp_path: Path) -> None:
    coders = grid(binarisers=("topk", "groupmax", "binary-topk", "gumbel"))
    table = judged("comparisons", coders, written(coders), tmp_path)
    assert dict(table.groupby("binary_binariser")["continuous_binariser"].unique().str[0]) == {
        "binary-topk": "topk",
        "gumbel": "groupmax",
    }
    fvu = table[(table["quantity"] == "FVU") & (table["binary_binariser"] == "gumbel")]
    assert sorted(fvu["k"]) == ["16", "32", "all"]
    assert fvu.set_index("k").loc["all", "difference"] == pytest.approx(fvu[fvu["k"] != "all"]["difference"].mean(), rel=1e-7)


@pytest.mark.parametrize(
    ("binary", "there", "expected"),
    [
        ("binary-topk", {"topk", "topk.finetuned"}, "topk"),
        ("binary-topk.finetuned", {"topk", "topk.finetuned"}, "topk.finetuned"),
        ("binary-topk.capped", {"topk", "topk.finetuned"}, "topk"),
        ("binary-groupmax.finetuned", {"topk", "topk.finetuned"}, "topk.finetuned"),
        ("binary-groupmax.finetuned", {"groupmax", "topk"}, "groupmax"),
        ("binary-topk.finetuned", {"nbit"}, None),
    ],
)
def test_a_variant_is_compared_with_its_like(binary: str, there: set[str], expected: str | None) -> None:
    assert _counterpart(binary, there) == expected


def test_seeds_that_are_not_shared_are_compared_apart(written, tmp_path: Path) -> None:
    coders = grid(binarisers=("topk",), ks=(16,), seeds=(1,)) + grid(binarisers=("binary-topk",), ks=(16,), seeds=(2, 3))
    row = one(judged("claims", coders, written(coders), tmp_path), "FVU")
    assert row["seeds"] == 1
    assert row["verdict"] == "holds"


def test_a_coder_without_scores_is_undecided_and_says_so(written, tmp_path: Path) -> None:
    coders = grid(ks=(16, 32), seeds=(1,), binarisers=("topk", "binary-topk"))
    results = written(coders)
    (lost,) = (coder for coder in coders if coder.binariser == "binary-topk" and coder.k == 16)
    path = results / lost.at(SCORES, variant="trained") / "scores.parquet"
    write_parquet(path, latent_scores_of(lost).iloc[:0])
    row = one(judged("claims", coders, results, tmp_path), "fuzzing F1, unweighted")
    assert row["cells"] == 1
    assert "1 cells could not be compared" in row["note"]
    row = one(judged("comparisons", coders, results, tmp_path), "fuzzing F1, unweighted", k="16")
    assert (row["verdict"], row["cells"]) == ("undecided", 0)


def test_a_config_with_one_kind_of_coder_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a binary and a continuous coder"):
        draw(figure_spec("claims", grid(binarisers=("topk",))), tmp_path, tmp_path / "claims")


def test_the_command_prints_every_row(written, tmp_path: Path, monkeypatch) -> None:
    coders = grid()
    results = written(coders)
    draw(figure_spec("claims", coders), results, results / "tables" / "claims")
    monkeypatch.chdir(tmp_path)
    text = report([CONFIG])
    table = pd.read_csv(results / "tables" / "claims.csv")
    for row in table.to_dict("records"):
        assert f"{row['quantity']}: {row['verdict']}" in text
        assert f"{row['difference']:+.4g}" in text
    assert text.startswith("1. binary coders reconstruct worse")
    assert max(map(len, text.splitlines())) <= 128
    (results / "tables" / "claims.csv").unlink()
    with pytest.raises(UserError, match="not judged yet"):
        report([CONFIG])
    assert bsc_config.load([CONFIG]).results == "results"
