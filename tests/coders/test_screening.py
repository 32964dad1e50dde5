"""Selection by screening: against float64, whatever the data, and in the place of the dense product in a coder."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bsc.coders import select
from bsc.coders.coder import SparseCoder
from bsc.coders.kernels import native, screening
from bsc.coders.preactivations import Preactivations
from bsc.training.losses import losses

pytestmark = pytest.mark.compiled


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def always(monkeypatch):
    """Screen at every size and on every CPU: where bytes are not multiplied fast, the same is computed slowly."""
    monkeypatch.setattr(screening, "pays", lambda tokens, latents, selected: True)


def batch(kind, tokens, latents, width, seed):
    """x, W, b of one kind of data or another: rounding must be bounded whatever they are."""
    generator = torch.Generator().manual_seed(seed)
    x, W = torch.randn(tokens, width, generator=generator), torch.randn(latents, width, generator=generator)
    b = torch.randn(latents, generator=generator)
    if kind == "outliers":  # a few dimensions a thousand times as large, and one that is constant
        x[:, : 1 + width // 20] *= 1_000
        x[:, -1] = 300.0
    elif kind == "alike":  # errors of rounding to the nearest would all point the same way
        x, W = x.sign() * 0.3 + 0.7, torch.full_like(W, 0.11) + (torch.arange(latents) / latents * 0.01).unsqueeze(1)
    elif kind == "sparse":
        x, W = x.relu() * (x > 1), W * (W.abs() > 2)
    elif kind == "uneven":
        W *= torch.exp(3 * torch.randn(latents, 1, generator=generator))
        x *= torch.exp(3 * torch.randn(tokens, 1, generator=generator))
    return x, W, b


KINDS = ("normal", "outliers", "alike", "sparse", "uneven")


def exact(x, W, b, minus):
    """p - minus in float64, and how far float32 may be from it."""
    p = x.double() @ W.double().T + b.double() - (0 if minus is None else minus.double())
    size = x.double().abs() @ W.double().abs().T + b.double().abs() + (0 if minus is None else minus.double().abs())
    return p, (x.shape[1] + 4) * torch.finfo(torch.float32).eps / 2 * size


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_k_largest_are_found_whatever_the_data(data):
    kind, width = data.draw(st.sampled_from(KINDS)), data.draw(st.integers(1, 90))
    tokens, latents = data.draw(st.integers(1, 40)), data.draw(st.integers(21, 900))
    k = data.draw(st.integers(1, 20))
    x, W, b = batch(kind, tokens, latents, width, data.draw(st.integers(0, 2**30)))
    minus = torch.rand(latents) if data.draw(st.booleans()) else None
    found = screening.top_k(x, W, b, k, minus)
    if kind == "normal" and width > 40:
        assert found.certain.all()
    p, error = exact(x, W, b, minus)
    for token in found.certain.nonzero().flatten().tolist():
        chosen = found.indices[token]
        assert chosen.tolist() == sorted(set(chosen.tolist()))
        left = torch.ones(latents, dtype=torch.bool)
        left[chosen] = False
        worst = (p[token] - error[token])[left].max()
        assert (p[token] + error[token])[chosen].min() >= worst
        plain = p[token] if minus is None else p[token] + minus
        assert ((found.values[token] - plain[chosen]).abs() <= error[token][chosen]).all()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_winner_of_each_group_is_found_whatever_the_data(data):
    kind, width = data.draw(st.sampled_from(KINDS)), data.draw(st.integers(1, 90))
    tokens, groups, size = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 12)), data.draw(st.integers(1, 70))
    x, W, b = batch(kind, tokens, groups * size, width, data.draw(st.integers(0, 2**30)))
    minus = torch.rand(groups * size) if data.draw(st.booleans()) else None
    found = screening.winners(x, W, b, groups, minus)
    if kind == "normal" and width > 40:
        assert found.certain.all()
    p, error = (of.view(tokens, groups, size) for of in exact(x, W, b, minus))
    within = found.indices - torch.arange(groups) * size
    certain = found.certain
    assert ((within[certain] >= 0) & (within[certain] < size)).all()
    best = (p + error).gather(2, within.clamp(0, size - 1).unsqueeze(2)).squeeze(2)
    assert (best >= (p - error).amax(2))[certain].all()


def test_it_selects_what_the_float32_product_selects():
    """At the demo's width, where pre-activations are far from each other by more than float32's rounding."""
    x, W, b = batch("normal", 300, 4_608, 576, 0)
    p = torch.nn.functional.linear(x, W, b)
    found = screening.top_k(x, W, b, 32)
    assert found.certain.all()
    assert torch.equal(found.indices, select.top_k_by_torch(p.double(), 32))
    torch.testing.assert_close(found.values, p.gather(1, found.indices), rtol=1e-5, atol=1e-4)
    of_groups = screening.winners(x, W, b, 32)
    assert of_groups.certain.all()
    assert torch.equal(of_groups.indices, select.winners_by_torch(p.double(), 32))


def test_the_number_of_threads_changes_nothing():
    x, W, b = batch("outliers", 400, 2_050, 33, 1)
    results = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        results.append((*screening.top_k(x, W, b, 16, b), *screening.winners(x, W, b, 5)))
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


def test_ties_go_to_the_lowest_index():
    x, W, b = batch("normal", 50, 300, 48, 2)
    W, b = W.repeat(3, 1), b.repeat(3)
    found = screening.top_k(x, W, b, 4)
    assert found.certain.all()
    best = select.top_k((x @ W[:300].T + b[:300]).double(), 2)
    expected = torch.cat([best, best + 300, best + 600], 1).sort(1).values
    for token, chosen in enumerate(found.indices.tolist()):
        assert set(chosen) <= set(expected[token].tolist())
        counts = sorted(sum(latent % 300 == first for latent in chosen) for first in best[token].tolist())
        assert counts == [1, 3]  # all three of the best, and the first of the three that come next
        (once,) = (latent for latent in chosen if sum(other % 300 == latent % 300 for other in chosen) == 1)
        assert once < 300


def test_as_many_candidates_as_there_is_room_for_stay_apart_from_the_next_tokens():
    """Neither k nor the number of each token's candidates, 257 that are all equal, is a multiple of what is written at once."""
    k, row = 65, torch.linspace(0.5, 1.0, 16)
    high = torch.ones(256 + 12 * 16, 1)
    high[k:256] = -1.0  # candidates of the beginning, which those that follow push out
    found = screening.top_k(row.repeat(20, 1) + 0.01 * torch.randn(20, 16), high * row, torch.zeros(len(high)), k)
    assert found.certain.all()
    assert torch.equal(found.indices, torch.arange(k).expand(20, k))


