"""The gradient of finetuning against autograd through the whole model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bsc.coders.coder import SparseCoder
from bsc.corpus.store import read_tokens
from bsc.finetuning.objective import Objective
from bsc.models.hooks import splice
from bsc.models.load import load_model
from bsc.stages import CoderSpec
from bsc.training.trainer import Trainer

MakeSpec = Callable[..., CoderSpec]


def drawn(spec: CoderSpec, seed: int) -> SparseCoder:
    coder = SparseCoder.build(spec)
    with torch.no_grad():
        coder.W_dec.copy_(torch.randn(coder.W_dec.shape, generator=torch.Generator().manual_seed(seed)))
        coder.normalise_decoder()
    return coder


def some(tokens: Path) -> Tensor:
    return torch.as_tensor(read_tokens(tokens, "train").tokens[:4]).long()


def whole_kl(model: Any, tokens: Tensor, replacements: dict[str, Any]) -> Tensor:
    """Σ P (log P - log Q), the mean over positions 1 on, from logits of the whole model in its own precision."""
    with torch.no_grad():
        expected = model(input_ids=tokens).logits[:, 1:].log_softmax(-1)
    with splice(model, replacements):
        found = model(input_ids=tokens).logits[:, 1:].log_softmax(-1)
    return (expected.exp() * (expected - found)).sum(-1).mean()


@pytest.mark.parametrize("hookpoint", ["layers.0.mlp", "layers.1.mlp", "layers.2.mlp"])
def test_gradient_towards_the_reconstruction(hookpoint: str, make_spec: MakeSpec, tiny_model: Path, tiny_tokens: Path) -> None:
    model, tokens = load_model(tiny_model, torch.float64), some(tiny_tokens)
    objective = Objective(model, make_spec({"hookpoint": hookpoint}).finetune, {})
    below = objective.below(tokens)
    y_hat = below.y[:, 1:] + torch.randn(below.y[:, 1:].shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ours, theirs = y_hat.clone().requires_grad_(), y_hat.clone().requires_grad_()
    found = objective.divergence(tokens, below, ours)
    expected = whole_kl(model, tokens, {hookpoint: lambda x, y: torch.cat([y[:, :1], theirs], 1)})
    found.kl.backward()
    expected.backward()
    assert expected.item() > 1e-3
    assert found.kl.item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-7)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-7)


def replacement(coder: SparseCoder) -> Callable[[Tensor, Tensor], Tensor]:
    """Of all positions but 0, by a coder: written here from what a splice is."""

    def replace(x: Tensor, y: Tensor) -> Tensor:
        read, target = x[:, 1:].reshape(-1, x.shape[-1]), y[:, 1:].reshape(-1, y.shape[-1])
        y_hat = coder.decode(coder.encode(target if coder.is_sae else read), read)
        return torch.cat([y[:, :1], y_hat.view_as(y[:, 1:])], 1)

    return replace


CODERS = [
    {"architecture": "skip-transcoder"},
    {"architecture": "sae", "binariser": "binary-topk"},
    {"architecture": "sae"},
    {"binariser": "binary-threshold"},
]


@pytest.mark.parametrize("changes", CODERS, ids=lambda changes: "-".join(changes.values()))
@pytest.mark.parametrize("others", [(), ("layers.0.mlp", "layers.2.mlp")], ids=["alone", "others"])
def test_gradients_of_the_coder(
    changes: dict[str, Any], others: tuple[str, ...], make_spec: MakeSpec, tiny_model: Path, tiny_tokens: Path
) -> None:
    """Through everything above the hookpoint, frozen coders included; and nothing reaches those."""
    spec = make_spec({"others": list(others)}, **changes)
    model, tokens = load_model(tiny_model, torch.float32), some(tiny_tokens)
    frozen = {place: drawn(spec, 2 + number) for number, place in enumerate(others)}
    trainer = Trainer(spec, None, torch.device("cpu"), more=("kl", "ce", "ce_increase"))
    trainer.coder.load_state_dict(drawn(spec, 1).state_dict())
    loss = Objective(model, spec.finetune, frozen)(trainer, tokens)
    loss.total.backward()
    ours = {name: parameter.grad for name, parameter in trainer.coder.named_parameters()}

    trainer.coder.zero_grad()
    spliced = {"layers.1.mlp": replacement(trainer.coder)} | {place: replacement(coder) for place, coder in frozen.items()}
    expected = whole_kl(model, tokens, spliced)
    expected.backward()
    assert loss.more[0].item() == pytest.approx(expected.item(), rel=1e-4)
    for name, parameter in trainer.coder.named_parameters():
        if parameter.grad is not None:
            scale = parameter.grad.abs().max()
            assert scale > 0, name
            torch.testing.assert_close(ours[name], parameter.grad, rtol=1e-3, atol=1e-3 * float(scale))
    assert all(parameter.grad is None for coder in frozen.values() for parameter in coder.parameters())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_fvu_and_cross_entropy_by_their_definitions(make_spec: MakeSpec, tiny_model: Path, tiny_tokens: Path) -> None:
    spec = make_spec({})
    model, tokens = load_model(tiny_model, torch.float32), some(tiny_tokens)
    trainer = Trainer(spec, None, torch.device("cpu"), more=("kl", "ce", "ce_increase"))
    coder = drawn(spec, 1)
    trainer.coder.load_state_dict(coder.state_dict())
    loss = Objective(model, spec.finetune, {})(trainer, tokens)
    seen: list[Tensor] = []

    def replace(x: Tensor, y: Tensor) -> Tensor:
        made = replacement(coder)(x, y)
        seen.extend([y[:, 1:].reshape(-1, 32), made[:, 1:].reshape(-1, 32)])
        return made

    ces = []
    with torch.no_grad():
        for replacements in ({}, {"layers.1.mlp": replace}):
            with splice(model, replacements):
                logits = model(input_ids=tokens).logits[:, 1:-1]
            ces.append(torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 2:].flatten()))
    y, y_hat = seen
    assert loss.fvu.item() == pytest.approx(((y - y_hat).square().sum() / (y - y.mean(0)).square().sum()).item(), rel=1e-4)
    assert loss.more[1].item() == pytest.approx(ces[1].item(), rel=1e-5)
    assert loss.more[2].item() == pytest.approx((ces[1] - ces[0]).item(), abs=1e-5)
    assert len(loss.code.values) == tokens[:, 1:].numel()


@pytest.mark.parametrize(("others", "runs"), [((), {0: 1, 1: 1, 2: 2}), (("layers.2.mlp",), {0: 2, 1: 2, 2: 2})])
def test_layers_below_the_hook_run_once(
    others: tuple[str, ...], runs: dict[int, int], make_spec: MakeSpec, tiny_model: Path, tiny_tokens: Path
) -> None:
    spec = make_spec({"others": list(others)})
    model = load_model(tiny_model, torch.float32)
    counted = dict.fromkeys(range(3), 0)
    for number, module in enumerate(model.base_model.layers):
        module.register_forward_pre_hook(lambda *_, number=number: counted.update({number: counted[number] + 1}))
    trainer = Trainer(spec, None, torch.device("cpu"))
    Objective(model, spec.finetune, {place: drawn(spec, 2) for place in others})(trainer, some(tiny_tokens))
    assert counted == runs
    assert model.config.num_hidden_layers == len(model.base_model.layers) == 3
