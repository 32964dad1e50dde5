"""Softmax over groups, its noise, its gradient, and the solved threshold, against the definitions in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bsc.coders.kernels.gpu import groups as kernels
from bsc.coders.kernels.gpu import threshold
from bsc.coders.kernels.softmax import gumbel, noise_keys

DTYPES = (torch.float32, torch.bfloat16)


@settings(max_examples=6, deadline=None)
@given(
    tokens=st.integers(1, 3),
    groups=st.integers(1, 3),
    size=st.one_of(st.integers(1, 70), st.integers(1020, 1040)),
    beta=st.sampled_from([0.5, 1.0, 2.0]),
    scale=st.sampled_from([0.1, 1.0, 8.0]),
    with_noise=st.booleans(),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**30),
)
def test_softmax_and_its_gradient(device, tokens, groups, size, beta, scale, with_noise, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    p = (torch.randn(tokens, groups * size, generator=generator) * scale).to(dtype).to(device)
    keys = noise_keys(tokens, generator).to(device) if with_noise else None
    noise = gumbel(torch.arange(p.shape[1], device=device), keys, torch.float32).double() if with_noise else 0.0
    values = (p.double() + noise).view(tokens, groups, size)
    pi, plain = (beta * values).softmax(2), p.double().view(values.shape).softmax(2)
    indices = torch.rand(p.shape, generator=generator).argsort(1)[:, : min(3, p.shape[1])].to(device)
    c, extra = (torch.randn(shape, generator=generator).to(device) for shape in ((tokens, groups), indices.shape))
    close = {"rtol": 1e-4, "atol": 1e-5}
    winners, softmax = kernels.softmax(p, groups, beta, keys)
    torch.testing.assert_close(softmax.largest.double(), values.amax(2), **close)
    torch.testing.assert_close(values.flatten(1).gather(1, winners), values.amax(2), **close)
    torch.testing.assert_close(softmax.at(p, indices).double(), pi.flatten(1).gather(1, indices), **close)
    terms = [(softmax, c), (kernels.softmax(p, groups, 1.0, None)[1], 2 * c)]
    gradient = kernels.softmax_gradient(p, terms, indices, extra)
    expected = (c.unsqueeze(2) * (pi + 2 * plain)).flatten(1).scatter_add(1, indices, extra.double())
    assert gradient.dtype == dtype
    rounded = {"rtol": 8e-3, "atol": 1e-5} if dtype == torch.bfloat16 else close
    torch.testing.assert_close(gradient.double(), expected, **rounded)
    assert torch.equal(gradient, kernels.softmax_gradient(p, terms, indices, extra))
    torch.testing.assert_close(kernels.column_sums(p).double(), p.double().sum(0), **close)


def test_of_equal_values_the_first_wins(device):
    p = torch.tensor([[1.0, 3.0, 3.0, 2.0, 2.0, 2.0]], device=device)
    winners, softmax = kernels.softmax(p, 2, 1.0, None)
    assert winners.tolist() == [[1, 3]]
    assert softmax.largest.tolist() == [[3.0, 2.0]]


def test_noise_is_that_of_the_reference(device):
    keys = noise_keys(2, torch.Generator().manual_seed(2)).to(device)
    whole = gumbel(torch.arange(20, device=device), keys, torch.float32)
    winners, softmax = kernels.softmax(torch.zeros(2, 20, device=device), 20, 1.0, keys)
    assert torch.equal(winners, torch.arange(20, device=device).expand(2, -1))
    torch.testing.assert_close(softmax.largest, whole, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [3, 1500])
def test_draw_is_by_cumulative_probability(device, dtype, size):
    share = torch.tensor([0.1, 0.2, 0.7]).log()
    group = torch.full((size,), -60.0)
    places = torch.tensor([0, size // 2, size - 1])
    group[places] = share
    p = group.repeat(4, 2).to(dtype).to(device)
    _, softmax = kernels.softmax(p, 2, 1.0, None)
    uniform = torch.tensor([[0.0, 0.05], [0.15, 0.29], [0.35, 0.999], [0.99999994, 0.5]], device=device)
    drawn = places[torch.tensor([[0, 0], [1, 1], [2, 2], [2, 2]])] + torch.tensor([0, size])
    assert kernels.draw(p, softmax, uniform).tolist() == drawn.tolist()


def test_column_sums_of_many_tokens(device):
    p = torch.randn(2 * kernels._TOKENS_A_SUM + 3, 5, generator=torch.Generator().manual_seed(0)).to(device)
    torch.testing.assert_close(kernels.column_sums(p).double(), p.double().sum(0), rtol=1e-5, atol=1e-4)
    assert torch.equal(kernels.column_sums(p), kernels.column_sums(p))


@settings(max_examples=6, deadline=None)
@given(
    latents=st.one_of(st.integers(2, 60), st.integers(2000, 2200)),
    share=st.floats(0.01, 0.9),
    scale=st.sampled_from([0.01, 1.0, 30.0]),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**30),
)
def test_solved_threshold(device, latents, share, scale, dtype, seed):
    k = min(latents - 1, max(1, round(share * latents)))
    p = (torch.randn(3, latents, generator=torch.Generator().manual_seed(seed)) * scale).to(dtype).to(device)
    tau = threshold.solve_threshold(p, k).double()
    total = torch.sigmoid(p.double() - tau).sum(1)
    torch.testing.assert_close(total, torch.full_like(total, k), rtol=3e-5, atol=0.0)
