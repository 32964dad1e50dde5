import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from bsc.errors import UserError
from bsc.models.hooks import capture, module_at, splice


@pytest.fixture(scope="module")
def model():
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlamaForCausalLM(config).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def tokens():
    return torch.randint(0, 64, (2, 9), generator=torch.Generator().manual_seed(0))


def hooks_left(model):
    return sum(len(module._forward_hooks) for module in model.modules())


def test_capture_gives_what_goes_through_the_module(model, tokens):
    with capture(model, ["layers.0.mlp", "layers.2.mlp"]) as captured:
        model(tokens)
    assert captured.keys() == {"layers.0.mlp", "layers.2.mlp"}
    for hookpoint, (x, y) in captured.items():
        assert x.shape == y.shape == (2, 9, 32)
        assert torch.equal(module_at(model, hookpoint)(x), y)
    assert hooks_left(model) == 0


def test_capture_is_filled_anew_at_each_forward(model, tokens):
    with capture(model, ["layers.1.mlp"]) as captured:
        model(tokens[:1])
        first = captured["layers.1.mlp"][1]
        model(tokens[1:])
        assert not torch.equal(captured["layers.1.mlp"][1], first)


def test_hookpoints_are_the_same_with_and_without_a_head(model):
    assert module_at(model, "layers.1.mlp") is module_at(model.model, "layers.1.mlp") is model.model.layers[1].mlp


def test_splicing_a_modules_own_output_changes_nothing(model, tokens):
    before = model(tokens).logits
    with splice(model, {f"layers.{n}.mlp": lambda x, y: y for n in range(3)}):
        assert torch.equal(model(tokens).logits, before)
    assert torch.equal(model(tokens).logits, before)


def test_splice_replaces_the_output(model, tokens):
    with splice(model, {"layers.1.mlp": lambda x, y: torch.zeros_like(y)}):
        spliced = model(tokens).logits
    weight = model.model.layers[1].mlp.down_proj.weight
    kept = weight.clone()
    weight.zero_()
    reference = model(tokens).logits
    weight.copy_(kept)
    torch.testing.assert_close(spliced, reference)


def test_a_later_hookpoint_sees_what_the_earlier_replacement_led_to(model, tokens):
    seen = {}

    def record(x, y):
        seen[len(seen)] = x
        return y

    with splice(model, {"layers.2.mlp": record}):
        model(tokens)
    with splice(model, {"layers.0.mlp": lambda x, y: y + 1, "layers.2.mlp": record}):
        model(tokens)
    assert not torch.allclose(seen[0], seen[1])


def test_hooks_are_gone_after_an_exception(model, tokens):
    with pytest.raises(ZeroDivisionError), splice(model, {"layers.0.mlp": lambda x, y: 1 / 0}):
        model(tokens)
    assert hooks_left(model) == 0
    with pytest.raises(ZeroDivisionError), capture(model, ["layers.0.mlp"]):
        raise ZeroDivisionError
    assert hooks_left(model) == 0


def test_no_hook_is_left_when_one_hookpoint_is_not_there(model):
    with pytest.raises(UserError), capture(model, ["layers.0.mlp", "layers.3.mlp"]):
        pass
    assert hooks_left(model) == 0


def test_unknown_hookpoint_names_the_layers_there_are(model):
    with pytest.raises(UserError, match=r"layers\.3\.mlp.*layers 0 to 2"):
        str(module_at(model, "layers.3.mlp"))
    with pytest.raises(UserError, match="no `layers`"):
        module_at(torch.nn.Linear(2, 2), "layers.0.mlp")
