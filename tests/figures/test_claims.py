import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_up_results import DOCUMENTS, counts_of, figure_spec, grid, latent_scores_of, metrics_of, sequences_of

from bsc import config as bsc_config
from bsc.claims import report
from bsc.errors import UserError
from bsc.evaluation.bootstrap import Interval, ratios
from bsc.evaluation.differences import units_to_resolve
from bsc.figures import evidence
from bsc.figures.draw import draw
from bsc.figures.evidence import CONTROLS, Evidence, Subject, quantities
from bsc.figures.questions import _continuous, counterpart
from bsc.io import read_json, read_parquet, write_json, write_parquet
from bsc.paths import CODERS, EVALUATION, SCORES

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
    assert table["finding"].value_counts().to_dict() == {1: 3, 2: 2, 3: 6, 4: 2}
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


def test_differences_of_scores_weigh_what_was_sampled(written, tmp_path: Path) -> None:
    coders = grid(seeds=(1,))
    results = written(coders)
    tables = {}
    for coder in coders:
        table = latent_scores_of(coder).assign(sampling_weight=lambda table: 1 + table["latent"] % 7 / 2)
        write_parquet(results / coder.at(SCORES, variant="trained") / "scores.parquet", table)
        tables[coder] = table[(table["scorer"] == "fuzzing") & (table["control"] == "none")]
    claims = judged("claims", coders, results, tmp_path)
    for quantity, by in (("unweighted", lambda table: 1), ("weighted", lambda table: table["firings"])):

        def score(coder, by=by):
            return np.average(tables[coder]["f1"], weights=tables[coder]["sampling_weight"] * by(tables[coder]))

        expected = [mean_over(coders, name, score) for name in ("binary-topk", "topk")]
        row = one(claims, f"fuzzing F1, {quantity}")
        assert row[["binary", "continuous"]].tolist() == pytest.approx(expected, rel=1e-7)
        assert row["low"] < row["difference"] < row["high"]


def test_a_paired_interval_is_far_narrower_than_the_documents_spread(written, tmp_path: Path) -> None:
    coders = grid(seeds=(1,))
    row = one(judged("claims", coders, written(coders), tmp_path), "CE increase (nats/token)")
    rises = [mean_over(coders, name, lambda c: metrics_of(c)["ce"]) for name in ("binary-topk", "topk")]
    assert row["difference"] == pytest.approx(rises[0] - rises[1], abs=0.002)
    assert row["high"] - row["low"] < 0.004  # the documents' own spread gives 0.2
    assert (row["verdict"], row["n"], row["seeds"]) == ("holds", 48, 1)


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
    reach = row["difference"] - row["low"] if row["difference"] > 0 else row["high"] - row["difference"]
    needed = int(row["note"].split("about ")[1].split(" ")[0].replace(",", ""))
    assert needed == pytest.approx(48 * (reach / row["difference"]) ** 2, rel=0.02)


def test_a_document_that_sways_a_verdict_is_named_with_what_it_is_without(written, tmp_path: Path) -> None:
    coders = grid(seeds=(1,), binarisers=("topk", "binary-topk"))
    results, hit = written(coders), 7
    for coder in coders:
        table = sequences_of(coder)
        table.loc[hit, "ce"] += 9.0 if coder.binariser == "topk" else 0.0
        write_parquet(results / coder.at(EVALUATION) / "sequences.parquet", table)
    row = one(judged("claims", coders, results, tmp_path), "CE increase (nats/token)")
    assert row["verdict"] == "undecided"
    assert "The difference has the other sign." in row["note"]
    found = re.search(r"Without document (\d+), which moves it most, it is (\S+) \[(\S+), (\S+)\]: holds\.", row["note"])
    gone = [sequence for sequence, document in enumerate(DOCUMENTS) if document == DOCUMENTS[hit]]
    assert (int(found[1]), len(gone)) == (DOCUMENTS[hit], 1)
    means = {
        name: np.mean([sequences_of(c).drop(gone)["ce"].mean() for c in coders if c.binariser == name])
        for name in ("topk", "binary-topk")
    }
    assert float(found[2]) == pytest.approx(means["binary-topk"] - means["topk"], rel=0.05)
    assert 0 < float(found[3]) <= float(found[2]) <= float(found[4])


