"""Softmax over groups and its noise: compiled and plain, against the definitions in float64."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bsc.coders.kernels import native, reference
from bsc.coders.kernels.build import library
from bsc.coders.kernels.softmax import gumbel, noise_keys

TWINS = (reference, pytest.param(native, marks=pytest.mark.compiled))


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def noisy(p, keys):
    """What the groups compare, in float64."""
    noise = 0.0 if keys is None else gumbel(torch.arange(p.shape[1]), keys, torch.float32).double()
    return p.double() + noise


@settings(max_examples=60, deadline=None)
@given(
    tokens=st.integers(1, 20),
    groups=st.integers(1, 6),
    size=st.integers(1, 70),
    beta=st.sampled_from([0.5, 1.0, 2.0]),
    scale=st.sampled_from([0.1, 1.0, 8.0]),
    with_noise=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 2**30),
)
def test_softmax_and_its_gradient(tokens, groups, size, beta, scale, with_noise, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    p = (torch.randn(tokens, groups * size, generator=generator) * scale).to(dtype)
    keys = noise_keys(tokens, generator) if with_noise else None
    values = noisy(p, keys).view(tokens, groups, size)
    pi = (beta * values).softmax(2)
    indices = torch.rand(p.shape, generator=generator).argsort(1)[:, : min(3, p.shape[1])]
    c, extra = torch.randn(tokens, groups, generator=generator), torch.randn(indices.shape, generator=generator)
    expected = (c.unsqueeze(2) * pi).flatten(1).scatter_add(1, indices, extra.double())
    close = {"rtol": 1e-4, "atol": 1e-5}
    rounded = {"rtol": 8e-3, "atol": 1e-5} if dtype == torch.bfloat16 else close
    for twin in (reference, native) if library() else (reference,):
        for threads in (1, 2):
            torch.set_num_threads(threads)
            winners, softmax = twin.softmax(p, groups, beta, keys)
            torch.testing.assert_close(softmax.largest.double(), values.amax(2), **close)
            torch.testing.assert_close(values.flatten(1).gather(1, winners), values.amax(2), **close)
            torch.testing.assert_close(softmax.at(p, indices).double(), pi.flatten(1).gather(1, indices), **close)
            gradient = twin.softmax_gradient(p, [(softmax, c), (softmax, c)], indices, 2 * extra)
            assert gradient.dtype == dtype
            torch.testing.assert_close(gradient.double(), 2 * expected, **rounded)


@pytest.mark.parametrize("twin", TWINS)
def test_of_equal_values_the_first_wins(twin):
    p = torch.tensor([[1.0, 3.0, 3.0, 2.0, 2.0, 2.0]])
    winners, softmax = twin.softmax(p, 2, 1.0, None)
    assert winners.tolist() == [[1, 3]]
    assert softmax.largest.tolist() == [[3.0, 2.0]]


@pytest.mark.parametrize("twin", TWINS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_draw_is_by_cumulative_probability(twin, dtype):
    p = torch.tensor([[0.1, 0.2, 0.7]]).log().repeat(4, 2).to(dtype)
    _, softmax = twin.softmax(p, 2, 1.0, None)
    uniform = torch.tensor([[0.0, 0.05], [0.15, 0.29], [0.35, 0.999], [0.99999994, 0.5]])
    assert twin.draw(p, softmax, uniform).tolist() == [[0, 3], [1, 4], [2, 5], [2, 5]]


def test_noise_is_standard_gumbel_and_independent():
    keys = noise_keys(400, torch.Generator().manual_seed(1))
    noise = gumbel(torch.arange(1000), keys, torch.float64)
    ordered = noise.flatten().sort().values
    distribution = torch.exp(-torch.exp(-ordered))
    empirical = (torch.arange(len(ordered)) + 0.5) / len(ordered)
    assert (distribution - empirical).abs().max() < 1.95 / math.sqrt(len(ordered))  # Kolmogorov-Smirnov, p = 0.001
    standard = (noise - noise.mean()) / noise.std()
    for one, other in ((standard[1:], standard[:-1]), (standard[:, 1:], standard[:, :-1])):  # neighbours, tokens and latents
        assert abs(float((one * other).mean())) < 4 / math.sqrt(one.numel())
    assert len(noise.unique()) > 0.95 * noise.numel()


@pytest.mark.compiled
def test_noise_is_the_same_wherever_it_is_made():
    keys = noise_keys(3, torch.Generator().manual_seed(2))
    whole = gumbel(torch.arange(50), keys, torch.float32)
    assert torch.equal(gumbel(torch.tensor([[7, 49], [0, 1], [3, 3]]), keys, torch.float32)[1], whole[1, :2])
    winners, softmax = native.softmax(torch.zeros(3, 50), 1, 1.0, keys)
    assert torch.equal(winners, whole.argmax(1, keepdim=True))
    torch.testing.assert_close(softmax.largest, whole.amax(1, keepdim=True), rtol=1e-6, atol=1e-6)