def test_a_token_that_is_given_up_leaves_its_neighbours_candidates_alone():
    """Of every other token all latents tie; others have exactly as many candidates as there is room for, the best one last."""
    k, room, latents, width = 64, 256, 4096, 256
    full = torch.full((latents,), -1.0)
    full[: room - k] = full[room : room + k] = 1.0  # the last vector of a panel, behind one that ties have filled
    full[room + k - 1] = 1.5
    along = torch.linalg.qr(torch.randn(width, 2, generator=torch.Generator().manual_seed(0))).Q.T
    W = torch.stack([full, torch.ones(latents)], 1) @ along
    x = 3 * along.repeat(64, 1)
    found = screening.top_k(x, W, torch.zeros(latents), k)
    of_full = slice(0, None, 2)
    assert found.certain[of_full].all()
    assert not found.certain[1::2].any()
    assert (found.indices[of_full] == room + k - 1).any(1).all()


def test_too_many_candidates_and_rows_that_are_not_finite_are_uncertain():
    x, W, b = batch("normal", 5, 2_000, 48, 3)
    assert not screening.top_k(x, W[:1].repeat(2_000, 1), b[:1].repeat(2_000), 8).certain.any()
    x, W, b = torch.zeros(40, 1), torch.full((400, 1), 7e14), torch.linspace(0, 9e29, 400)
    x[7] = 7e14  # after stretching its square is beyond what is bounded, and that of W is not
    assert screening.winners(x, W, b, 4).certain.tolist() == [token != 7 for token in range(40)]
    x = torch.zeros(40, 4)
    x[7] = 1e-37
    assert screening.top_k(x, torch.randn(400, 4) * 1e36, torch.randn(400), 4) is None


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -3e38, 1e31])
def test_what_cannot_be_bounded_is_left_to_the_dense_product(wrong):
    x, W, b = batch("normal", 5, 200, 48, 4)
    for tensor in (x, W, b):
        kept = tensor.view(-1)[77].clone()
        tensor.view(-1)[77] = wrong
        assert screening.top_k(x, W, b, 8) is None
        assert screening.winners(x, W, b, 8) is None
        tensor.view(-1)[77] = kept


def test_bounds_beyond_float32_are_never_taken_for_certain():
    x, W, b = torch.zeros(40, 1), torch.full((400, 1), -1.2e19), torch.full((400,), -3e38)
    x[7], W[::16] = 1.5e19, 3.5e18
    assert screening.winners(x, W, b, 100) is None
    assert screening.top_k(x, W, b, 100) is None


def test_what_cannot_be_selected_is_refused():
    x, W, b = batch("normal", 5, 200, 8, 5)
    for k in (0, 201):
        with pytest.raises(ValueError, match=f"k = {k} of 200 latents"):
            screening.top_k(x, W, b, k)
    with pytest.raises(ValueError, match="200 latents cannot be cut into 7 equal groups"):
        screening.winners(x, W, b, 7)