def test_the_document_that_sways_most_need_not_be_in_every_cell(written, tmp_path: Path) -> None:
    """Models that split text into other tokens have other documents among their sequences, and other numbers of them."""
    names = ("topk", "binary-topk")
    coders = grid(ks=(16,), seeds=(1,), binarisers=names) + grid(ks=(16,), seeds=(1,), binarisers=names, model="another")
    results = written(coders)
    for coder in coders:
        table = sequences_of(coder)
        if coder.model == "another":
            table = table.assign(document=[900 + sequence // 4 for sequence in range(64)])
            table.loc[8:11, "ce"] += 9.0 if coder.binariser == "topk" else 0.0
        write_parquet(results / coder.at(EVALUATION) / "sequences.parquet", table)
    row = one(judged("claims", coders, results, tmp_path), "CE increase (nats/token)")
    assert (row["verdict"], row["n"], row["cells"]) == ("undecided", 16, 2)
    found = re.search(r"Without document (\d+), which moves it most, it is (\S+) \[", row["note"])
    gone = {"another": [8, 9, 10, 11], "smollm2-135m": []}
    means = [mean_over(coders, name, lambda c: sequences_of(c).drop(gone[c.model])["ce"].mean()) for name in names]
    assert (int(found[1]), float(found[2])) == (902, pytest.approx(means[1] - means[0], rel=0.1))


def test_one_document_decides_nothing(written, tmp_path: Path) -> None:
    coders = grid(ks=(16,), binarisers=("topk", "binary-topk"))
    results = written(coders)
    for coder in coders:
        write_parquet(results / coder.at(EVALUATION) / "sequences.parquet", sequences_of(coder).assign(document=1))
    table = judged("claims", coders, results, tmp_path)
    row = one(table, "FVU")
    assert (row["verdict"], row["n"], row["unit"]) == ("undecided", 1, "documents")
    assert row["difference"] > 0
    assert np.isnan([row["low"], row["high"]]).all()
    assert row["note"] == "An interval needs two documents or more."
    assert one(table, "fuzzing F1, unweighted")["verdict"] == "holds"


def test_where_a_coder_has_too_few_latents_more_seeds_are_asked_for(written, tmp_path: Path) -> None:
    coders = grid(ks=(16,), seeds=(1,), binarisers=("topk", "binary-topk"))
    results = written(coders)
    for coder in coders:
        table = latent_scores_of(coders[0])
        table["f1"] += 1e-4 * (coder.binariser == "topk")
        write_parquet(results / coder.at(SCORES, variant="trained") / "scores.parquet", table)
    row = one(judged("claims", coders, results, tmp_path), "fuzzing F1, weighted")
    assert row["verdict"] == "undecided"
    latents = read_json(results / coders[0].at(SCORES, variant="trained") / "summary.json")["latents"]
    most = latents["scored"] + latents["not_sampled"]
    assert most < len(counts_of(coders[0]))
    assert units_to_resolve(Interval(row["difference"], row["low"], row["high"]), row["n"]) > most
    assert f"all {most:,} latents of a coder that can be scored would not resolve" in row["note"]


def shifted(written, shifts: dict[tuple[str, int], float], spread: float = 0.0):
    """Coders and results in which F1 and cross-entropy of binary coders differ by so much in each cell, F1 with a spread."""
    cells = [(name, k) for name in ("sae", "skip-transcoder") for k in (16, 32)]
    coders = [
        coder
        for name, k in cells
        if (name, k) in shifts
        for coder in grid(architectures=(name,), ks=(k,), seeds=(1,), binarisers=("topk", "binary-topk"))
    ]
    results = written(coders)
    for coder in coders:
        shift = shifts[coder.architecture, coder.k] * (coder.binariser == "binary-topk")
        scores, sequences = latent_scores_of(coders[0]), sequences_of(coders[0])
        noise = np.random.default_rng([5, coder.k, len(coder.architecture)]).normal(0, 1, len(scores))
        f1, ce = 0.5 + shift + spread * noise, sequences["ce"] + shift * (1 + noise[:64])
        write_parquet(results / coder.at(SCORES, variant="trained") / "scores.parquet", scores.assign(f1=f1))
        write_parquet(results / coder.at(EVALUATION) / "sequences.parquet", sequences.assign(ce=ce))
    return coders, results


def test_an_interaction_is_told_from_a_lack_of_data(written, tmp_path: Path) -> None:
    coders, results = shifted(written, {("sae", 16): 0.14, ("skip-transcoder", 16): -0.13}, spread=0.1)
    claims = judged("claims", coders, results, tmp_path)
    for quantity, holds in (("fuzzing F1, weighted", "skip-transcoder"), ("CE increase (nats/token)", "sae")):
        row = one(claims, quantity)
        (fails,) = {"sae", "skip-transcoder"} - {holds}
        assert row["low"] < 0 < row["high"]
        assert row["verdict"] == "differs by cell"
        place = "1 of 2 cells (smollm2-135m/layers.9.mlp/{}, k = 16)"
        assert f"It holds in {place.format(holds)} and does not hold in {place.format(fails)}." in row["note"]
        for advice in ("would resolve", "Without sequence", "other sign", "By itself"):
            assert advice not in row["note"]
    table = judged("comparisons", coders, results, tmp_path)
    table = table[(table["quantity"] == "fuzzing F1, weighted") & (table["question"] == "the paper's findings")]
    assert dict(zip(table["architecture"], table["verdict"], strict=True)) == {
        "all": "differs by cell",
        "sae": "does not hold",
        "skip-transcoder": "holds",
    }


def test_cells_disagree_about_a_match_on_either_side_of_its_margin(written, tmp_path: Path) -> None:
    for low, said in ((-0.01, "holds"), (-0.05, "differs by cell")):
        coders, results = shifted(written, {("sae", 16): 0.01, ("skip-transcoder", 16): low})
        row = one(judged("claims", coders, results, tmp_path), "fuzzing F1, unweighted")
        assert row["verdict"] == said


def test_what_holds_on_average_says_in_how_many_cells_it_does(written, tmp_path: Path) -> None:
    shifts = {("sae", 16): -0.2, ("sae", 32): -0.002, ("skip-transcoder", 16): -0.3, ("skip-transcoder", 32): 0.002}
    coders, results = shifted(written, shifts, spread=0.1)
    row = one(judged("claims", coders, results, tmp_path), "fuzzing F1, weighted")
    assert row["verdict"] == "holds"
    assert "By itself it holds in 2 of 4 cells." in row["note"]


def test_an_average_does_not_hide_the_cell_in_which_the_opposite_holds(written, tmp_path: Path) -> None:
    shifts = {("sae", 16): -0.2, ("sae", 32): -0.2, ("skip-transcoder", 16): -0.3, ("skip-transcoder", 32): 0.1}
    coders, results = shifted(written, shifts, spread=0.1)
    row = one(judged("claims", coders, results, tmp_path), "fuzzing F1, weighted")
    assert row["high"] < 0
    assert row["verdict"] == "differs by cell"
    assert "does not hold in 1 of 4 cells (smollm2-135m/layers.9.mlp/skip-transcoder, k = 32)" in row["note"]


def test_cells_that_agree_are_not_spoken_of(written, tmp_path: Path) -> None:
    for shift, said in ((-0.2, "holds"), (0.2, "does not hold"), (0.0, "undecided")):
        coders, results = shifted(written, {("sae", 16): shift, ("skip-transcoder", 16): shift}, spread=0.1)
        row = one(judged("claims", coders, results, tmp_path), "fuzzing F1, weighted")
        assert row["verdict"] == said
        assert "cells" not in row["note"]


def test_comparisons_have_each_cell_and_grouped_binarisers_meet_groupmax(written, tmp_path: Path) -> None:
    coders = grid(binarisers=("topk", "groupmax", "binary-topk", "gumbel"))
    table = judged("comparisons", coders, written(coders), tmp_path)
    table = table[table["question"] == "the paper's findings"]
    assert dict(table.groupby("binariser")["against"].unique().str[0]) == {"binary-topk": "topk", "gumbel": "groupmax"}
    fvu = table[(table["quantity"] == "FVU") & (table["binariser"] == "gumbel")]
    assert list(fvu["k"]) == ["all", "16", "32"]
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
        ("binary-topk", {"topk.lr4", "nbit"}, "topk.lr4"),
        ("binary-groupmax", {"topk.lr4", "groupmax.lr4"}, "groupmax.lr4"),
    ],
)
def test_a_variant_is_compared_with_its_like(binary: str, there: set[str], expected: str | None) -> None:
    assert counterpart(binary, there, _continuous(binary)) == expected


