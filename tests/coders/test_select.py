import pytest
import torch
from coder_reference import best, best_of_groups
from hypothesis import given, settings
from hypothesis import strategies as st

from bsc.coders import select

DTYPES = (torch.bfloat16, torch.float32, torch.float64)


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_top_k_is_exact_and_ties_go_to_the_lowest_index(data):
    latents = data.draw(st.integers(1, 700))
    k = data.draw(st.integers(1, min(latents, 40)))
    levels = data.draw(st.sampled_from([1, 2, 5, 50, 10_000]))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**30)))
    p = torch.randint(-levels, levels + 1, (5, latents), generator=generator) / 8
    p = p.to(data.draw(st.sampled_from(DTYPES)))
    assert select.top_k(p, k).tolist() == [best(row, k) for row in p.tolist()]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("latents", [640, 643, 4608])
def test_block_shortcut_gives_the_same_as_all(dtype, latents):
    p = torch.randn(64, latents, generator=torch.Generator().manual_seed(1)).to(dtype)
    p[0] = 0.5  # one value everywhere: every block reaches the k-th value
    p[1, : latents // 2] = 9.0
    p[2, ::3] = 9.0
    for k in (1, 8, 16):
        assert torch.equal(select.top_k(p, k), select._top_k_of_all(p, k))
        assert select.top_k(p, k)[0].tolist() == list(range(k))
    assert select.top_k(p, 16)[2].tolist() == list(range(0, 48, 3))


def test_the_difference_is_taken_in_float32():
    p = torch.tensor([[1.0, 1.0, 1.0]], dtype=torch.bfloat16)
    assert select.top_k(p, 1, minus=torch.tensor([3e-4, 1e-4, 2e-4])).tolist() == [[1]]  # bfloat16 would see three ties


def test_input_is_left_as_it_was():
    p = torch.randn(3, 40)
    before = p.clone()
    select.top_k(p, 4, minus=torch.ones(40))
    assert torch.equal(p, before)


def test_zeros_of_either_sign_are_one_and_infinities_are_in_order():
    p = torch.tensor([[-0.0, 0.0, -torch.inf, -0.0, torch.inf, -1.0]])
    assert select.top_k(p, 2).tolist() == [[0, 4]]
    assert select.top_k(p, 5).tolist() == [[0, 1, 3, 4, 5]]


@settings(max_examples=30, deadline=None)
@given(k=st.integers(1, 6), size=st.integers(1, 30), seed=st.integers(0, 2**30), dtype=st.sampled_from(DTYPES))
def test_winners(k, size, seed, dtype):
    p = torch.randint(-2, 3, (4, k * size), generator=torch.Generator().manual_seed(seed)).to(dtype)
    assert select.winners(p, k).tolist() == [best_of_groups(row, k) for row in p.tolist()]


def test_best_of_picks_among_the_allowed_only():
    p = torch.tensor([[9.0, 1.0, 5.0, 5.0, 7.0], [0.0, 2.0, 2.0, 2.0, 9.0]])
    allowed = torch.tensor([False, True, True, True, False])
    assert select.best_of(allowed, p, 2).tolist() == [[2, 3], [1, 2]]
    assert select.best_of(allowed, p, 9).tolist() == [[1, 2, 3], [1, 2, 3]]
    assert select.best_of(torch.zeros(5, dtype=torch.bool), p, 2).shape == (2, 0)
