from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_up_results import (
    bins_of,
    counts_of,
    figure_spec,
    grid,
    latent_scores_of,
    metrics_of,
    probe_scores_of,
    probes_of,
    summary_of,
)
from sklearn.metrics import roc_auc_score

from bsc.errors import UserError
from bsc.figures.distributions import COUNTED, F1_BINS, by_rate, histograms, scored_latents
from bsc.figures.draw import draw
from bsc.figures.registry import at_one_k
from bsc.io import write_json, write_parquet
from bsc.paths import LATENTS, PROBES, SCORES

pytestmark = pytest.mark.slow


def drawn(name, coders, results, tmp_path, **style):
    draw(figure_spec(name, coders, **style), results, tmp_path / name)
    assert (tmp_path / f"{name}.pdf").stat().st_size > 1_000
    return pd.read_csv(tmp_path / f"{name}.csv")


def own(coder, control="none"):
    table = latent_scores_of(coder)
    return table[(table["scorer"] == "fuzzing") & (table["control"] == control)]


def test_one_k_is_the_papers_where_most_kinds_have_it() -> None:
    coders = grid(ks=(16, 32, 64))
    assert {coder.k for coder in at_one_k(coders)} == {32}
    assert {coder.k for coder in at_one_k(coders + grid(ks=(64,), architectures=("sae",)))} == {64}
    assert at_one_k([]) == []


def test_f1_by_rate_is_the_mean_of_each_bin(written, tmp_path: Path) -> None:
    coders = grid()
    table = drawn("fig17", coders, written(coders), tmp_path)
    assert set(table["k"]) == {32}
    (coder,) = (coder for coder in coders if coder.binariser == "gumbel" and coder.k == 32)
    rates = counts_of(coder)["rate"].to_numpy()[own(coder)["latent"]]
    expected = own(coder).groupby(np.floor(3 * np.log10(rates)).astype(int))["f1"].mean()
    mine = table[table["binariser"] == "gumbel"].set_index("bin")
    assert mine["f1"].to_dict() == pytest.approx(expected.to_dict(), rel=1e-7)
    alone = mine["latents"] == 1  # of one latent there is no interval
    assert (mine.loc[~alone, "low"] <= mine.loc[~alone, "f1"]).all()
    assert mine.loc[alone, ["low", "high"]].isna().all(axis=None)
    assert (mine.loc[~alone, "f1"] <= mine.loc[~alone, "high"]).all()
    assert mine["latents"].sum() == len(own(coder))


def test_histograms_hold_every_latent_and_rates_are_means(written, tmp_path: Path) -> None:
    coders = grid(seeds=(1,))
    table = drawn("score-distribution", coders, written(coders), tmp_path)
    for (binariser, control), mine in table.groupby(["binariser", "control"]):
        assert mine["share"].sum() == pytest.approx(1)
        (coder,) = (coder for coder in coders if coder.binariser == binariser and coder.k == 32)
        scored = own(coder, control)
        assert mine["true_positive_rate"].iloc[0] == pytest.approx((scored["true_positive"] / 50).mean(), rel=1e-7)
        assert mine["false_positive_rate"].iloc[0] == pytest.approx((scored["false_positive"] / 50).mean(), rel=1e-7)
        low = mine[mine["from"] < 0.295]["share"].sum()
        assert low == pytest.approx((scored["f1"] < F1_BINS[6]).mean(), abs=1e-6)