def test_seeds_that_are_not_shared_are_compared_apart(written, tmp_path: Path) -> None:
    coders = grid(binarisers=("topk",), ks=(16,), seeds=(1,)) + grid(binarisers=("binary-topk",), ks=(16,), seeds=(2, 3))
    row = one(judged("claims", coders, written(coders), tmp_path), "FVU")
    assert row["seeds"] == 1
    assert row["verdict"] == "holds"


def test_the_headline_meets_topk_and_says_which_cells_it_leaves_out(written, tmp_path: Path) -> None:
    coders = grid(binarisers=("groupmax", "binary-topk"), ks=(16,)) + grid(binarisers=("topk", "binary-topk"), ks=(32,))
    row = one(judged("claims", coders, written(coders), tmp_path), "FVU")
    assert (row["continuous_binariser"], row["cells"]) == ("topk", 1)
    assert "1 cell lacks this pair" in row["note"]
    assert "smollm2-135m/layers.9.mlp/skip-transcoder, k = 16" in row["note"]
    whole = grid(binarisers=("topk", "binary-topk"))
    assert "lacks this pair" not in str(one(judged("claims", whole, written(whole), tmp_path), "FVU")["note"])


def asked_of(table: pd.DataFrame, question: str) -> pd.DataFrame:
    found = table[(table["question"] == question) & (table["k"] == "all")]
    return found.set_index(["binariser", "against", "quantity"]).sort_index()