def test_where_it_serves(monkeypatch, always):
    x, W, b = batch("normal", 5, 200, 8, 6)
    assert screening.serves(x, W, b, None, 4)
    assert screening.serves(x, W, b, b, 4)
    assert not screening.serves(x, W, b, b[:3], 4)  # which the dense way refuses
    assert not screening.serves(x, W, b, b.double(), 4)
    assert not screening.serves(x.double(), W.double(), b.double(), None, 4)
    monkeypatch.undo()
    assert not screening.serves(x, W, b, None, 4)  # too few


@pytest.mark.usefixtures("always")
def test_preactivations_that_screen_are_those_that_do_not():
    """Selection and values, also where all latents are alike, or none may be selected."""
    x, W, b = ((8 * of).round() / 8 for of in batch("normal", 60, 320, 24, 7))  # so that every sum is exact, in any order
    x[5] = 0.0
    alike = W[:1].repeat(320, 1)
    allowed = torch.arange(320) % 3 == 0
    offsets = torch.rand(320)
    for encoder in (W, alike):
        screened = Preactivations(x, encoder, b)
        ways = {
            "top_k": lambda pre: pre.top_k(7),
            "offsets": lambda pre: pre.top_k(7, offsets),
            "part": lambda pre: pre.top_k(3, offsets[100:], slice(100, None)),
            "winners": lambda pre: pre.winners(8, offsets),
            "best": lambda pre: pre.best_of(allowed, 9, offsets),
            "none": lambda pre: pre.best_of(torch.zeros_like(allowed), 9),
        }
        for name, way in ways.items():
            indices = way(screened)
            assert "dense" not in screened.__dict__
            dense = Preactivations(x, encoder, b)
            assert dense.dense.shape == (60, 320)
            expected = way(dense)
            assert torch.equal(indices, expected), name
            torch.testing.assert_close(screened.at(indices), dense.at(expected))
            torch.testing.assert_close(screened.at(indices.clone()), dense.at(expected))


@pytest.mark.usefixtures("always")
def test_a_batch_that_is_not_finite_is_selected_from_the_dense_product():
    x, W, b = batch("normal", 60, 320, 24, 12)
    x[9, 3] = float("nan")
    screened, dense = Preactivations(x, W, b), Preactivations(x, W, b)
    assert torch.equal(screened.top_k(5), select.top_k(dense.dense, 5))
    assert torch.equal(screened.winners(5), select.winners(dense.dense, 5))


@pytest.mark.parametrize("architecture", ["sae", "skip-transcoder"])
@pytest.mark.parametrize(
    "key", ["topk", "groupmax", "binary-topk", "binary-topk-exact", "binary-groupmax", "nbit", "hybrid", "binary-threshold"]
)
def test_a_coder_learns_the_same(monkeypatch, key, architecture):
    """Losses and gradients of a batch, AuxK and Multi-TopK included, beside those by the dense product."""
    x, *_ = batch("normal", 80, 8, 24, 8)
    y = x if architecture == "sae" else torch.tanh(x.flip(1))
    results = []
    for pays in (True, False):
        monkeypatch.setattr(screening, "pays", lambda tokens, latents, selected, pays=pays: pays)
        coder = SparseCoder(24, 320, 4, architecture, key, generator=torch.Generator().manual_seed(9))
        coder.initialise_from(x, y)
        with torch.no_grad():
            coder.W_dec += 0.1 * torch.randn(coder.W_dec.shape, generator=torch.Generator().manual_seed(10))
        loss = losses(coder, x, y, torch.Generator(), dead=torch.arange(320) % 4 == 1, multi_topk=coder.continuous)
        loss.total.backward()
        results.append((loss.total, loss.code.indices, *(p.grad for p in coder.parameters())))
    for screened, dense in zip(*results, strict=True):
        torch.testing.assert_close(screened, dense, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("always")
def test_under_autocast_selection_stays_float32():
    x, W, b = batch("normal", 60, 320, 24, 11)
    with torch.autocast("cpu", torch.bfloat16):
        pre = Preactivations(x, W, b)
        values = pre.at(pre.top_k(5))
    assert values.dtype == torch.float32
    plain = Preactivations(x, W, b)
    assert torch.equal(values, plain.at(plain.top_k(5)))


def test_the_compiled_code_says_whether_it_is_fast():
    fast = bool(native.library().bsc_screening_is_fast())
    assert screening.pays(4_096, 36_864, 32) == fast
    assert not screening.pays(4_096, 1_000, 4)
    assert not screening.pays(100, 36_864, 32)
    assert not screening.pays(4_096, 36_864, 1_024)
