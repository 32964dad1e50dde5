import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_up_results import WINDOW, WORDS, figure_spec, grid, window_spec, write_text_panels

from bsc.autointerp.explain import open_windows
from bsc.autointerp.windows import TEST, FiringWindows
from bsc.figures.draw import draw
from bsc.figures.windows import Choice, Interpreted
from bsc.io import read_parquet
from bsc.paths import LATENTS, SCORES, TOKENS
from bsc.stages import coders_of

pytestmark = pytest.mark.slow


def panel(name: str, tmp_path: Path, **options: int) -> tuple[pd.DataFrame, Path]:
    spec = figure_spec(name, grid())
    (coder,) = coders_of(spec.coders)
    write_text_panels(tmp_path / "results", coder, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw(spec, tmp_path / "results", tmp_path / name)
    assert (tmp_path / f"{name}.pdf").stat().st_size > 1_000
    table = pd.read_csv(tmp_path / f"{name}.csv", keep_default_na=False)
    return table, tmp_path / "results" / coder.at(SCORES, variant="trained")


def test_fig4_shows_windows_of_every_decile_from_the_strongest(tmp_path: Path) -> None:
    table, scores = panel("fig4", tmp_path)
    assert table["group"].unique().tolist() == [f"decile {number}" for number in range(10, 0, -1)]
    maxima = table.groupby("window", sort=False)["activation"].max().to_numpy()
    assert (maxima > 0).all()
    assert (np.diff(maxima) <= 0).all()
    assert [WORDS[token] for token in table["token"]] == table["text"].tolist()
    f1 = read_parquet(scores / "scores.parquet").query("scorer == 'fuzzing' and control == 'none'").set_index("latent")["f1"]
    (latent,) = table["latent"].unique()
    assert f1[latent] == f1.sort_values().iloc[(len(f1) - 1) // 2]


def chosen(weights: list[float], *, best: bool = False) -> Choice:
    scores = pd.DataFrame({"scorer": "fuzzing", "f1": [0.1, 0.4, 0.6, 0.9], "firings": 9, "latent": range(4)})
    return Interpreted(None, None, None, None, scores.assign(sampling_weight=weights), None).choose(best=best)


def test_the_median_latent_is_that_of_the_sampling_weights() -> None:
    weights = [1, 1, 1, 1], [5, 1, 1, 1], [1, 1, 1, 4], [1, 1, 2.5, 1]
    assert [chosen(one).latent for one in weights] == [1, 0, 3, 2]


def test_a_median_by_weights_is_called_so() -> None:
    assert chosen([1, 1, 1, 1]).why == "Fuzzing F1 0.40, the median of 4 scored latents"
    assert chosen([3, 3, 3, 3]).why == "Fuzzing F1 0.40, the median of 4 scored latents"
    assert chosen([5, 1, 1, 1]).why == "Fuzzing F1 0.10, the weighted median of 4 scored latents"
    assert chosen([5, 1, 1, 1], best=True).why == "Fuzzing F1 0.90, the best of 4 scored latents"


def test_fig4_shows_the_half_that_tests_are_made_of_with_deciles_by_rank_in_it(tmp_path: Path) -> None:
    table, _ = panel("fig4", tmp_path)
    (coder,) = coders_of(figure_spec("fig4", grid()).coders)
    latents = tmp_path / "results" / coder.at(LATENTS, variant="trained")
    cache, windows = open_windows(window_spec(), latents, tmp_path / "results" / coder.at(TOKENS))
    assert (windows.halves[table["window"].unique()] == TEST).all()
    maxima = FiringWindows.of(cache, table["latent"].iloc[0], WINDOW).within(windows, TEST).maxima
    shown = table.groupby(["group", "window"])["activation"].max()
    ranks = np.array([(maxima < value * (1 - 1e-6)).sum() for value in shown])
    assert [f"decile {10 * rank // len(maxima) + 1}" for rank in ranks] == shown.index.get_level_values("group").tolist()


def test_fig5_shows_the_best_latent_and_every_wrong_answer(tmp_path: Path) -> None:
    table, scores = panel("fig5", tmp_path)
    (latent,) = table["latent"].unique()
    assert latent == 0
    firing = table[table["group"] == "firing"]
    assert firing.groupby("window")["activation"].max().eq(1).all()
    assert set(firing.loc[firing["activation"] > 0, "text"]) == {" run"}
    answers = read_parquet(scores / "answers.parquet").query("control == 'none' and latent == 0")
    wrong = answers[answers["answer"].astype(int) != answers["firing"].astype(int)]
    shown = table[table["group"] != "firing"]
    assert len(shown) == min(len(wrong), 6) * WINDOW
    assert set(shown["window"]) <= set(wrong["window"])
    silent = shown[shown["group"].str.contains("silent")]
    assert (silent["activation"] == 0).all()


def test_without_a_scored_latent_the_most_frequent_one_is_shown(tmp_path: Path) -> None:
    table, _ = panel("fig4", tmp_path, scored=False, contexts=6)
    assert table["latent"].unique().tolist() == [2]
    assert table.groupby("window")["activation"].max().gt(0).all()
    assert table["window"].nunique() == len(table) // WINDOW <= 12


def test_without_a_scored_latent_there_is_no_counterexample(tmp_path: Path) -> None:
    table, _ = panel("fig5", tmp_path, scored=False, contexts=6)
    assert table["group"].unique().tolist() == ["firing"]


def test_without_a_firing_latent_the_panel_says_so(tmp_path: Path) -> None:
    table, _ = panel("fig5", tmp_path, silent=True)
    assert len(table) == 0
