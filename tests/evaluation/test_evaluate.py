import numpy as np
import pandas as pd
import pytest
import torch

from bsc.coders.coder import SparseCoder
from bsc.coders.load import save_coder
from bsc.corpus.store import read_tokens
from bsc.errors import UserError
from bsc.evaluation import language
from bsc.evaluation.baseline import baseline
from bsc.evaluation.evaluate import evaluate
from bsc.evaluation.language import load, main_documents, score_sequences
from bsc.evaluation.references import LeastSquares, references
from bsc.evaluation.replacement import Recorder
from bsc.evaluation.spliced import OF_ONE_HOOKPOINT, measure
from bsc.io import read_json
from bsc.models.hooks import capture, splice
from bsc.models.load import load_model
from bsc.stages import CoderSpec, EvaluationSpec, ReferencesSpec

HOOKPOINTS = ["layers.0.mlp", "layers.2.mlp"]
SEQUENCES, FITTED = 20, 12
LATENTS, K = 48, 4


def evaluation_spec(hookpoints, **changes):
    values = {"sequences": SEQUENCES, "batch_sequences": 6, "resamples": 200, "seed": 0, "dtype": "float32"}
    return EvaluationSpec(hookpoints=hookpoints, **{**values, **changes})


def references_spec(sites, **changes):
    return ReferencesSpec(evaluation=evaluation_spec(HOOKPOINTS, **changes), fitted_contexts=FITTED, sites=sites)


def coder_spec(architecture, width=32):
    return CoderSpec(
        width=width,
        latents=LATENTS,
        k=K,
        architecture=architecture,
        binariser="topk",
        options={},
        seed=3,
        tokens=1,
        batch_tokens=1,
        optimiser="adam",
        learning_rate=1.0,
        warmup_steps=0,
        auxk=False,
        multi_topk=False,
        dead_after_tokens=1,
        dtype="float32",
    )


def save(folder, spec):
    """A coder that reconstructs badly but not at random: its decoder is what its encoder reads by."""
    coder = SparseCoder.build(spec)
    with torch.no_grad():
        coder.W_dec.copy_(coder.W_enc)
    save_coder(coder, spec, folder, pd.DataFrame({"step": [0]}))
    return coder.eval()


