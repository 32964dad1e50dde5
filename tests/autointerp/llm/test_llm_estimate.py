"""The estimate, before anything is there and in the middle of a run."""

import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from autointerp_world import World, windows_spec
from loopback import served
from test_llm_stages import rule

from bsc import io, paths
from bsc.autointerp import costs, samples
from bsc.autointerp.costs import Asked
from bsc.autointerp.estimate import report
from bsc.autointerp.explain import explain
from bsc.autointerp.firings import LatentCache
from bsc.autointerp.llm.answers import AnswerCache
from bsc.autointerp.llm.messages import Reply, Request, Sampling
from bsc.autointerp.samples import census
from bsc.autointerp.score import score
from bsc.config import load
from bsc.io import read_manifest, write_manifest, write_parquet
from bsc.spec import dump
from bsc.stages import Plan

CONFIG = Path(__file__).parents[3] / "config" / "smoke.yaml"
PRICES = {"input": 2.0, "output": 8.0}


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One coder of the smoke grid, and two language models: one that explains and one that scores."""
    raw = yaml.safe_load(CONFIG.read_text())
    raw["results"] = str(tmp_path / "results")
    raw["coders"] = [
        {"architectures": ["sae"], "binarisers": ["binary-topk"], "k": [16], "hookpoints": ["layers.0.mlp"], "seeds": [1]}
    ]
    raw["llms"] = {
        "big": {"model": "big", "endpoint": "http://127.0.0.1:1/v1", "prices": PRICES, "budget": 0.01},
        "judge": {"model": "judge", "endpoint": "http://127.0.0.1:1/v1"},
    }
    raw["autointerp"] |= {"llms": ["big"], "judge": "judge", "window": 16, "minimum_windows": 40, "explanation_windows": 20}
    raw["autointerp"] |= {"test_firing": 20, "test_silent": 20, "latents": 4}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


def numbers(text: str, who: str) -> list[float]:
    """Latents, prompts, answered, tokens in, tokens out of the row in which `who` does something."""
    line = next(line for line in text.splitlines() if f" {who} " in line)
    return [float(cell.replace(",", "")) for cell in re.split(rf"{who}\s+", line)[1].split("  ") if re.search(r"\d", cell)][:5]


def test_before_anything_is_there_it_counts_from_the_config(config: Path) -> None:
    text = report([config])
    latents, prompts, answered, tokens_in, tokens_out = numbers(text, "big explains")
    assert (latents, prompts, answered, tokens_out) == (4, 4, 0, 4 * 200)
    assert 4 * 20 * 16 < tokens_in < 4 * 20 * 16 + 4 * 400
    # 40 windows, 5 a prompt, 2 scorers, with a shuffled control.
    assert numbers(text, "judge scores")[1] == 4 * 8 * 2 * 2
    money = float(re.search(r"out, ([\d.]+) in money", text)[1])
    assert money == pytest.approx((tokens_in * PRICES["input"] + 800 * PRICES["output"]) / 1e6, abs=0.006)
    assert "of a budget of 0.01" in text
    assert "a token for 4 characters" in text


def test_without_a_language_model_it_says_so() -> None:
    assert "no language model is asked" in report([CONFIG])


def with_latents(config: Path, world: World) -> tuple[Plan, paths.CoderId, dict[str, Path]]:
    """The plan of a config, its one coder, and where its tokens, model and latents lie: seven, each of a token of its own."""
    world.cache([lambda tokens, token=token: tokens == token for token in range(7)])
    plan = Plan(load([config]))
    (coder,) = plan.config.coder_ids
    places = {"tokens": paths.TOKENS, "model": paths.MODEL, "latents": paths.LATENTS}
    found = {name: Path(plan.config.results) / coder.at(pattern, variant="trained") for name, pattern in places.items()}
    for name, folder in found.items():
        shutil.copytree(world.root / name, folder)
    return plan, coder, found


@pytest.mark.parametrize("negatives", ["random", "cooccurring"])
def test_in_the_middle_of_a_run_what_is_answered_is_known(config: Path, world: World, negatives: str) -> None:
    raw = yaml.safe_load(config.read_text())
    raw["autointerp"]["negatives"] = negatives
    config.write_text(yaml.safe_dump(raw))
    plan, coder, found = with_latents(config, world)
    explanations, scores = (
        Path(plan.config.results) / coder.at(paths.interpreted(pattern, "big"), variant="trained")
        for pattern in (paths.EXPLANATIONS, paths.SCORES)
    )
    assert numbers(report([config]), "big explains")[:3] == [4, 4, 0]
    with served(rule) as server:
        reached = {name: {**held, "endpoint": server.endpoint} for name, held in plan.llm_settings.items()}
        spec = plan.explanations(coder, "trained", "big").spec
        budget = {**reached, "big": {**reached["big"], "budget": None}}
        explain(spec, found["latents"], found["tokens"], found["model"], explanations, dump(budget), Path(plan.answers))
        text = report([config])
        assert numbers(text, "big explains")[:4] == [4, 4, 4, 0]
        before = numbers(text, "judge scores")
        assert before[:3] == [4, 4 * 8 * 2 * 2, 0]
        asked = sum(server.asked.values())
        inputs = found["latents"], explanations, found["tokens"], scores
        spec = plan.scores(coder, "trained", "big").spec
        score(spec, *inputs, model=found["model"], llms=dump(reached), answers=Path(plan.answers))
        assert sum(server.asked.values()) - asked == before[1]
    assert numbers(report([config]), "judge scores") == [4, 128, 128, 0, 0]


def test_explanations_of_another_draw_are_not_there(config: Path, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are of an older version, which drew other latents and recorded no sampling weights."""
    plan, coder, found = with_latents(config, world)
    explanations = Path(plan.config.results) / coder.at(paths.interpreted(paths.EXPLANATIONS, "big"), variant="trained")
    drawn = census(LatentCache.open(found["latents"]), world.grid(windows_spec()), windows_spec(latents=4))
    taken = set(drawn.loc[drawn["status"] == "scored", "latent"])
    others = {*sorted(taken)[:1], *(set(range(7)) - taken)}
    with served(rule) as server, monkeypatch.context() as patched:
        reached = {name: {**held, "endpoint": server.endpoint, "budget": None} for name, held in plan.llm_settings.items()}
        patched.setattr(samples, "pareto_sample", lambda *_: np.isin(range(7), [*others]))
        inputs = found["latents"], found["tokens"], found["model"], explanations
        explain(plan.explanations(coder, "trained", "big").spec, *inputs, dump(reached), Path(plan.answers))
    path = explanations / "explanations.parquet"
    table = pd.read_parquet(path).drop(columns="sampling_weight")
    assert set(table.loc[table["status"] == "scored", "latent"]) == others
    write_parquet(path, table)
    write_manifest(explanations, [path.name], {"windows": read_manifest(explanations, verify=False)["windows"]})
    assert numbers(report([config]), "big explains")[:3] == [4, 4, 1]
    assert numbers(report([config]), "judge scores")[:3] == [4, 4 * 8 * 2 * 2, 0]


