import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bsc.coders.binarisers.registry import REGISTRY
from bsc.coders.code import Code
from bsc.coders.coder import SparseCoder
from bsc.coders.preactivations import Preactivations
from bsc.stages import CoderSpec

ARCHITECTURES = ("sae", "transcoder", "skip-transcoder")


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def spec(architecture="skip-transcoder", binariser="topk", seed=1, **changes):
    values = {
        "width": 12,
        "latents": 48,
        "k": 6,
        "architecture": architecture,
        "binariser": binariser,
        "options": {},
        "seed": seed,
        "tokens": 1000,
        "batch_tokens": 100,
        "optimiser": "adam",
        "learning_rate": 1e-3,
        "warmup_steps": 1,
        "auxk": False,
        "multi_topk": False,
        "dead_after_tokens": 1000,
        "dtype": "float32",
    }
    return CoderSpec(**{**values, **changes})


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_build_is_seeded(architecture):
    first, again, other = (SparseCoder.build(spec(architecture, seed=seed)).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["W_enc"], other["W_enc"])


def test_encoder_starts_as_a_linear_layer_would():
    weights = SparseCoder.build(spec(width=64, latents=4096)).W_enc
    bound = 1 / 8
    assert weights.abs().max() <= bound
    torch.testing.assert_close(weights.std().item(), bound / 3**0.5, rtol=0.01, atol=0)


@pytest.mark.parametrize("binariser", list(REGISTRY))
def test_where_decoders_start(binariser):
    sae = SparseCoder.build(spec("sae", binariser))
    if REGISTRY[binariser].continuous:
        torch.testing.assert_close(sae.W_dec, sae.W_enc / sae.W_enc.norm(dim=1, keepdim=True))
    else:
        assert torch.equal(sae.W_dec, sae.W_enc)
    skip = SparseCoder.build(spec("skip-transcoder", binariser))
    assert not skip.W_dec.any()
    assert not skip.W_skip.any()
    assert SparseCoder.build(spec("transcoder", binariser)).W_skip is None
    assert (sae.reads, skip.reads) == ("output", "input")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_first_batch_centres(architecture):
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(200, 12, generator=generator) + 3
    x = y if architecture == "sae" else torch.randn(200, 12, generator=generator) * 2 - 5
    coder = SparseCoder.build(spec(architecture))
    coder.initialise_from(x, y)
    torch.testing.assert_close(coder.b_dec.detach(), y.mean(0))
    torch.testing.assert_close(coder.preactivations(x).dense.mean(0), torch.zeros(48), rtol=0, atol=1e-5)
    assert bool(coder.b_enc.any()) == (architecture != "sae")
    assert coder.b_dec.requires_grad


def test_unit_norm_is_for_continuous_saes_only():
    assert {
        (architecture, key)
        for architecture in ARCHITECTURES
        for key in REGISTRY
        if SparseCoder.build(spec(architecture, key)).unit_norm
    } == {("sae", key) for key, entry in REGISTRY.items() if entry.continuous}


def test_normalisation_and_projection():
    coder = SparseCoder.build(spec("sae"))
    with torch.no_grad():
        coder.W_dec.mul_(3)
    coder.W_dec.grad = torch.randn(48, 12, generator=torch.Generator().manual_seed(0))
    before = coder.W_dec.grad.clone()
    coder.project_decoder_gradient()
    torch.testing.assert_close((coder.W_dec.grad * coder.W_dec.detach()).sum(1), torch.zeros(48), rtol=0, atol=1e-5)
    removed = before - coder.W_dec.grad
    torch.testing.assert_close(removed, (before * coder.W_dec.detach()).sum(1, keepdim=True) / 9 * coder.W_dec.detach())
    coder.normalise_decoder()
    torch.testing.assert_close(coder.W_dec.norm(dim=1), torch.ones(48))


def test_binary_decoders_are_left_alone():
    coder = SparseCoder.build(spec("sae", "binary-topk"))
    coder.W_dec.grad = torch.ones(48, 12)
    before = coder.W_dec.clone()
    coder.normalise_decoder()
    coder.project_decoder_gradient()
    assert torch.equal(coder.W_dec, before)
    assert torch.equal(coder.W_dec.grad, torch.ones(48, 12))


