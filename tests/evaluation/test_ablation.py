import numpy as np
import pandas as pd
import pytest
import torch

from bsc.coders.coder import SparseCoder
from bsc.coders.load import save_coder
from bsc.corpus.store import read_tokens
from bsc.errors import UserError
from bsc.evaluation import ablation
from bsc.evaluation.ablation import WHOLE, ablate
from bsc.io import write_manifest, write_parquet
from bsc.models.hooks import capture, splice
from bsc.models.load import load_model
from bsc.stages import AblationSpec, CoderSpec, EvaluationSpec

SEQUENCES, LATENTS, K = 20, 48, 4


def spec_of(hookpoint, **changes):
    values = {"sequences": SEQUENCES, "batch_sequences": 6, "resamples": 200, "seed": 0, "dtype": "float32"}
    return AblationSpec(evaluation=EvaluationSpec(hookpoints=[hookpoint], **{**values, **changes}), bins=5, scorer="fuzzing")


def save(folder, architecture, binariser="topk", options=None):
    sizes = {"width": 32, "latents": LATENTS, "k": K, "seed": 3, "tokens": 1, "batch_tokens": 1, "dead_after_tokens": 1}
    spec = CoderSpec(
        **sizes,
        architecture=architecture,
        binariser=binariser,
        options=options or {},
        optimiser="adam",
        learning_rate=1.0,
        warmup_steps=0,
        auxk=False,
        multi_topk=False,
        dtype="float32",
    )
    coder = SparseCoder.build(spec)
    with torch.no_grad():
        coder.W_dec.copy_(coder.W_enc)
    save_coder(coder, spec, folder, pd.DataFrame({"step": [0]}))
    return coder.eval().double()