def test_answers_of_a_model_in_the_process_are_those_of_its_files(config: Path) -> None:
    raw = yaml.safe_load(config.read_text())
    raw["llms"]["big"] = {"transformers": "smollm2-135m-instruct"}
    config.write_text(yaml.safe_dump(raw))
    plan = Plan(load([config]))
    folder = Path(plan.config.results) / paths.MODEL.format(model="smollm2-135m-instruct")
    write_manifest(folder, [], {"revision": "old"})
    request = Request("system", "prompt", Sampling(0.0, 10))
    with AnswerCache(Path(plan.answers) / "big.sqlite") as cache:
        cache.put([(request.key(Asked(plan, "big").settings.known_as), Reply("yes", "stop", 9, 1, 12))])
    assert Asked(plan, "big").cost(request).answered == 1
    write_manifest(folder, [], {"revision": "new"})
    assert Asked(plan, "big").cost(request).answered == 0


def test_what_is_the_same_for_several_coders_and_models_is_worked_out_once(
    config: Path, world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = yaml.safe_load(config.read_text())
    raw["autointerp"] |= {"llms": ["big", "judge"], "controls": ["shuffled", "random"], "negatives": "cooccurring"}
    config.write_text(yaml.safe_dump(raw))
    world.cache([lambda tokens, token=token: tokens == token for token in range(7)])
    plan = Plan(load([config]))
    (coder,) = plan.config.coder_ids
    results = Path(plan.config.results)
    for name, pattern in {"tokens": paths.TOKENS, "model": paths.MODEL}.items():
        shutil.copytree(world.root / name, results / coder.at(pattern))
    for variant in plan.variants(coder):
        shutil.copytree(world.root / "latents", results / coder.at(paths.LATENTS, variant=variant))
    latents, tokens, model = world.root / "latents", world.root / "tokens", world.root / "model"
    folder = results / coder.at(paths.EXPLANATIONS, variant="trained")
    before = report([config])
    explain(plan.explanations(coder, "trained").spec, latents, tokens, model, folder)
    called: Counter[str] = Counter()

    def counted(name: str, function):
        def wrapped(*arguments, **options):
            called[name] += 1
            return function(*arguments, **options)

        return wrapped

    read = []
    monkeypatch.setattr(costs.Grid, "cut", counted("cut", costs.Grid.cut))
    monkeypatch.setattr(costs, "census", counted("census", costs.census))
    monkeypatch.setattr(io, "sha256", lambda path, sha256=io.sha256: read.append(path.name) or sha256(path))
    capsys.readouterr()
    assert report([config]) == before
    assert plan.variants(coder) == ["trained", "random"]
    assert called == {"cut": 1, "census": 1}  # of the variant that nothing explained
    assert "latents.safetensors" not in read
    assert "2/2 coders" in capsys.readouterr().err
