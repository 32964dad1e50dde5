import json

import numpy as np
import pandas as pd
import pytest
import torch
from probing_world import HOOKPOINTS
from sklearn.metrics import roc_auc_score

from bsc.coders.coder import SparseCoder
from bsc.coders.load import load_coder, load_spec, save_coder
from bsc.corpus.labelled import labelled_documents
from bsc.errors import UserError
from bsc.io import read_json, write_manifest
from bsc.models.hooks import capture
from bsc.models.load import load_model, load_tokenizer
from bsc.probing.documents import label_documents, read_labelled
from bsc.probing.fit import fit, split
from bsc.probing.probe import MEAN, probe
from bsc.stages import CoderSpec, ProbeSpec

LATENTS = 48


@pytest.fixture
def texts(tmp_path):
    """Documents of three labels, of which each likes letters of its own; some are too short."""
    generator = np.random.default_rng(0)
    letters = ["aeiou", "bcdfg", "klmnp"]
    path = tmp_path / "texts.jsonl"
    rows = []
    for number in range(75):
        label = number % 3
        words = generator.choice([*letters[label], *"xyz "], 230 + number)
        rows.append({"text": "".join(words), "label": ["red", "green", "blue"][label]})
    rows.append({"text": "q" * 300, "label": "rare"})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def labelled(texts, tmp_path, speaking_model, labelled_spec):
    label_documents(labelled_spec(files=[str(texts)], documents=100), speaking_model, tmp_path / "labelled")
    return tmp_path / "labelled"


def coder_at(folder, architecture="transcoder", binariser="topk", width=32, k=6):
    sizes = {"width": width, "latents": LATENTS, "k": k, "seed": 3, "tokens": 1, "batch_tokens": 1, "dead_after_tokens": 1}
    spec = CoderSpec(
        **sizes,
        architecture=architecture,
        binariser=binariser,
        options={},
        optimiser="adam",
        learning_rate=1.0,
        warmup_steps=0,
        auxk=False,
        multi_topk=False,
        dtype="float32",
    )
    save_coder(SparseCoder.build(spec), spec, folder, pd.DataFrame({"step": [0]}))
    return folder


def copying_coder_at(folder):
    """A coder whose first latents are the activations, moved to above 0, and whose others never fire."""
    spec = load_spec(coder_at(folder / "any", k=LATENTS))
    coder = SparseCoder.build(spec)
    with torch.no_grad():
        coder.W_enc.copy_(torch.eye(LATENTS, spec.width))
        coder.b_enc[: spec.width] = 8.0
    save_coder(coder, spec, folder / "copying", pd.DataFrame({"step": [0]}))
    return folder / "copying"


def probe_spec(**changes):
    values = {"hookpoint": HOOKPOINTS[1], "counts": [1, 2, 5], "test": 0.3, "resamples": 100, "seed": 0, "dtype": "float32"}
    return ProbeSpec(**{**values, **changes})


def test_activations_are_those_of_each_document_alone(labelled, labelled_spec, texts, speaking_model):
    found = read_labelled(labelled, HOOKPOINTS[1])
    rows = [row for row in labelled_documents(labelled_spec(files=[str(texts)], documents=100)) if row[1] != "rare"]
    tokenizer, model = load_tokenizer(speaking_model), load_model(speaking_model, torch.float32)
    assert found.documents["label"].tolist() == [label for _, label in rows]
    for number in (0, 6, 7, 74):
        ids = torch.tensor([tokenizer(rows[number][0])["input_ids"][:48]])
        with capture(model, [HOOKPOINTS[1]]) as captured, torch.inference_mode():
            model(input_ids=ids)
        here = slice(found.rows[number], found.rows[number + 1])
        for name, side in zip(("input", "output"), captured[HOOKPOINTS[1]], strict=True):
            expected = side[0, 1:].bfloat16().float()
            assert torch.allclose(found.side[name][here].float(), expected, rtol=0.02, atol=0.02 * float(expected.abs().max()))
    assert read_json(labelled / "manifest.json")["labels"] == ["blue", "green", "red"]


def test_too_few_labels_are_said(tmp_path, speaking_model, labelled_spec, texts):
    with pytest.raises(UserError, match="0 labels have 8 documents or more") as raised:
        label_documents(labelled_spec(files=[str(texts)], documents=8), speaking_model, tmp_path / "none")
    assert "red: 2" in str(raised.value)