def test_what_lies_between_is_judged_against_both_ends(written, tmp_path: Path) -> None:
    coders = grid(binarisers=("topk", "binary-topk", "nbit.b2", "hybrid"), ks=(16,), seeds=(1,))
    results = written(coders)
    better = sequences_of(next(coder for coder in coders if coder.binariser == "topk"))
    (coder,) = (coder for coder in coders if coder.binariser == "nbit.b2")
    write_parquet(results / coder.at(EVALUATION) / "sequences.parquet", better)
    rows = asked_of(judged("comparisons", coders, results, tmp_path), "where between binary and continuous is the best trade")
    pairs = [(name, end) for name in ("nbit.b2", "hybrid") for end in ("topk", "binary-topk")]
    assert sorted(set(rows.index.droplevel("quantity"))) == sorted(pairs)
    assert set(rows.loc["hybrid", "topk"].index) == set(rows.loc["nbit.b2", "binary-topk"].index)
    ce = "CE increase (nats/token)"
    assert rows.loc[("nbit.b2", "topk", ce), ["difference", "low", "high"]].tolist() == [0, 0, 0]
    assert rows.loc[("nbit.b2", "topk", ce), "verdict"] == "undecided"
    assert rows.loc[("nbit.b2", "binary-topk", ce), "verdict"] == "holds"  # it reconstructs better
    assert rows.loc[("hybrid", "binary-topk", ce), "verdict"] == "does not hold"
    assert rows.loc[("hybrid", "topk", ce), "verdict"] == "holds"  # it reconstructs worse
    own = {name: latent_scores_of(next(c for c in coders if c.binariser == name)) for name in ("nbit.b2", "topk")}
    means = [table[(table["scorer"] == "fuzzing") & (table["control"] == "none")]["f1"].mean() for table in own.values()]
    row = rows.loc["nbit.b2", "topk", "fuzzing F1, unweighted"]
    assert row["difference"] == pytest.approx(means[0] - means[1], abs=1e-7)
    assert row[["value", "against_value"]].tolist() == pytest.approx(means, rel=1e-7)


def test_frequency_control_is_judged_by_its_share_of_firings_and_its_price(written, tmp_path: Path) -> None:
    coders = grid(binarisers=("topk", "binary-topk", "binary-topk.held", "topk.finetuned"), ks=(16,), seeds=(1,))
    results = written(coders)
    held, base = (next(c for c in coders if c.binariser == name) for name in ("binary-topk.held", "binary-topk"))
    write_json(results / held.at(CODERS) / "config.json", {"spec": {"frequency": {"control": "bias"}}})
    calm = counts_of(held).assign(rate=lambda table: table["rate"].clip(upper=0.05))
    write_parquet(results / held.at(EVALUATION) / "latents.parquet", calm)
    dearer = sequences_of(base).assign(ce=lambda table: table["ce"] + 0.01)
    write_parquet(results / held.at(EVALUATION) / "sequences.parquet", dearer)
    table = judged("comparisons", coders, results, tmp_path)
    rows = asked_of(table, "can ultra-high-frequency latents be prevented")
    share, ce = "firings of these latents, of all", "CE increase (nats/token)"
    counts = counts_of(base)
    high = counts["firings"][counts["rate"] > 0.1].sum() / counts["firings"].sum()
    row = rows.loc["binary-topk.held", "binary-topk", share]
    assert (row["verdict"], row["value"], row["difference"]) == ("holds", 0, pytest.approx(-high, rel=1e-6))
    row = rows.loc["binary-topk.held", "binary-topk", ce]  # paired: the price is the same in every document
    assert row[["difference", "low", "high"]].tolist() == pytest.approx([0.01] * 3, abs=1e-7)
    assert row["verdict"] == "holds"
    assert list(rows.loc["binary-topk.held", "topk"].index) == [ce, share]
    assert rows.loc[("binary-topk.held", "topk", share), "verdict"] == "holds"
    settings = asked_of(table, "what does a setting change")
    assert set(settings.index.droplevel("quantity")) == {("topk.finetuned", "topk")}