def test_firing_is_not_selection():
    code = Code(torch.tensor([[1, 4], [0, 2]]), torch.tensor([[0.0, 2.0], [1.0, 0.5]]))
    assert [part.tolist() for part in code.firing()] == [[0, 1, 1], [4, 0, 2], [2.0, 1.0, 0.5]]
    dense = Code(None, torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 1.0]]))
    assert [part.tolist() for part in dense.firing()] == [[0, 1, 1], [1, 0, 2], [1.0, 1.0, 1.0]]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_forward_is_decode_of_encode_in_float32(architecture):
    coder = SparseCoder.build(spec(architecture, "binary-topk-exact"))
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(9, 12, generator=generator)
    with torch.no_grad():
        coder.W_dec.copy_(torch.randn(48, 12, generator=generator))
    code = coder.encode(x)
    y_hat = coder.decode(code, x)
    assert torch.equal(coder(x), y_hat)
    with torch.autocast("cpu", torch.bfloat16):
        assert coder.preactivations(x).dense.dtype == torch.bfloat16
        assert coder(x).dtype == torch.float32
        assert torch.equal(coder.decode(code, x), y_hat)  # W_skip is 0 still; all else is decoded in float32
    dense = Code(None, torch.zeros(9, 48).scatter(1, code.indices, code.values))
    torch.testing.assert_close(coder.decode(dense, x), y_hat)
    with torch.autocast("cpu", torch.bfloat16):
        assert coder.decode(dense, x).dtype == torch.float32
        torch.testing.assert_close(coder.decode(dense, x), y_hat, rtol=0, atol=0.02 * y_hat.detach().abs().max().item())


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("selected", [True, False])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_squared_error_is_that_of_what_is_decoded(architecture, selected, dtype, autocast):
    """Itself, and its gradients, against autograd by way of `decode`."""
    coder = SparseCoder.build(spec(architecture)).to(dtype)
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 9, 12, generator=generator).to(dtype)
    with torch.no_grad():
        for parameter in coder.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator).to(dtype))
    indices = torch.rand(9, 48, generator=generator).argsort(1)[:, :5].sort(1).values if selected else None
    values = torch.randn(9, 5 if selected else 48, generator=generator).to(dtype)
    code = Code(indices, values.requires_grad_())
    reached = [code.values, *(one for one in (coder.W_dec, coder.b_dec, coder.W_skip) if one is not None)]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        error, residual = coder.squared_error(code, x, y)
        expected = y - coder.decode(code, x)
    assert not residual.requires_grad
    close = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {}
    torch.testing.assert_close(residual, expected.detach(), **close)
    torch.testing.assert_close(error, expected.square().sum(), **close)
    by_hand, by_autograd = (torch.autograd.grad(3 * e, reached) for e in (error, expected.square().sum()))
    for found, right in zip(by_hand, by_autograd, strict=True):
        torch.testing.assert_close(found, right, rtol=1e-4, atol=1e-3 if autocast else 1e-4)


def test_bfloat16_activations_are_read_as_float32():
    coder = SparseCoder.build(spec("transcoder"))
    x = torch.randn(9, 12, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert torch.equal(coder.preactivations(x).dense, coder.preactivations(x.float()).dense)


@settings(max_examples=40, deadline=None)
@given(tokens=st.integers(1, 6), latents=st.integers(1, 12), width=st.integers(1, 7), centred=st.booleans(), data=st.data())
def test_preactivations_differentiate_as_a_linear_layer(tokens, latents, width, centred, data):
    selected = data.draw(st.integers(1, latents))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**30)))
    indices = torch.rand(tokens, latents, generator=generator).argsort(1)[:, :selected]
    shapes = [(tokens, width), (latents, width), (latents,), (width,)]
    leaves = [torch.randn(s, generator=generator, dtype=torch.float64, requires_grad=True) for s in shapes]
    x, W_enc, b_enc, centre = leaves
    centre = centre if centred else None
    weights = torch.randn(tokens, latents, generator=generator, dtype=torch.float64)
    exact = (x - centre if centred else x) @ W_enc.T + b_enc
    pre = Preactivations(x, W_enc, b_enc, centre)
    wanted = leaves[: 3 + centred]
    for ours, theirs in (
        (pre.at(indices) * weights.gather(1, indices), (exact * weights).gather(1, indices)),
        (pre.differentiable() * weights, exact * weights),
    ):
        torch.testing.assert_close(ours, theirs)
        expected = torch.autograd.grad(theirs.sum(), wanted, retain_graph=True)
        for gradient, other in zip(torch.autograd.grad(ours.sum(), wanted), expected, strict=True):
            torch.testing.assert_close(gradient, other)


def test_fixed_centre_keeps_everything_but_the_centres_gradient():
    coder = SparseCoder.build(spec("sae"))
    x = torch.randn(9, 12, generator=torch.Generator().manual_seed(0))
    pre = coder.preactivations(x)
    indices = torch.arange(6).expand(9, -1)
    pre.differentiable()
    fixed = pre.with_fixed_centre()
    (fixed.at(indices).sum() + fixed.differentiable().sum()).backward()
    assert coder.b_dec.grad is None
    first = coder.W_enc.grad
    coder.W_enc.grad = None
    (pre.at(indices).sum() + pre.differentiable().sum()).backward()
    torch.testing.assert_close(coder.W_enc.grad, first)
    assert coder.b_dec.grad.any()


def test_the_bfloat16_product_is_that_of_autocast():
    generator = torch.Generator().manual_seed(0)
    x, W, b = (torch.randn(shape, generator=generator) for shape in ((70, 48), (130, 48), (130,)))
    with torch.autocast("cpu", torch.bfloat16):
        dense = Preactivations(x, W, b).dense
        expected = torch.nn.functional.linear(x, W, b)
    assert dense.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(dense.float(), expected.float(), rtol=1e-2, atol=1e-2)
    exact = x.bfloat16().double() @ W.bfloat16().double().T + b.bfloat16().double()
    assert (dense.double() - exact).abs().max() <= (expected.double() - exact).abs().max()


@pytest.mark.parametrize("binariser", REGISTRY)
@pytest.mark.parametrize("architecture", ["sae", "skip-transcoder"])
def test_a_coder_in_bfloat16_computes_and_learns(architecture, binariser):
    coder = SparseCoder(16, 64, 4, architecture, binariser, generator=torch.Generator().manual_seed(0)).bfloat16()
    x = torch.randn(8, 16, generator=torch.Generator().manual_seed(1)).bfloat16()
    predicted = coder(x, torch.Generator().manual_seed(2))
    assert predicted.dtype == torch.bfloat16
    (x - predicted).square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in coder.parameters())


@pytest.mark.parametrize("shape", [(12,), (2, 3, 12), (3, 11)])
def test_inputs_of_another_shape_are_refused(shape):
    coder = SparseCoder.build(spec("sae"))
    with pytest.raises(ValueError, match=r"this coder takes \[tokens, 12\]"):
        coder.encode(torch.zeros(shape))