@pytest.mark.parametrize(("architecture", "side"), [("transcoder", "input"), ("sae", "output")])
def test_probes_are_those_of_the_formula(labelled, tmp_path, architecture, side):
    folder = coder_at(tmp_path / "coder", architecture)
    probe(probe_spec(), labelled, folder, tmp_path / "probes")
    table = pd.read_parquet(tmp_path / "probes" / "probes.parquet")
    assert len(table) == (2 * 2 * 3 + 2) * 4
    found, coder = read_labelled(labelled, HOOKPOINTS[1]), load_coder(folder)
    train = split(found.documents["label"].tolist(), 0.3, 0)
    latents, raw = [], []
    for start, end in zip(found.rows[:-1], found.rows[1:], strict=True):
        x = found.side[side][start:end].float()
        code = coder.encode(x)
        dense = torch.zeros(len(x), LATENTS).scatter(1, code.indices, code.values.detach().relu())
        latents.append(dense.max(0).values.numpy())
        raw.append(x.mean(0).numpy())
    truth = (found.documents["label"] == "green").to_numpy()
    for source, pooling, features, count in (("latents", "max", latents, 2), ("raw", "mean", raw, 0)):
        mine = table[(table["source"] == source) & (table["pooling"] == pooling) & (table["count"] == count)]
        row = mine.set_index("label").loc["green"]
        expected = fit(np.stack(features), truth, train, count or None)
        assert row["auroc"] == pytest.approx(roc_auc_score(truth[~train], expected.scores), abs=1e-3)
        assert mine.set_index("label").loc[MEAN, "auroc"] == pytest.approx(mine[mine["label"] != MEAN]["auroc"].mean())
        assert row["auroc_low"] <= row["auroc"] <= row["auroc_high"]
        if count:
            assert list(row["features"]) == expected.features.tolist()
    assert table[(table["source"] == "raw") & (table["count"] == 0)]["auroc"].min() > 0.9


def test_scores_are_those_that_the_auroc_is_of(labelled, tmp_path):
    probe(probe_spec(), labelled, coder_at(tmp_path / "coder"), tmp_path / "probes")
    table, scores = (pd.read_parquet(tmp_path / "probes" / name) for name in ("probes.parquet", "scores.parquet"))
    found = table[table["source"] == "latents"].set_index(["pooling", "count", "label"])["auroc"]
    documents = read_labelled(labelled, HOOKPOINTS[1]).documents
    held = documents[~split(documents["label"].tolist(), 0.3, 0)].set_index("document")["label"]
    groups = scores.groupby(["pooling", "count", "label"])
    assert len(groups) == 2 * 3 * 3
    for key, one in groups:
        assert one["document"].tolist() == held.index.tolist()
        assert (one["positive"].to_numpy() == (held == key[2]).to_numpy()).all()
        assert found[key] == pytest.approx(roc_auc_score(one["positive"], one["score"]), abs=1e-12)


def test_latents_less_the_activations_are_paired_over_documents(labelled, tmp_path):
    probe(probe_spec(), labelled, copying_coder_at(tmp_path), tmp_path / "probes")
    table = pd.read_parquet(tmp_path / "probes" / "probes.parquet")
    latents = table[table["source"] == "latents"]
    same = [f"{measure}_less_raw{end}" for measure in ("auroc", "balanced_accuracy") for end in ("", "_low", "_high")]
    largest = latents[latents["pooling"] == "max"]  # moving values by 8 rounds their means
    assert np.abs(largest[same].to_numpy()).max() == 0  # the same features, whatever documents are drawn
    assert (largest["auroc_high"] - largest["auroc_low"]).max() > 0.1
    less = [column for column in table if "_less_" in column]
    assert len(less) == 2 * len(same)
    assert table.loc[table["source"] == "raw", less].isna().all(axis=None)
    raw = table[table["source"] == "raw"].set_index(["pooling", "label", "count"])["auroc"]
    for row in latents.to_dict("records"):
        every = raw[row["pooling"], row["label"], 0]
        assert row["auroc_less_all"] == pytest.approx(row["auroc"] - every, abs=1e-12)
        assert row["auroc_less_all_low"] <= row["auroc_less_all"] <= row["auroc_less_all_high"]


def test_labels_that_mean_nothing_are_guessed(labelled, tmp_path):
    documents = pd.read_parquet(labelled / "documents.parquet")
    documents["label"] = np.random.default_rng(5).permutation(documents["label"])
    documents.to_parquet(labelled / "documents.parquet")
    write_manifest(labelled, ["documents.parquet", *(f"{hookpoint}.safetensors" for hookpoint in HOOKPOINTS)], {})
    probe(probe_spec(), labelled, coder_at(tmp_path / "coder"), tmp_path / "probes")
    table = pd.read_parquet(tmp_path / "probes" / "probes.parquet")
    means = table[table["label"] == MEAN]
    assert abs(means["auroc"].mean() - 0.5) < 0.1
    assert means["auroc_low"].min() < 0.5 < means["auroc_high"].max()


def test_two_runs_give_equal_bytes_and_another_width_is_refused(labelled, tmp_path):
    folder = coder_at(tmp_path / "coder", binariser="topk")
    for run in ("first", "second"):
        probe(probe_spec(counts=[1]), labelled, folder, tmp_path / run)
    for name in ("probes.parquet", "scores.parquet", "metrics.json", "manifest.json"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
    with pytest.raises(UserError, match="the coder has width 16 and the activations 32"):
        probe(probe_spec(), labelled, coder_at(tmp_path / "other", width=16), tmp_path / "none")