def with_controls(results: Path, coder, *, first: int) -> pd.Series:
    """Write scores whose every control is nearly 0.1 below the coder's, on latents of the same numbers; return the latter.

    first: the first latent that is scored of the binarised coder.
    """
    own = latent_scores_of(coder)
    own = own[own["control"] == "none"]
    noise = np.random.default_rng(4).normal(0, 1e-4, len(own))
    less = own.assign(f1=own["f1"] - 0.1 + noise)
    write_parquet(
        results / coder.at(SCORES, variant="trained") / "scores.parquet", pd.concat([own, less.assign(control="shuffled")])
    )
    write_parquet(results / coder.at(SCORES, variant="random") / "scores.parquet", less)
    write_parquet(results / coder.at(SCORES, variant="binarised") / "scores.parquet", less[less["latent"] >= first])
    return own[own["scorer"] == "fuzzing"]["f1"]


@pytest.mark.parametrize(("left_out", "paired"), [(0, ["shuffled", "binarised"]), (1, ["shuffled"])])
def test_controls_are_paired_where_their_latents_are_the_coders(left_out, paired, written, tmp_path: Path) -> None:
    coders = grid(binarisers=("topk",), ks=(16,))
    variants = ("trained", "random", "binarised")
    results = written(coders, variants)
    f1 = {
        coder.seed: with_controls(results, coder, first=latent_scores_of(coder)["latent"].min() + left_out) for coder in coders
    }
    draw(figure_spec("comparisons", coders, variants), results, tmp_path / "table")
    rows = asked_of(pd.read_csv(tmp_path / "table.csv"), "do scores survive fair controls")
    width = (rows["high"] - rows["low"])["topk"].unstack()["fuzzing F1, unweighted"]
    apart = 2 * 1.96 * np.sqrt(2) * f1[1].std() / np.sqrt(len(f1[1]))
    for control in ("shuffled", "random", "binarised"):
        row = rows.loc["topk", control, "fuzzing F1, unweighted"]
        assert row["difference"] == pytest.approx(0.1, abs=1e-2)
        assert row["verdict"] == "holds"
        assert row["seeds"] == (2 if control == "shuffled" else 1)  # the others are of the first seed alone
        assert width[control] < 1e-3 if control in paired else width[control] == pytest.approx(apart, rel=0.3)


def test_what_is_paired_is_drawn_together_as_it_is_alone(written, tmp_path: Path, monkeypatch) -> None:
    coders = grid(binarisers=("topk", "binary-topk"), ks=(16,), seeds=(1,))
    variants = ("trained", "random", "binarised")
    results, spec = written(coders, variants), figure_spec("comparisons", coders, variants)
    for place, coder in enumerate(coders):  # the latents of the second's binarised control are not all of its own
        with_controls(results, coder, first=latent_scores_of(coder)["latent"].min() + place)
    every = [Subject(coder, version) for coder in coders for version in ("trained", *CONTROLS)]
    read, draws = [], []
    monkeypatch.setattr(evidence, "read_parquet", lambda path: read.append(path) or read_parquet(path))
    monkeypatch.setattr(evidence, "ratios", lambda sums, **options: draws.append(len(sums)) or ratios(sums, **options))
    together = Evidence(spec, results, every)
    asked = [
        (quantity, subject)
        for quantity in quantities(["fuzzing"])
        for subject in every
        if quantity.finding in (2, 3) or subject.version == "trained"
    ]
    found = [together.replicates(*one) for one in asked]
    assert len(read) == len(set(read))
    assert sorted(draws) == sorted([2] * 3 + [1] * 4 + [3, 1] * 4 + [2, 1, 1] * 4)
    for (quantity, subject), drawn in zip(asked, found, strict=True):
        np.testing.assert_array_equal(drawn, Evidence(spec, results, [subject]).replicates(quantity, subject))