def weighing(latents: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Latents that stand for one to four, by their number, and each of them so many times."""
    weights = 1 + latents["latent"] % 4
    return latents.assign(sampling_weight=1.0 * weights), latents.loc[latents.index.repeat(weights)]


def test_means_and_histograms_count_a_latent_as_often_as_it_weighs(written) -> None:
    coders = grid(seeds=(1,))
    spec = figure_spec("fig17", coders)
    sampled, several = weighing(scored_latents(spec, written(coders), "fuzzing"))
    one, other = (by_rate(table, spec) for table in (sampled, several))
    for column in ("bin", "rate", "f1"):
        np.testing.assert_allclose(one[column], other[column], rtol=1e-12)
    assert (one["latents"] < other["latents"]).any()
    one, other = (histograms(table) for table in (sampled, several))
    for column in ("from", "share", "true_positive_rate", "false_positive_rate"):
        np.testing.assert_allclose(one[column], other[column], rtol=1e-12)
    assert (one["share"] != histograms(sampled.assign(sampling_weight=1.0))["share"]).any()


def with_embedding(coders, results: Path) -> None:
    """Add what `bsc score` writes where the scorer `embedding` was asked for."""
    for coder in coders:
        folder = results / coder.at(SCORES, variant="trained")
        table = latent_scores_of(coder).astype(dict.fromkeys(COUNTED, "Int64"))
        write_parquet(folder / "scores.parquet", pd.concat([table, areas_of(coder)], ignore_index=True))
        summary = summary_of(coder, "trained")
        found = {control: summary["scorers"]["fuzzing"][control] for control in ("none", "shuffled")}
        write_json(folder / "summary.json", {**summary, "scorers": {**summary["scorers"], "embedding": found}})


def areas_of(coder) -> pd.DataFrame:
    table = latent_scores_of(coder)
    table = table.loc[table["scorer"] == "fuzzing", ["latent", "control", "firings", "sampling_weight"]]
    drawn = np.random.default_rng([coder.k, coder.seed]).uniform(0.4, 1, len(table))
    return table.assign(scorer="embedding", auroc=np.where(table["control"] == "none", drawn, 0.5))


def test_the_aurocs_of_embeddings_stand_beside_f1_and_change_it_not(written, tmp_path: Path) -> None:
    coders = grid(seeds=(1,))
    results = written(coders)
    before = {name: drawn(name, coders, results, tmp_path) for name in ("score-distribution", "fig17", "fig19")}
    with_embedding(coders, results)
    for name in ("fig17", "fig19"):
        pd.testing.assert_frame_equal(drawn(name, coders, results, tmp_path), before[name])
    table = drawn("score-distribution", coders, results, tmp_path)
    own = table[table["measure"] == "f1"].drop(columns="measure").reset_index(drop=True)
    pd.testing.assert_frame_equal(own, before["score-distribution"])
    areas = table[table["measure"] == "auroc"]
    assert areas[["true_positive_rate", "false_positive_rate"]].isna().all(axis=None)
    for (binariser, control), mine in areas.groupby(["binariser", "control"]):
        (coder,) = (coder for coder in coders if coder.binariser == binariser and coder.k == 32)
        expected = areas_of(coder)[lambda table, control=control: table["control"] == control]["auroc"]
        assert mine[mine["from"] > 0.695]["share"].sum() == pytest.approx((expected >= F1_BINS[14]).mean(), abs=1e-6)


def test_tables_and_findings_call_it_auroc(written, tmp_path: Path) -> None:
    coders = grid(seeds=(1,))
    results = written(coders)
    with_embedding(coders, results)
    for name in ("coders", "table1", "claims"):
        draw(figure_spec(name, coders), results, tmp_path / name)
    for name in ("coders", "table1"):
        columns = [column for column in pd.read_csv(tmp_path / f"{name}.csv") if "embedding" in column]
        assert columns
        assert all("embedding_auroc_" in column for column in columns)
    assert "& embedding" in (tmp_path / "table1.tex").read_text()
    assert "embedding: AUROC" in (tmp_path / "table1.tex").read_text()
    claims = pd.read_csv(tmp_path / "claims.csv").set_index("quantity")
    ends = ("unweighted", "weighted", "weighted, too dense at 0", "weighted, too dense at 1")
    assert [name for name in claims.index if "embedding" in name] == [f"embedding AUROC, {end}" for end in ends]
    own = {coder: areas_of(coder)[lambda table: table["control"] == "none"]["auroc"].mean() for coder in coders}
    means = {name: np.mean([own[coder] for coder in coders if coder.binariser == name]) for name in ("topk", "binary-topk")}
    row = claims.loc["embedding AUROC, unweighted"]
    assert row["difference"] == pytest.approx(means["binary-topk"] - means["topk"], rel=1e-6)


@pytest.mark.parametrize("name", ["fig17", "score-distribution"])
def test_no_score_at_all_draws_empty_panels(name: str, written, tmp_path: Path, finished) -> None:
    coders = grid(seeds=(1,))
    assert drawn(name, coders, written(coders, scored=False), tmp_path).empty
    ((figure, note),) = finished
    assert "no latent could be scored" in {text.get_text() for axes in figure.axes for text in axes.texts}
    assert "have 100% of all firings" in note


@pytest.mark.parametrize("name", ["fig17", "score-distribution"])
def test_a_layer_without_a_score_keeps_its_panel(name: str, written, tmp_path: Path, finished) -> None:
    coders = grid(["layers.9.mlp"], seeds=(1,))
    written(coders, scored=False)
    others = grid(["layers.18.mlp"], seeds=(1,))
    drawn(name, coders + others, written(others), tmp_path)
    titles = " ".join(axes.get_title(loc="left") for axes in finished[0][0].axes)
    assert 0 <= titles.find("layer 9") < titles.find("layer 18")


def test_fig19_has_a_point_a_seed_with_intervals_and_bounds(written, finished, tmp_path: Path) -> None:
    coders = grid()
    table = drawn("fig19", coders, written(coders), tmp_path)
    assert len(table) == 6
    bars = [bar for axes in finished[0][0].axes for lines in axes.collections for bar in lines.get_segments()]
    for coder in (coder for coder in coders if coder.k == 32):
        (row,) = table[(table["binariser"] == coder.binariser) & (table["seed"] == coder.seed)].to_dict("records")
        score = summary_of(coder, "trained")["scorers"]["fuzzing"]["none"]["weighted"]
        assert [row["weighted"], row["weighted_low"]] == pytest.approx([score["value"], score["low"]], rel=1e-7)
        bounds = [score["dense_as_zero"], score["dense_as_one"]]
        assert [row["dense_as_zero"], row["dense_as_one"]] == pytest.approx(bounds, rel=1e-7)
        at = pytest.approx([row["ce_increase"], bounds[0], row["ce_increase"], bounds[1]], rel=1e-6)
        assert any([*bar[0], *bar[1]] == at for bar in bars)
        assert row["ce_increase_high"] == pytest.approx(metrics_of(coder)["ce_increase"]["high"], rel=1e-7)


def test_seeds_shows_kinds_with_several_and_no_others(written, tmp_path: Path) -> None:
    coders = grid()
    table = drawn("seeds", coders, written(coders), tmp_path)
    assert set(table["binariser"]) == {"topk", "binary-topk"}
    assert (table.groupby(["binariser", "k"]).size() == 2).all()
    with pytest.raises(UserError, match="a second seed"):
        draw(figure_spec("seeds", grid(seeds=(1,))), tmp_path, tmp_path / "none")


def test_table2_is_one_k_of_table1(written, tmp_path: Path) -> None:
    coders = grid()
    results = written(coders)
    for name in ("table1", "table2"):
        draw(figure_spec(name, coders), results, tmp_path / name)
    first, second = (pd.read_csv(tmp_path / f"{name}.csv") for name in ("table1", "table2"))
    expected = first[(first["k"] == 32) | first["k"].isna()].reset_index(drop=True)
    pd.testing.assert_frame_equal(second, expected)
    assert "tab:table2" in (tmp_path / "table2.tex").read_text()


def test_ablation_shows_each_bin_of_the_first_seeds(written, tmp_path: Path) -> None:
    coders = grid(architectures=("sae", "skip-transcoder"))
    table = drawn("fig18", coders, written(coders), tmp_path)
    assert set(table["k"]) == {32}
    assert set(table["seed"]) == {1}
    for coder in (coder for coder in coders if coder.k == 32 and coder.seed == 1):
        mine = table[(table["binariser"] == coder.binariser) & (table["architecture"] == coder.architecture)]
        assert mine["ce_change"].tolist() == pytest.approx(bins_of(coder)["ce_change"].tolist(), rel=1e-7)
        assert mine["share"].sum() == pytest.approx(1)
        assert mine["unscored"].iloc[0] == pytest.approx(1 - 12_000 / counts_of(coder)["firings"].sum(), rel=1e-6)


def test_ablation_of_nothing_is_drawn_empty(written, tmp_path: Path) -> None:
    coders = grid(seeds=(1,))
    results = written(coders, scored=False)
    draw(figure_spec("fig18", coders), results, tmp_path / "fig18")
    assert len((tmp_path / "fig18.csv").read_text().splitlines()) == 1


def test_ablation_of_a_coder_that_never_fires_is_drawn_empty(written, tmp_path: Path) -> None:
    coders = grid(seeds=(1,), ks=(16,), binarisers=("topk",))
    results = written(coders, scored=False)
    silent = counts_of(coders[0]).assign(firings=0, rate=0.0)
    write_parquet(results / coders[0].at(LATENTS, variant="trained") / "counts.parquet", silent)
    draw(figure_spec("fig18", coders), results, tmp_path / "fig18")
    assert len((tmp_path / "fig18.csv").read_text().splitlines()) == 1


def test_probing_shows_latents_beside_the_same_activations(written, tmp_path: Path) -> None:
    coders = grid()
    table = drawn("fig21", coders, written(coders), tmp_path)
    for coder in (coder for coder in coders if coder.k == 32 and coder.seed == 1):
        mine = table[(table["binariser"] == coder.binariser)].reset_index(drop=True)
        for column in ("auroc", "auroc_less_raw", "auroc_less_raw_high"):
            assert mine[column].tolist() == pytest.approx(probes_of(coder)[column].tolist(), rel=1e-7, nan_ok=True)
    assert (table["test_documents"] == 27).all()


def test_probes_of_coders_are_compared_document_by_document(written, tmp_path: Path) -> None:
    coders = grid(seeds=(1,), ks=(32,))
    results = written(coders)
    copied = next(coder for coder in coders if coder.binariser == "gumbel")  # of topk, as groupmax is not there
    topk = next(coder for coder in coders if coder.binariser == "topk")
    probe_scores_of(topk).to_parquet(results / copied.at(PROBES) / "scores.parquet")
    table = drawn("fig21", coders, results, tmp_path)
    latents, columns = table[table["source"] == "latents"], [f"auroc_less_against{end}" for end in ("", "_low", "_high")]
    assert table.loc[(table["source"] == "raw") | (table["binariser"] == "topk"), ["against", *columns]].isna().all(axis=None)
    assert set(latents.loc[latents["binariser"] != "topk", "against"]) == {"topk"}
    assert (latents.loc[latents["binariser"] == "gumbel", columns] == 0).all(axis=None), "the same probe, whatever is drawn"
    mine = next(coder for coder in coders if coder.binariser == "binary-topk")
    found = latents[latents["binariser"] == "binary-topk"].set_index(["pooling", "count", "label"])
    for (pooling, count), one in probe_scores_of(mine).groupby(["pooling", "count"]):
        other = probe_scores_of(topk).query("pooling == @pooling and count == @count")
        expected = roc_auc_score(one["positive"], one["score"]) - roc_auc_score(other["positive"], other["score"])
        for label in ("code", "mean over labels"):
            value, low, high = found.loc[(pooling, count, label), columns]
            assert value == pytest.approx(expected, abs=1e-7)
            assert low <= value <= high
            assert high - low < 0.3, "apart, either has an interval of 0.4"

    other = probe_scores_of(mine)
    other["document"] += 1
    other.to_parquet(results / mine.at(PROBES) / "scores.parquet")
    with pytest.raises(ValueError, match="different documents"):
        draw(figure_spec("fig21", coders), results, tmp_path / "none")


@pytest.mark.parametrize("labels", [2, 5])
def test_two_labels_are_said_to_be_one_probe(labels: int, written, tmp_path: Path, finished) -> None:
    coders = grid(seeds=(1,))
    results = written(coders)
    for coder in coders:
        write_json(results / coder.at(PROBES) / "metrics.json", {"documents": 90, "test_documents": 27, "labels": labels})
    drawn("fig21", coders, results, tmp_path)
    assert ("one probe" in finished[0][1], "mean over 5 labels" in finished[0][1]) == (labels == 2, labels == 5)


def test_bits_go_from_one_to_infinitely_many(written, tmp_path: Path) -> None:
    coders = grid(binarisers=("topk", "binary-topk", "nbit.b1", "nbit.b3", "gumbel"))
    table = drawn("fig22", coders, written(coders), tmp_path, places={"nbit.b1": 8, "nbit.b3": 9})
    fvu = table[table["measure"] == "fvu"].set_index("binariser")
    assert fvu["bits"].to_dict() == {"topk": np.inf, "binary-topk": 1, "nbit.b1": 1, "nbit.b3": 3}
    assert set(table["k"]) == {32}
    (coder,) = (coder for coder in coders if coder.binariser == "nbit.b3" and coder.k == 32)
    assert fvu.loc["nbit.b3", "value"] == pytest.approx(metrics_of(coder)["fvu"]["value"], rel=1e-7)
    with pytest.raises(UserError, match="an `nbit` coder"):
        draw(figure_spec("fig22", grid()), tmp_path, tmp_path / "none")


def test_variants_of_binarisers_are_drawn_and_judged_as_their_own(written, tmp_path: Path) -> None:
    coders = grid(binarisers=("topk", "binary-topk", "binary-topk.capped"), seeds=(1,))
    results = written(coders)
    assert "binary-topk.capped" in set(drawn("fig19", coders, results, tmp_path, places={"binary-topk.capped": 3})["binariser"])
    draw(figure_spec("comparisons", coders), results, tmp_path / "comparisons")
    table = pd.read_csv(tmp_path / "comparisons.csv")
    pairs = table[table["question"] == "the paper's findings"][["binariser", "against"]].drop_duplicates()
    assert pairs.to_numpy().tolist() == [["binary-topk", "topk"], ["binary-topk.capped", "topk"]]
