import pytest
import torch
from coder_reference import ONE_OF_EACH, expected_code, gradients, solved_threshold
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bsc.coders.binarisers.binary_threshold import solve_threshold, solve_threshold_by_torch
from bsc.coders.binarisers.registry import REGISTRY
from bsc.coders.binarisers.relaxed import group_sums
from bsc.coders.binarisers.straight_through import SLOPES, straight_through
from bsc.coders.coder import SparseCoder
from bsc.coders.decode import combine
from bsc.coders.kernels.softmax import gumbel, noise_keys
from bsc.errors import UserError

ARCHITECTURES = ("sae", "transcoder", "skip-transcoder")


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def make(architecture, key, options, *, width, latents, k, seed, dtype=torch.float64, tied=False, shift=0.0):
    """A coder with random parameters and a batch (`tied`: of small integers, so that pre-activations are exact and tie)."""
    generator = torch.Generator().manual_seed(seed)
    coder = SparseCoder(width, latents, k, architecture, key, options, generator=generator)
    with torch.no_grad():
        for name, parameter in coder.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if name.startswith("binariser"):
                parameter.add_(noise * (noise > 0) * 0.5)
            else:
                parameter.copy_(noise.round() if tied else noise * 0.7)
        coder.b_enc.add_(shift)
    x = torch.randn(6, width, generator=generator)
    x = x.round() if tied else x
    y = x if architecture == "sae" else torch.randn(6, width, generator=generator)
    return coder.to(dtype), x.to(dtype), y.to(dtype)


def run(coder, x, y, seed=5):
    """The code of a batch, what was drawn or solved for it, and the FVU."""
    pre = coder.preactivations(x)
    code = coder.binariser(pre, torch.Generator().manual_seed(seed))
    extra = {}
    if coder.binariser_key == "gumbel":
        keys = noise_keys(len(x), torch.Generator().manual_seed(seed))
        extra["noise"] = gumbel(torch.arange(coder.latents), keys, pre.value_type).double()
    if coder.binariser_key == "binary-threshold" and not coder.binariser.learned:
        extra["tau"] = solve_threshold(pre.dense, coder.k).double()
    fvu = (y - coder.decode(code, x)).square().sum() / (y - y.mean(0)).square().sum()
    return code, extra, fvu


def check_gradients(coder, x, y, *, tolerance, p=None):
    code, extra, fvu = run(coder, x, y)
    fvu.backward()
    expected_fvu, expected = gradients(coder, x, y, code, extra, p=p)
    torch.testing.assert_close(fvu.detach().double(), expected_fvu, rtol=tolerance, atol=tolerance)
    for name, parameter in coder.named_parameters():
        scale = 1e-3 + expected[name].abs().max().item()
        difference = (parameter.grad.double() - expected[name]).abs().max().item()
        assert difference <= tolerance * scale, f"{name}: {difference / scale:.2e}"
    return code, expected


@settings(max_examples=150, deadline=None)
@given(
    architecture=st.sampled_from(ARCHITECTURES),
    binariser=st.sampled_from(ONE_OF_EACH),
    width=st.integers(1, 9),
    k=st.integers(1, 6),
    size=st.integers(2, 9),
    seed=st.integers(0, 2**30),
    tied=st.booleans(),
)
def test_backward_is_the_tables(architecture, binariser, width, k, size, seed, tied):
    assume(k >= REGISTRY[binariser[0]].smallest_k)
    coder, x, y = make(architecture, *binariser, width=width, latents=k * size, k=k, seed=seed, tied=tied)
    assume((y != y[0]).any())  # FVU needs some variance
    check_gradients(coder, x, y, tolerance=1e-9)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("key", "options"), ONE_OF_EACH)
def test_backward_at_more_k_and_latents(key, options, architecture):
    for latents, k in ((96, 4), (96, 16), (640, 8)):
        coder, x, y = make(architecture, key, options, width=12, latents=latents, k=k, seed=latents + k)
        check_gradients(coder, x, y, tolerance=1e-9)


@pytest.mark.parametrize(("key", "options"), ONE_OF_EACH)
def test_backward_in_float32(key, options):
    coder, x, y = make("sae", key, options, width=12, latents=96, k=8, seed=3, dtype=torch.float32)
    check_gradients(coder, x, y, tolerance=1e-4)