@pytest.fixture(scope="module")
def reference(tiny_model, tiny_tokens):
    """The model in float64 and the evaluated tokens, for formulas written out."""
    contexts = read_tokens(tiny_tokens, "evaluation").tokens
    tokens = contexts[torch.arange(SEQUENCES) * len(contexts) // SEQUENCES].long()
    return load_model(tiny_model, torch.float64), tokens


@pytest.fixture(scope="module")
def unspliced(tiny_model, tiny_tokens, tmp_path_factory):
    folder = tmp_path_factory.mktemp("baseline")
    baseline(evaluation_spec([]), tiny_model, tiny_tokens, folder)
    return folder


def scores(reference, replacements):
    """Cross-entropy and accuracy, mean over all predicted tokens, in float64."""
    model, tokens = reference
    with splice(model, replacements), torch.inference_mode():
        logits = model(input_ids=tokens).logits[:, :-1]
    shares = torch.exp(logits) / torch.exp(logits).sum(dim=2, keepdim=True)
    right = shares.gather(2, tokens[:, 1:, None])
    accuracy = (logits.argmax(dim=2) == tokens[:, 1:]).double().mean()
    return -right.log().mean().item(), accuracy.item()


def through(reference, hookpoint, tokens=None):
    model, evaluated = reference
    tokens = evaluated if tokens is None else tokens
    with capture(model, [hookpoint]) as captured, torch.inference_mode():
        model(input_ids=tokens)
    return captured[hookpoint]


def but_position_0(replace):
    return lambda x, y: torch.cat([y[:, :1], replace(x, y)[:, 1:]], dim=1)


def test_baseline_is_the_models_own_loss(reference, unspliced):
    ce, accuracy = scores(reference, {})
    metrics = read_json(unspliced / "metrics.json")
    table = pd.read_parquet(unspliced / "sequences.parquet")
    counts = {"sequences": SEQUENCES, "documents": table["document"].nunique(), "tokens": SEQUENCES * 15}
    assert metrics == {**counts, "ce": pytest.approx(ce), "accuracy": accuracy}
    assert table.columns.tolist() == ["sequence", "document", "tokens", "ce", "accuracy"]
    assert table["ce"].mean() == pytest.approx(ce)
    assert table["ce"].std() > 0.01


def test_a_sequence_counts_as_part_of_the_document_that_most_of_it_is_of():
    documents = torch.tensor([[3, 3, 3, 3], [3, 4, 4, 4], [7, 7, 5, 5], [9, 8, 8, 9], [5, 6, 6, 7]], dtype=torch.int32)
    assert main_documents(documents) == [3, 4, 7, 9, 6]


def test_documents_are_those_of_the_evaluated_contexts(tiny_model, tiny_tokens, tmp_path):
    baseline(evaluation_spec([], sequences=7), tiny_model, tiny_tokens, tmp_path)
    split = read_tokens(tiny_tokens, "evaluation")
    chosen = [number * len(split.tokens) // 7 for number in range(7)]
    expected = [np.bincount(split.documents[one].numpy()).argmax() for one in chosen]
    assert pd.read_parquet(tmp_path / "sequences.parquet")["document"].tolist() == expected


def test_batches_do_not_matter(tiny_model, tiny_tokens):
    model, contexts = load(evaluation_spec([]), tiny_model, tiny_tokens)
    one, many = (score_sequences(model, contexts, {}, batch=batch, label="") for batch in (1, 20))
    pd.testing.assert_frame_equal(one, many, rtol=1e-5)


@pytest.mark.parametrize("architecture", ["sae", "transcoder"])
def test_one_coder(tiny_model, tiny_tokens, tmp_path, reference, unspliced, architecture):
    coder = save(tmp_path / "coder", coder_spec(architecture)).double()
    spec = evaluation_spec(HOOKPOINTS[1:])
    evaluate(spec, tiny_model, tiny_tokens, unspliced, [tmp_path / "coder"], tmp_path / "evaluation")
    metrics = read_json(tmp_path / "evaluation" / "metrics.json")

    def reconstruct(x, y):
        return coder((y if architecture == "sae" else x).flatten(0, 1)).view_as(y)

    ce, accuracy = scores(reference, {HOOKPOINTS[1]: but_position_0(reconstruct)})
    base_ce, base_accuracy = scores(reference, {})
    assert metrics["ce"] == pytest.approx(ce, rel=1e-5)
    assert metrics["ce_increase"]["value"] == pytest.approx(ce - base_ce, rel=1e-3)
    assert metrics["relative_ce_increase"]["value"] == pytest.approx((ce - base_ce) / base_ce, rel=1e-3)
    assert metrics["accuracy_decrease"]["value"] == pytest.approx(base_accuracy - accuracy, abs=1e-9)

    x, y = (side[:, 1:].clone() for side in through(reference, HOOKPOINTS[1]))
    y_hat = reconstruct(x, y)
    kept = y.flatten(0, 1)
    fvu = (kept - y_hat.flatten(0, 1)).square().mean() / kept.var(dim=0, correction=0).mean()
    assert metrics["fvu"]["value"] == pytest.approx(fvu.item(), rel=1e-4)

    code = coder.encode((y if architecture == "sae" else x).flatten(0, 1))
    firings = np.zeros(LATENTS, int)
    np.add.at(firings, code.indices[code.values > 0].numpy(), 1)
    latents = pd.read_parquet(tmp_path / "evaluation" / "latents.parquet")
    assert latents["firings"].tolist() == firings.tolist()
    assert metrics["l0"]["value"] == pytest.approx(firings.sum() / (SEQUENCES * 15))
    assert metrics["dead_fraction"]["value"] == (firings == 0).mean()
    assert metrics["ultra_high_fraction"]["value"] == (firings > 0.1 * SEQUENCES * 15).mean()
    assert metrics["ultra_high_share"]["value"] == firings[firings > 0.1 * SEQUENCES * 15].sum() / firings.sum()


def test_coders_at_every_hookpoint(tiny_model, tiny_tokens, tmp_path, reference, unspliced):
    folders = [tmp_path / "a", tmp_path / "b"]
    coders = [save(folder, coder_spec("transcoder")).double() for folder in folders]
    evaluate(evaluation_spec(HOOKPOINTS), tiny_model, tiny_tokens, unspliced, folders, tmp_path / "joint")
    metrics = read_json(tmp_path / "joint" / "metrics.json")
    replacements = {
        hookpoint: but_position_0(lambda x, y, coder=coder: coder(x.flatten(0, 1)).view_as(y))
        for hookpoint, coder in zip(HOOKPOINTS, coders, strict=True)
    }
    assert metrics["ce"] == pytest.approx(scores(reference, replacements)[0], rel=1e-5)
    assert all(metrics[name] is None for name in OF_ONE_HOOKPOINT)
    assert pd.read_parquet(tmp_path / "joint" / "latents.parquet").empty


def test_perfect_reconstruction_costs_nothing(tiny_model, tiny_tokens, unspliced):
    spec = evaluation_spec(HOOKPOINTS[:1])
    model, contexts = load(spec, tiny_model, tiny_tokens)
    recorders = {HOOKPOINTS[0]: Recorder(lambda x, y: (y, None))}
    _, metrics = measure(spec, model, contexts, recorders, pd.read_parquet(unspliced / "sequences.parquet"), "")
    nothing = {"value": 0, "low": 0, "high": 0}
    assert all(metrics[name] == nothing for name in ("ce_increase", "relative_ce_increase", "accuracy_decrease", "fvu"))
    assert metrics["l0"] is None


def test_references(tiny_model, tiny_tokens, tmp_path, reference, unspliced):
    references(references_spec({HOOKPOINTS[0]: HOOKPOINTS[:1]}), tiny_model, tiny_tokens, unspliced, tmp_path)
    metrics = read_json(tmp_path / "metrics.json")[HOOKPOINTS[0]]
    y = through(reference, HOOKPOINTS[0])[1][:, 1:].flatten(0, 1).clone()
    for name, value in (("zero-ablated", torch.zeros(32)), ("mean-ablated", y.mean(dim=0))):
        ce, _ = scores(reference, {HOOKPOINTS[0]: but_position_0(lambda x, y, value=value: value.expand_as(y))})
        assert metrics[name]["ce"] == pytest.approx(ce, rel=1e-5)
        assert metrics[name]["l0"] is None
    assert metrics["mean-ablated"]["fvu"]["value"] == pytest.approx(1, rel=1e-5)
    zero = (y.square().mean() / y.var(dim=0, correction=0).mean()).item()
    assert metrics["zero-ablated"]["fvu"]["value"] == pytest.approx(zero, rel=1e-5)
    table = pd.read_parquet(tmp_path / "sequences.parquet")
    assert table["reference"].value_counts().to_dict() == dict.fromkeys(("zero-ablated", "mean-ablated", "linear"), SEQUENCES)


def fitted_by_numpy(reference, hookpoint, tokens):
    """A linear map of the tokens of these contexts but the first of each, by numpy's least squares in float64."""
    x, y = (side[:, 1:].flatten(0, 1).numpy() for side in through(reference, hookpoint, torch.as_tensor(tokens).long()))
    solution, *_ = np.linalg.lstsq(np.column_stack([x, np.ones(len(x))]), y, rcond=None)
    return torch.as_tensor(solution[:-1]), torch.as_tensor(solution[-1])


def test_a_linear_map_is_fitted_on_the_train_split_and_measured_on_the_other(
    tiny_model, tiny_tokens, tmp_path, reference, unspliced
):
    sites = {**{hookpoint: [hookpoint] for hookpoint in HOOKPOINTS}, "joint": HOOKPOINTS}
    references(references_spec(sites), tiny_model, tiny_tokens, unspliced, tmp_path)
    found = read_json(tmp_path / "metrics.json")
    fits = {split: read_tokens(tiny_tokens, split).tokens[: 2 * FITTED : 2] for split in ("train", "evaluation")}
    maps = {
        split: {hookpoint: fitted_by_numpy(reference, hookpoint, tokens) for hookpoint in HOOKPOINTS}
        for split, tokens in fits.items()
    }
    replacements = {
        hookpoint: but_position_0(lambda x, y, weight=weight, bias=bias: x @ weight + bias)
        for hookpoint, (weight, bias) in maps["train"].items()
    }
    for site, hookpoints in sites.items():
        ce, accuracy = scores(reference, {hookpoint: replacements[hookpoint] for hookpoint in hookpoints})
        assert found[site]["linear"]["ce"] == pytest.approx(ce, rel=1e-5)
        assert found[site]["linear"]["accuracy"] == pytest.approx(accuracy, abs=0.01)
    x, y = (side[:, 1:].flatten(0, 1).clone() for side in through(reference, HOOKPOINTS[0]))
    fvu = {}
    for split in maps:
        weight, bias = maps[split][HOOKPOINTS[0]]
        fvu[split] = ((x @ weight + bias - y).square().mean() / y.var(dim=0, correction=0).mean()).item()
    assert found[HOOKPOINTS[0]]["linear"]["fvu"]["value"] == pytest.approx(fvu["train"], rel=1e-4)
    assert abs(fvu["evaluation"] - fvu["train"]) > 0.05
    assert found["joint"]["linear"]["fvu"] is None


@pytest.mark.parametrize("rows", [200, 20])
def test_least_squares_are_numpys_also_where_inputs_do_not_span_their_space(rows):
    """Two dimensions are the sum of others, one is constant; 20 rows are fewer than the 24 dimensions."""
    x, weight = torch.randn(rows, 24, generator=torch.Generator().manual_seed(0)), torch.eye(24)[:, :7] - 0.1
    x[:, 3], x[:, 4], x[:, 5] = x[:, 0] + x[:, 1], x[:, 1] - x[:, 2], 2.0
    y = torch.tanh(x @ weight) + 3
    fit = LeastSquares()
    for some_x, some_y in zip(x.split(7), y.split(7), strict=True):
        fit.add(some_x, some_y)
    found, bias = fit.solve()
    centred = x.double() - x.double().mean(dim=0)
    wanted, *_ = np.linalg.lstsq(centred.numpy(), (y.double() - y.double().mean(dim=0)).numpy(), rcond=1e-6)
    assert found.numpy() == pytest.approx(wanted, abs=1e-7)
    assert (x.double() @ found + bias).mean(dim=0).numpy() == pytest.approx(y.double().mean(dim=0).numpy())


def test_a_fit_asks_for_no_more_of_the_train_split_than_there_is(tiny_model, tiny_tokens, tmp_path, unspliced):
    spec = references_spec({"joint": HOOKPOINTS}).model_copy(update={"fitted_contexts": 25})
    with pytest.raises(UserError, match=r"24 contexts, and evaluation asks for 25") as raised:
        references(spec, tiny_model, tiny_tokens, unspliced, tmp_path)
    assert "split train" in str(raised.value)
    assert "evaluation.sequences" not in str(raised.value)


def test_references_at_every_hookpoint(tiny_model, tiny_tokens, tmp_path, reference, unspliced):
    sites = {**{hookpoint: [hookpoint] for hookpoint in HOOKPOINTS}, "joint": HOOKPOINTS}
    references(references_spec(sites), tiny_model, tiny_tokens, unspliced, tmp_path)
    found = read_json(tmp_path / "metrics.json")
    assert list(found) == list(sites)
    references(references_spec({HOOKPOINTS[1]: HOOKPOINTS[1:]}), tiny_model, tiny_tokens, unspliced, tmp_path / "alone")
    assert found[HOOKPOINTS[1]] == read_json(tmp_path / "alone" / "metrics.json")[HOOKPOINTS[1]]
    table = pd.read_parquet(tmp_path / "sequences.parquet")
    assert table.groupby(["site", "reference"]).size().tolist() == [SEQUENCES] * 3 * len(sites)
    metrics = found["joint"]
    zero = but_position_0(lambda x, y: torch.zeros_like(y))
    assert metrics["zero-ablated"]["ce"] == pytest.approx(scores(reference, dict.fromkeys(HOOKPOINTS, zero))[0], rel=1e-5)
    assert metrics["mean-ablated"]["fvu"] is None


def test_bfloat16_is_close(tiny_model, tiny_tokens, tmp_path, unspliced):
    save(tmp_path / "coder", coder_spec("transcoder"))
    spec = evaluation_spec(HOOKPOINTS[:1])
    values = []
    for dtype in ("float32", "bfloat16"):
        run = spec.model_copy(update={"dtype": dtype})
        evaluate(run, tiny_model, tiny_tokens, unspliced, [tmp_path / "coder"], tmp_path / dtype)
        values.append(read_json(tmp_path / dtype / "metrics.json")["fvu"]["value"])
    assert values[0] == pytest.approx(values[1], rel=0.05)
    assert values[0] != values[1]


def test_two_runs_give_equal_bytes(tiny_model, tiny_tokens, tmp_path, unspliced):
    save(tmp_path / "coder", coder_spec("sae"))
    for run in ("first", "second"):
        evaluate(evaluation_spec(HOOKPOINTS[:1]), tiny_model, tiny_tokens, unspliced, [tmp_path / "coder"], tmp_path / run)
    for name in ("metrics.json", "sequences.parquet", "latents.parquet"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_faults_are_named(tiny_model, tiny_tokens, tmp_path, unspliced):
    save(tmp_path / "coder", coder_spec("sae", width=16))
    spec = evaluation_spec(HOOKPOINTS[:1])
    with pytest.raises(UserError, match="0 coders for 1 hookpoints"):
        evaluate(spec, tiny_model, tiny_tokens, unspliced, [], tmp_path)
    with pytest.raises(UserError, match="the coder has width 16 and the model 32"):
        evaluate(spec, tiny_model, tiny_tokens, unspliced, [tmp_path / "coder"], tmp_path)
    with pytest.raises(UserError, match="baseline has 20 sequences and 21 are evaluated"):
        references(references_spec({"joint": HOOKPOINTS}, sequences=21), tiny_model, tiny_tokens, unspliced, tmp_path)
    with pytest.raises(UserError, match="24 contexts, and evaluation asks for 25"):
        baseline(evaluation_spec([], sequences=25), tiny_model, tiny_tokens, tmp_path)


def test_a_model_that_scales_its_logits_is_refused(tiny_model, tiny_tokens, monkeypatch):
    def scaled(*arguments):
        model = load_model(*arguments)
        forward = model.forward

        def scaling(**inputs):
            output = forward(**inputs)
            output.logits = output.logits / 2
            return output

        model.forward = scaling
        return model

    monkeypatch.setattr(language, "load_model", scaled)
    with pytest.raises(UserError, match="changes its logits"):
        load(evaluation_spec([]), tiny_model, tiny_tokens)