def test_a_coder_without_scores_is_undecided_and_says_so(written, tmp_path: Path) -> None:
    coders = grid(ks=(16, 32), seeds=(1,), binarisers=("topk", "binary-topk"))
    results = written(coders)
    (lost,) = (coder for coder in coders if coder.binariser == "binary-topk" and coder.k == 16)
    path = results / lost.at(SCORES, variant="trained") / "scores.parquet"
    write_parquet(path, latent_scores_of(lost).iloc[:0])
    row = one(judged("claims", coders, results, tmp_path), "fuzzing F1, unweighted")
    assert row["cells"] == 1
    assert "1 cells could not be compared" in row["note"]
    row = one(judged("comparisons", coders, results, tmp_path), "fuzzing F1, unweighted", k="16", against="topk")
    assert (row["verdict"], row["cells"]) == ("undecided", 0)


def test_a_seed_without_scores_counts_for_nothing(written, tmp_path: Path) -> None:
    coders = grid(ks=(16,), seeds=(1, 2), binarisers=("topk", "binary-topk"))
    results = written(coders)
    (lost,) = (coder for coder in coders if coder.binariser == "binary-topk" and coder.seed == 2)
    write_parquet(results / lost.at(SCORES, variant="trained") / "scores.parquet", latent_scores_of(lost).iloc[:0])
    row = one(judged("claims", coders, results, tmp_path), "fuzzing F1, unweighted")
    assert row["seeds"] == 1
    assert row["n"] == len(latent_scores_of(coders[0]).query("scorer == 'fuzzing' and control == 'none'"))


def test_binarisers_of_one_kind_are_compared_with_its_first(written, tmp_path: Path) -> None:
    coders = grid(ks=(16,), seeds=(1,), binarisers=("topk", "groupmax", "binary-topk", "gumbel"))
    table = judged("comparisons", coders, written(coders), tmp_path)
    found = table[table["question"] == "which binariser of a kind is best"]
    assert set(zip(found["binariser"], found["against"], strict=True)) == {("groupmax", "topk"), ("gumbel", "binary-topk")}
    assert found["claim"].nunique() == 4


def test_variants_alone_on_one_side_are_compared(written, tmp_path: Path) -> None:
    coders = grid(ks=(16,), seeds=(1,), binarisers=("topk.lr4", "binary-topk"))
    row = one(judged("claims", coders, written(coders), tmp_path), "FVU")
    assert (row["binary_binariser"], row["continuous_binariser"]) == ("binary-topk", "topk.lr4")


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
    with pytest.raises(UserError, match="not judged yet") as caught:
        report([CONFIG])
    assert caught.value.fix == f"run `snakemake -c2 --configfile {CONFIG} -- results/tables/claims.csv`"
    assert bsc_config.load([CONFIG]).results == "results"
    one_kind = tmp_path / "one_kind.yaml"
    one_kind.write_text("coders: [{architectures: [sae], binarisers: [topk], k: [16]}]")
    with pytest.raises(UserError, match="no finding to judge"):
        report([CONFIG, one_kind])


def test_the_command_says_that_there_is_no_interval(written, tmp_path: Path, monkeypatch) -> None:
    coders = grid(ks=(16,), binarisers=("topk", "binary-topk"))
    results = written(coders)
    for coder in coders:
        write_parquet(results / coder.at(EVALUATION) / "sequences.parquet", sequences_of(coder).assign(document=1))
    draw(figure_spec("claims", coders), results, results / "tables" / "claims")
    monkeypatch.chdir(tmp_path)
    text = report([CONFIG])
    assert "nan" not in text
    assert re.search(r"difference \+\S+ without an interval\n", text)


def test_the_command_prints_which_cells_disagree(written, tmp_path: Path, monkeypatch) -> None:
    coders, results = shifted(written, {("sae", 16): 0.14, ("skip-transcoder", 16): -0.13}, spread=0.1)
    draw(figure_spec("claims", coders), results, results / "tables" / "claims")
    monkeypatch.chdir(tmp_path)
    text = report([CONFIG])
    assert "   fuzzing F1, weighted: differs by cell\n" in text
    assert "It holds in 1 of 2 cells (smollm2-135m/layers.9.mlp/skip-transcoder, k = 16)" in re.sub(r"\s+", " ", text)