@pytest.fixture
def scores(tmp_path):
    generator = np.random.default_rng(2)
    table = pd.DataFrame({"latent": range(0, LATENTS, 2), "f1": generator.uniform(size=LATENTS // 2).round(1)})
    table["firings"] = generator.integers(0, 50, LATENTS // 2)
    both = [table.assign(scorer=scorer, control="none") for scorer in ("fuzzing", "detection")]
    both.append(table.assign(scorer="fuzzing", control="shuffled", f1=0.0))
    write_parquet(tmp_path / "scores" / "scores.parquet", pd.concat(both, ignore_index=True))
    write_manifest(tmp_path / "scores", ["scores.parquet"], {})
    return tmp_path / "scores"


def by_formula(model, tokens, hookpoint, coder, gone):
    """Cross-entropy, accuracy and squared error of the whole model in float64 with the latents in `gone` at 0 in the splice."""
    sums = []

    def replace(x, y):
        code = coder.encode((y if coder.is_sae else x)[:, 1:].flatten(0, 1))
        dense = torch.zeros(len(code.values), LATENTS, dtype=torch.float64)
        dense = code.values if code.indices is None else dense.scatter(1, code.indices, code.values.double())
        dense = dense * ~torch.isin(torch.arange(LATENTS), torch.as_tensor(gone, dtype=torch.long))
        y_hat = dense @ coder.W_dec + coder.b_dec
        y_hat = y_hat if coder.W_skip is None else y_hat + x[:, 1:].flatten(0, 1) @ coder.W_skip.T
        sums.append((y[:, 1:].flatten(0, 1) - y_hat).square().sum().item())
        return torch.cat([y[:, :1], y_hat.view_as(y[:, 1:])], dim=1)

    with splice(model, {hookpoint: replace}), torch.inference_mode():
        logits = model(input_ids=tokens).logits[:, :-1]
    ce = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).item()
    return ce, (logits.argmax(2) == tokens[:, 1:]).double().mean().item(), sums[0]


@pytest.mark.parametrize(
    ("hookpoint", "architecture", "binariser", "options"),
    [
        ("layers.1.mlp", "transcoder", "topk", {}),
        ("layers.0.mlp", "sae", "binary-topk", {"ste": "sigmoid", "temperature": 2.0, "threshold": 0.004}),
        ("layers.2.mlp", "skip-transcoder", "topk", {}),
    ],
)
def test_bins_are_worth_what_the_whole_model_says(
    tiny_model, tiny_tokens, tmp_path, scores, hookpoint, architecture, binariser, options
):
    coder = save(tmp_path / "coder", architecture, binariser, options)
    ablate(spec_of(hookpoint), tiny_model, tiny_tokens, tmp_path / "coder", scores, tmp_path / "ablation")
    bins, members = (pd.read_parquet(tmp_path / "ablation" / f"{name}.parquet") for name in ("bins", "members"))
    table = pd.read_parquet(tmp_path / "ablation" / "sequences.parquet")
    model = load_model(tiny_model, torch.float64)
    contexts = torch.as_tensor(read_tokens(tiny_tokens, "evaluation").tokens)
    tokens = contexts[[number * len(contexts) // SEQUENCES for number in range(SEQUENCES)]].long()
    with capture(model, [hookpoint]) as captured, torch.inference_mode():
        model(input_ids=tokens)
    kept = captured[hookpoint][1][:, 1:].flatten(0, 1)
    deviation = (kept - kept.mean(0)).square().sum().item()
    ce, accuracy, error = by_formula(model, tokens, hookpoint, coder, [])
    whole = table[table["bin"] == WHOLE]
    assert whole["ce"].mean() == pytest.approx(ce, rel=1e-5)
    assert whole["squared_error"].sum() / deviation == pytest.approx(error / deviation, rel=1e-4)
    assert len(bins) == members["bin"].nunique() >= 4
    for row in bins.to_dict("records"):
        gone = members.loc[members["bin"] == row["bin"], "latent"].tolist()
        less_ce, less_accuracy, more_error = by_formula(model, tokens, hookpoint, coder, gone)
        assert row["ce_change"] == pytest.approx(less_ce - ce, abs=1e-4)
        assert row["accuracy_change"] == pytest.approx(less_accuracy - accuracy, abs=1e-9)
        assert row["fvu_change"] == pytest.approx((more_error - error) / deviation, abs=1e-5)
        assert row["ce_change_low"] <= row["ce_change"] <= row["ce_change_high"]
    assert bins["ce_change"].abs().max() > 1e-2


def test_bytes_are_the_same_and_the_model_is_left_whole(tiny_model, tiny_tokens, tmp_path, scores, monkeypatch):
    save(tmp_path / "coder", "transcoder")
    loaded = []
    real = ablation.load
    monkeypatch.setattr(ablation, "load", lambda *arguments: loaded.append(real(*arguments)) or loaded[-1])
    for run in ("first", "second"):
        ablate(spec_of("layers.1.mlp"), tiny_model, tiny_tokens, tmp_path / "coder", scores, tmp_path / run)
    for name in ("bins.parquet", "members.parquet", "sequences.parquet", "manifest.json"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
    model = loaded[0][0]
    assert len(model.base_model.layers) == model.config.num_hidden_layers == 3
    assert not any(module._forward_hooks for module in model.modules())


def test_layers_below_the_hook_run_once_a_batch(tiny_model, tiny_tokens, tmp_path, scores, monkeypatch):
    save(tmp_path / "coder", "transcoder")
    runs = dict.fromkeys(range(3), 0)
    real = ablation.load

    def counted(*arguments):
        model, contexts = real(*arguments)
        for number, layer in enumerate(model.base_model.layers):
            layer.register_forward_pre_hook(lambda *_, number=number: runs.update({number: runs[number] + 1}))
        return model, contexts

    monkeypatch.setattr(ablation, "load", counted)
    ablate(spec_of("layers.1.mlp"), tiny_model, tiny_tokens, tmp_path / "coder", scores, tmp_path / "ablation")
    bins = len(pd.read_parquet(tmp_path / "ablation" / "bins.parquet"))
    batches = -(-SEQUENCES // 6)
    check = {0: 3, 1: 3, 2: 2}
    assert runs == {0: batches + check[0], 1: batches + check[1], 2: batches * (bins + 1) + check[2]}


def test_a_model_that_cannot_be_cut_is_refused(tiny_model, tiny_tokens, tmp_path, scores, monkeypatch):
    save(tmp_path / "coder", "transcoder")
    real = ablation.load

    def scaling(*arguments):
        model, contexts = real(*arguments)
        model.base_model.register_forward_pre_hook(
            lambda module, args, inputs: (
                args,
                {**inputs, "inputs_embeds": 3 * inputs["inputs_embeds"]} if "inputs_embeds" in inputs else inputs,
            ),
            with_kwargs=True,
        )
        return model, contexts

    monkeypatch.setattr(ablation, "load", scaling)
    with pytest.raises(UserError, match="lower and upper layers"):
        ablate(spec_of("layers.0.mlp"), tiny_model, tiny_tokens, tmp_path / "coder", scores, tmp_path / "ablation")
    assert not (tmp_path / "ablation").exists()


def test_without_a_scored_latent_there_is_no_bin(tiny_model, tiny_tokens, tmp_path, scores):
    save(tmp_path / "coder", "transcoder")
    table = pd.read_parquet(scores / "scores.parquet")
    write_parquet(scores / "scores.parquet", table.iloc[:0])
    write_manifest(scores, ["scores.parquet"], {})
    ablate(spec_of("layers.0.mlp"), tiny_model, tiny_tokens, tmp_path / "coder", scores, tmp_path / "ablation")
    bins = pd.read_parquet(tmp_path / "ablation" / "bins.parquet")
    assert bins.empty
    assert {"f1", "ce_change", "fvu_change_high"} <= set(bins)
    assert (pd.read_parquet(tmp_path / "ablation" / "sequences.parquet")["bin"] == WHOLE).all()
