import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bsc.coders import kernels
from bsc.coders.kernels import cpu, reference


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def batch(tokens, latents, selected, width, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    indices = torch.rand(tokens, latents, generator=generator).argsort(1)[:, :selected].sort(1).values
    values = torch.randn(tokens, selected, generator=generator, dtype=dtype)
    rows = torch.randn(latents, width, generator=generator, dtype=dtype)
    return indices, values, rows, torch.randn(tokens, width, generator=generator, dtype=dtype)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_twins_agree_with_dense_products(data):
    latents = data.draw(st.integers(1, 30))
    selected = data.draw(st.integers(0, latents))
    tokens, width = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 20))
    indices, values, rows, x = batch(tokens, latents, selected, width, data.draw(st.integers(0, 2**30)))
    dense = torch.zeros(tokens, latents, dtype=torch.float64).scatter(1, indices, values)
    for twin in (reference, cpu):
        torch.testing.assert_close(twin.decode(indices, values, rows), dense @ rows)
        torch.testing.assert_close(twin.value_gradient(indices, x, rows), (x @ rows.T).gather(1, indices))
        torch.testing.assert_close(twin.row_gradient(indices, values, x, latents), dense.T @ x)


@pytest.mark.parametrize("twin", [reference, cpu])
def test_twins_in_float32_and_twice_the_same(twin):
    indices, values, rows, x = batch(200, 300, 16, 48, 0, torch.float32)
    for name, arguments in {
        "decode": (indices, values, rows),
        "value_gradient": (indices, x, rows),
        "row_gradient": (indices, values, x, 300),
    }.items():
        first, second = getattr(twin, name)(*arguments), getattr(twin, name)(*arguments)
        assert torch.equal(first, second)
        wide = [a.double() if torch.is_tensor(a) and a.is_floating_point() else a for a in arguments]
        torch.testing.assert_close(first.double(), getattr(reference, name)(*wide), rtol=1e-5, atol=2e-5)


def test_autocast_does_not_reach_them_and_they_are_quiet():
    indices, values, rows, x = batch(20, 30, 4, 8, 0, torch.float32)
    outside = kernels.decode(indices, values, rows), kernels.row_gradient(indices, values, x, 30)
    with warnings.catch_warnings(), torch.autocast("cpu", torch.bfloat16):
        warnings.simplefilter("error")
        inside = kernels.decode(indices, values, rows), kernels.row_gradient(indices, values, x, 30)
        sampled = kernels.value_gradient(indices, x, rows)
    assert all(torch.equal(a, b) for a, b in zip(outside, inside, strict=True))
    assert torch.equal(sampled, kernels.value_gradient(indices, x, rows))
