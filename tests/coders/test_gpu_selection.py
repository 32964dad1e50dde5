import pytest
import torch
from coder_reference import best, best_of_groups
from hypothesis import given, settings
from hypothesis import strategies as st

from bsc.coders import select
from bsc.coders.kernels.gpu import groups, selection

DTYPES = (torch.float32, torch.bfloat16)


def leveled(rows, latents, levels, seed, dtype):
    generator = torch.Generator().manual_seed(seed)
    p = (torch.randint(-levels, levels + 1, (rows, latents), generator=generator) / 8).to(dtype)
    return p, torch.randint(-2, 3, (latents,), generator=generator) / 8


@settings(max_examples=7, deadline=None)
@given(st.data())
def test_top_k_is_exact_and_ties_go_to_the_lowest_index(device, data):
    latents = data.draw(st.one_of(st.integers(1, 100), st.integers(1000, 3000)))
    k = data.draw(st.integers(1, min(latents, 40)))
    levels = data.draw(st.sampled_from([1, 2, 5, 50, 10_000]))
    p, minus = leveled(2, latents, levels, data.draw(st.integers(0, 2**30)), data.draw(st.sampled_from(DTYPES)))
    on_device, less = p.to(device), minus.to(device)
    assert selection.top_k(on_device, k).tolist() == [best(row, k) for row in p.tolist()]
    assert selection.top_k(on_device, k, less).tolist() == [best(row, k) for row in (p.float() - minus).tolist()]


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_with_more_candidates_than_there_is_room_for(device, dtype):
    latents = 5003
    p = torch.randn(5, latents, generator=torch.Generator().manual_seed(1)).to(dtype)
    p[0] = 0.5  # every block reaches the k-th value
    p[1, : latents // 2] = 9.0
    p[2, ::3] = 9.0
    p[3, -1] = 9.0
    assert torch.equal(selection.top_k(p.to(device), 16).cpu(), select.top_k_by_torch(p, 16))


def test_what_was_not_asked_for_in_the_last_block_stays_out(device):
    p = torch.full((1, 70), -5.0, device=device)
    assert selection.top_k(p, 70).tolist() == [list(range(70))]
    assert selection.top_k(p, 3).tolist() == [[0, 1, 2]]


def test_room(device):
    assert selection.has_room(131_072, 64)
    assert selection.has_room(131_072, 1024)
    assert not selection.has_room(1 << 24, 64)
    assert not selection.has_room(131_072, 65_536)
    p = torch.randn(1, 9000, device=device)
    assert not selection.has_room(9000, 9000 - 1) or selection.top_k(p, 8999).shape == (1, 8999)
    assert select.top_k(p, 8999).sort(1).values.unique().numel() == 8999


def test_nan_zeros_and_infinities(device):
    nan = torch.full((2, 5000), torch.nan, device=device)
    assert selection.top_k(nan, 4).tolist() == [[0, 1, 2, 3]] * 2
    assert groups.winners(nan, 2).tolist() == [[0, 2500]] * 2
    p = torch.tensor([[-0.0, 0.0, -torch.inf, -0.0, torch.inf, -1.0]], device=device)
    assert selection.top_k(p, 2).tolist() == [[0, 4]]
    assert selection.top_k(p, 5).tolist() == [[0, 1, 3, 4, 5]]
    assert groups.winners(p, 2).tolist() == [[0, 4]]


def test_the_difference_is_taken_in_float32_and_views_are_read_right(device):
    p = torch.tensor([[1.0, 1.0, 1.0]], dtype=torch.bfloat16, device=device)
    minus = torch.tensor([3e-4, 1e-4, 2e-4], device=device)
    assert selection.top_k(p, 1, minus).tolist() == groups.winners(p, 1, minus).tolist() == [[1]]
    view = torch.randn(90, 7, generator=torch.Generator().manual_seed(0)).to(device).T
    assert torch.equal(selection.top_k(view, 3), selection.top_k(view.contiguous(), 3))
    assert torch.equal(groups.winners(view, 3), groups.winners(view.contiguous(), 3))


@settings(max_examples=8, deadline=None)
@given(k=st.integers(1, 4), size=st.integers(1, 1200), seed=st.integers(0, 2**30), dtype=st.sampled_from(DTYPES))
def test_winners(device, k, size, seed, dtype):
    p, minus = leveled(2, k * size, 10, seed, dtype)
    assert groups.winners(p.to(device), k).tolist() == [best_of_groups(row, k) for row in p.tolist()]
    differences = (p.float() - minus).tolist()
    assert groups.winners(p.to(device), k, minus.to(device)).tolist() == [best_of_groups(row, k) for row in differences]