@pytest.mark.parametrize(("key", "options"), ONE_OF_EACH)
@pytest.mark.parametrize("architecture", ["sae", "skip-transcoder"])
def test_backward_under_autocast(key, options, architecture):
    """S, z and the slopes are of the bfloat16 pre-activations; the products of dense gradients are bfloat16 as well."""
    coder, x, y = make(architecture, key, options, width=12, latents=96, k=8, seed=4, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        dense = coder.preactivations(x).dense
        assert dense.dtype == torch.bfloat16
        check_gradients(coder, x, y, tolerance=2e-2, p=dense)
    assert all(parameter.grad.dtype == torch.float32 for parameter in coder.parameters())


@pytest.mark.parametrize(("key", "options"), ONE_OF_EACH)
def test_backward_where_no_latent_reaches_its_threshold(key, options):
    coder, x, y = make("transcoder", key, options, width=6, latents=40, k=5, seed=6, shift=-12.0)
    code, expected = check_gradients(coder, x, y, tolerance=1e-9)
    p = coder.preactivations(x).dense
    assert (p <= 0).all()
    if key in ("topk", "groupmax"):
        assert not code.values.any()
        assert not expected["W_enc"].any()
    elif key in ("binary-topk", "binary-groupmax"):
        assert not code.values.any()
        assert expected["W_enc"].any() != (options.get("ste") == "rectangle")  # every margin is beyond its half-width


@settings(max_examples=100, deadline=None)
@given(
    binariser=st.sampled_from(ONE_OF_EACH),
    k=st.integers(1, 6),
    size=st.integers(2, 12),
    seed=st.integers(0, 2**30),
    shift=st.sampled_from([0.0, -2.0]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_forward_by_definition_with_ties(binariser, k, size, seed, shift, dtype):
    key, options = binariser
    assume(k >= REGISTRY[key].smallest_k)
    coder, x, _ = make(
        "transcoder", key, options, width=3, latents=k * size, k=k, seed=seed, tied=True, shift=shift, dtype=dtype
    )
    coder.eval()
    pre = coder.preactivations(x)
    code = coder.binariser(pre, None)
    theta = coder.binariser.thresholds()
    step = coder.binariser.log_step.detach().exp() if key == "nbit" else None
    expected = list(expected_code(key, options, pre.dense, None if theta is None else theta.detach(), k, step))
    indices = torch.arange(k * size).expand(len(x), -1) if code.indices is None else code.indices
    assert indices.tolist() == [S for S, _ in expected]
    assert code.values.tolist() == [z for _, z in expected]


@pytest.mark.parametrize(("key", "options"), ONE_OF_EACH)
def test_l0_and_values(key, options):
    coder, x, _ = make("transcoder", key, options, width=8, latents=60, k=6, seed=7)
    code = coder.encode(x, torch.Generator().manual_seed(0))
    l0 = (code.values > 0).sum(1)
    if not REGISTRY[key].continuous and key != "hybrid":
        assert set(code.values.unique().tolist()) <= {0.0, 1.0}
    if key in ("binary-topk-exact", "gumbel", "reinmax") or options.get("threshold") == "solved":
        assert (l0 == 6).all()
    elif options.get("threshold") != "learned":
        assert (l0 <= 6).all()


def test_thresholds_start_at_the_option():
    coder, *_ = make("sae", "binary-topk", {}, width=2, latents=4, k=1, seed=0)
    fresh = SparseCoder(2, 4, 1, "sae", "binary-topk", {}, generator=torch.Generator())
    torch.testing.assert_close(fresh.binariser.thresholds(), torch.full((4,), 0.004))
    assert not torch.equal(coder.binariser.thresholds(), fresh.binariser.thresholds().double())


@pytest.mark.parametrize("key", ["binary-topk", "binary-groupmax"])
def test_a_latent_at_its_threshold_does_not_fire(key):
    coder = SparseCoder(1, 4, 2, "transcoder", key, {"threshold": 1.0}, generator=torch.Generator())
    with torch.no_grad():
        coder.W_enc.copy_(torch.tensor([[1.0], [0.0], [0.0], [2.0]]))
    assert coder.binariser.thresholds().tolist() == [1.0] * 4
    code = coder.encode(torch.ones(1, 1))
    assert (code.indices.tolist(), code.values.tolist()) == ([[0, 3]], [[0.0, 1.0]])


def test_slopes_at_known_margins():
    margin = torch.tensor([0.0, 0.9, 1.1, -4.0], dtype=torch.float64)
    sigmoid = torch.sigmoid(margin / 2)
    expected = {
        "sigmoid": sigmoid * (1 - sigmoid),
        "rectangle": torch.tensor([1.0, 1.0, 0.0, 0.0]),
        "identity": torch.ones(4),
        "power": torch.tensor([1e-3**-0.5 / 2, 0.9**-0.5 / 2, 1.1**-0.5 / 2, 4.0**-0.5 / 2]),
    }
    assert expected["sigmoid"][0] == 0.25  # s(0), and no 1/T
    for name, slope in expected.items():
        torch.testing.assert_close(SLOPES[name](margin, 2.0), slope.double())


def test_straight_through_leaves_values_alone():
    margin = torch.tensor([-1.0, 1.0], requires_grad=True)
    values = straight_through(margin, torch.tensor([0.0, 1.0]), "identity", 2.0)
    values.backward(torch.tensor([3.0, 5.0]))
    assert values.tolist() == [0.0, 1.0]
    assert margin.grad.tolist() == [3.0, 5.0]


@settings(max_examples=40, deadline=None)
@given(
    latents=st.integers(2, 60), scale=st.sampled_from([0.0, 0.1, 1.0, 5.0, 30.0]), seed=st.integers(0, 2**30), data=st.data()
)
def test_solved_threshold(latents, scale, seed, data):
    k = data.draw(st.integers(1, latents - 1))
    p = torch.randn(4, latents, generator=torch.Generator().manual_seed(seed)) * scale
    for way, given_p in ((solve_threshold, p), (solve_threshold_by_torch, p), (solve_threshold, p.bfloat16())):
        tau = way(given_p, k)
        assert not tau.requires_grad
        assert tau.dtype == torch.float32
        total = torch.sigmoid(given_p.double() - tau.double()).sum(1)
        torch.testing.assert_close(total, torch.full_like(total, k), rtol=1e-4, atol=0)
        if scale == 1.0:
            exact = torch.tensor([solved_threshold(row, k) for row in given_p.double().tolist()])
            torch.testing.assert_close(tau.squeeze(1), exact.float(), rtol=1e-3, atol=1e-3)


def test_no_threshold_solves_for_all_latents():
    with pytest.raises(UserError, match="k = 4 of 4"):
        make("sae", "binary-threshold", {"threshold": "solved"}, width=2, latents=4, k=4, seed=0)


def test_learned_penalty_and_its_gradient():
    options = {"threshold": "learned", "penalty": 0.25}
    coder, x, _ = make("transcoder", "binary-threshold", options, width=5, latents=20, k=3, seed=8)
    code = coder.encode(x)
    penalty = coder.binariser.penalty(code)
    torch.testing.assert_close(penalty.detach(), 0.25 * (code.values > 0).double().sum(1).mean())
    penalty.backward()
    u = (coder.preactivations(x).dense - coder.binariser.thresholds()) / 2
    slope = torch.sigmoid(u) * (1 - torch.sigmoid(u)) * 0.25 / len(x)
    torch.testing.assert_close(coder.b_enc.grad, slope.sum(0))
    torch.testing.assert_close(coder.binariser.log_threshold.grad, -(coder.binariser.thresholds() * slope.sum(0)))


@pytest.mark.parametrize(("key", "options"), [pair for pair in ONE_OF_EACH if pair[1].get("threshold") != "learned"])
def test_no_other_binariser_has_a_penalty(key, options):
    coder, x, _ = make("transcoder", key, options, width=5, latents=20, k=4, seed=8)
    assert coder.binariser.penalty(coder.encode(x, torch.Generator())).item() == 0


@pytest.mark.parametrize("key", ["gumbel", "reinmax"])
def test_samples_follow_the_softmax_of_each_group(key):
    generator = torch.Generator().manual_seed(9)
    coder = SparseCoder(2, 8, 2, "transcoder", key, {}, generator=generator)
    with torch.no_grad():
        coder.W_enc.zero_()
        coder.b_enc.copy_(torch.tensor([0.0, 1.0, 2.0, -1.0, 3.0, 3.0, -40.0, 0.0]))
    tokens = 40_000
    code = coder.encode(torch.zeros(tokens, 2), generator)
    counts = torch.bincount(code.indices.flatten(), minlength=8).double()
    expected = tokens * coder.b_enc.detach().double().view(2, 4).softmax(1).flatten()
    chi_square = ((counts - expected).square() / expected.clamp(min=1e-9))[expected > 1].sum().item()
    assert counts[6] == 0
    assert chi_square < 22.5  # 5 degrees of freedom: exceeded once in 2,400


@pytest.mark.parametrize("key", ["gumbel", "reinmax"])
def test_sampling_is_seeded_in_training_and_absent_in_evaluation(key):
    coder, x, _ = make("transcoder", key, {}, width=5, latents=40, k=4, seed=8)
    with pytest.raises(ValueError, match="generator"):
        coder.encode(x)
    first, again, other = (coder.encode(x, torch.Generator().manual_seed(seed)).indices for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    coder.eval()
    code = coder.encode(x)
    grouped = coder.preactivations(x).dense.view(len(x), 4, 10)
    assert torch.equal(code.indices, grouped.argmax(2) + torch.arange(0, 40, 10))
    assert (code.values == 1).all()


@pytest.mark.parametrize("architecture", ["sae", "transcoder"])
@pytest.mark.parametrize(("key", "options"), ONE_OF_EACH)
def test_auxiliary_takes_dead_latents_and_reaches_their_encoder_only(key, options, architecture):
    coder, x, _ = make(architecture, key, options, width=6, latents=40, k=5, seed=10)
    dead = torch.arange(40) % 3 == 0
    pre = coder.preactivations(x).with_fixed_centre()
    code = coder.auxiliary(pre, dead, 4)
    assert code.indices.shape == (6, 4)
    assert dead[code.indices].all()
    if key == "nbit":
        levels = code.values / coder.binariser.log_step.exp()[code.indices]
        torch.testing.assert_close(levels, levels.round())
    elif REGISTRY[key].continuous:
        assert torch.equal(code.values, pre.dense.gather(1, code.indices).clamp(min=0))
    elif key == "hybrid":
        rectified = pre.dense.gather(1, code.indices).clamp(min=0)
        assert torch.equal(code.values, torch.where(code.indices < coder.binariser.binary, 1.0, rectified))
    else:
        assert (code.values == 1).all()
    combine(code, coder.W_dec).square().sum().backward()
    assert coder.b_dec.grad is None
    reached = coder.W_enc.grad.any(1)
    assert reached.any()
    if key not in ("gumbel", "reinmax"):  # a softmax's gradient reaches its whole group
        assert not reached[~dead].any()
    assert coder.auxiliary(pre, dead, 30).indices.shape == (6, 14)
    assert coder.auxiliary(pre, torch.zeros_like(dead), 30).indices.shape == (6, 0)


def test_auxiliary_picks_the_best_by_margin():
    coder, x, _ = make("transcoder", "binary-topk", {}, width=6, latents=40, k=5, seed=10, shift=-20.0)
    with torch.no_grad():
        coder.binariser.log_threshold.copy_(torch.linspace(-1, 2, 40))
    margins = coder.preactivations(x).dense - coder.binariser.thresholds()
    code = coder.auxiliary(coder.preactivations(x), torch.ones(40, dtype=torch.bool), 3)
    assert torch.equal(code.indices, margins.topk(3).indices.sort(1).values)
    assert (code.values == 1).all()  # though no latent reaches its threshold


def test_groups_must_be_equal():
    for key in ("groupmax", "binary-groupmax", "gumbel", "reinmax"):
        with pytest.raises(ValueError, match="equal groups"):
            SparseCoder(2, 10, 3, "sae", key, {}, generator=torch.Generator())


@pytest.mark.parametrize("bits", [1, 3])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_step_sizes_start_so_that_the_99th_percentile_of_selected_p_is_the_largest_value(bits, architecture):
    coder, *_ = make(architecture, "nbit", {"bits": bits}, width=8, latents=60, k=6, seed=11)
    x = torch.randn(500, 8, generator=torch.Generator().manual_seed(12), dtype=torch.float64)
    coder.initialise_from(x, x)
    selected = coder.preactivations(x).dense.topk(6).values
    largest = coder.binariser.log_step.exp() * (2**bits - 1)
    assert (largest == largest[0]).all()
    assert (selected <= largest[0] + 1e-12).double().mean().item() == pytest.approx(0.99, abs=1 / 3000)


def test_step_sizes_start_from_tokens_all_over_the_batch():
    coder, *_ = make("transcoder", "nbit", {}, width=2, latents=4, k=1, seed=0)
    x = torch.cat([torch.zeros(9_000, 2), torch.ones(1_000, 2)]).double()
    coder.initialise_from(x, x)
    largest = coder.preactivations(torch.ones(1, 2, dtype=torch.float64)).dense.max()
    torch.testing.assert_close(coder.binariser.log_step.exp() * 3, largest.expand(4))


def test_pre_activations_stay_where_bits_tell_them_apart():
    """Were the gradient passed on beyond the largest value too, nine in ten would lie there."""
    generator = torch.Generator().manual_seed(15)
    coder = SparseCoder(8, 60, 6, "transcoder", "nbit", {"bits": 3}, generator=generator)
    x = torch.randn(256, 8, generator=generator)
    y = torch.tanh(2 * x @ torch.randn(8, 8, generator=generator))
    coder.initialise_from(x, y)
    optimiser = torch.optim.Adam(coder.parameters(), lr=0.1)
    for _ in range(200):
        optimiser.zero_grad()
        (coder(x) - y).square().mean().backward()
        optimiser.step()
    code = coder.encode(x)
    levels = (code.values / coder.binariser.log_step.exp()[code.indices]).round()
    assert (levels == 7).double().mean() < 0.5


def test_many_bits_are_topk():
    fine, x, _ = make("transcoder", "nbit", {"bits": 24}, width=8, latents=60, k=6, seed=13)
    plain, *_ = make("transcoder", "topk", {}, width=8, latents=60, k=6, seed=13)
    with torch.no_grad():
        fine.binariser.log_step.fill_(-12.0)
    ours, theirs = fine.encode(x), plain.encode(x)
    assert torch.equal(ours.indices, theirs.indices)
    torch.testing.assert_close(ours.values, theirs.values, rtol=0, atol=1e-5)


def test_a_hybrid_has_both_kinds_at_every_share():
    for share, expected in ((0.01, 1), (0.25, 2), (0.5, 4), (0.99, 7)):
        coder, x, _ = make("transcoder", "hybrid", {"continuous": share}, width=8, latents=64, k=8, seed=14)
        indices = coder.encode(x).indices
        assert ((indices >= coder.binariser.binary).sum(1) == expected).all()
        assert (indices.diff(dim=1) > 0).all()
    with pytest.raises(ValueError, match="k >= 2"):
        make("transcoder", "hybrid", {}, width=8, latents=64, k=1, seed=14)


RANKED = [pair for pair in ONE_OF_EACH if REGISTRY[pair[0]].ranked]


@pytest.mark.parametrize(("key", "options"), RANKED)
def test_a_bias_changes_what_is_selected_and_no_value(key, options):
    coder, x, y = make("skip-transcoder", key, options, width=8, latents=60, k=6, seed=15)
    without = coder.encode(x)
    coder.binariser.balance()
    coder.double()
    assert torch.equal(coder.encode(x).indices, without.indices)
    with torch.no_grad():
        coder.binariser.bias[without.indices[:, 0].unique()] = -100.0
    code, _ = check_gradients(coder, x, y, tolerance=1e-9)
    lowered = coder.binariser.bias < 0
    if not REGISTRY[key].grouped:
        assert not lowered[code.indices].any()
    assert not torch.equal(code.indices, without.indices)
    coder.binariser.bias = None
    expected = coder.binariser.values(coder.preactivations(x), code.indices)
    torch.testing.assert_close(code.values, expected, rtol=1e-12, atol=0.0)
    assert "binariser.bias" not in coder.state_dict()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("binariser", ["gumbel", "reinmax"])
def test_several_latents_of_a_group_as_auxk_picks_them(binariser, dtype):
    """The sum over a group's latents has no atomics: it is the same bits whatever the order of threads."""
    coder, x, _ = make("transcoder", binariser, {}, width=9, latents=40, k=2, seed=3, dtype=dtype)
    pre, dead = coder.preactivations(x), torch.arange(40) % 3 > 0
    code = coder.auxiliary(pre, dead, 12)
    g = torch.randn(code.values.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    (code.values * g).sum().backward()
    pi = (pre.dense.double() / coder.binariser.tau).view(6, 2, 20).softmax(2)
    whole = torch.zeros(6, 40, dtype=torch.float64).scatter(1, code.indices, g).view(6, 2, 20)
    expected = pi * (whole - (pi * whole).sum(2, keepdim=True)) / coder.binariser.tau
    close = {"rtol": 1e-4, "atol": 1e-6} if dtype == torch.float32 else {}
    torch.testing.assert_close(coder.b_enc.grad.double(), expected.flatten(1).sum(0), **close)


def test_sums_of_groups_are_made_without_atomics(monkeypatch):
    """On a GPU `scatter_add_` of floats to one target adds in whatever order the threads come."""
    monkeypatch.setattr(torch.Tensor, "scatter_add_", None)
    monkeypatch.setattr(torch.Tensor, "scatter_add", None)
    weights, group = torch.randn(5, 7, generator=torch.Generator().manual_seed(0)), torch.arange(7).expand(5, 7) // 3
    expected = torch.stack([weights[:, :3].sum(1), weights[:, 3:6].sum(1), weights[:, 6]], dim=1)
    torch.testing.assert_close(group_sums(group, weights, 3), expected)
