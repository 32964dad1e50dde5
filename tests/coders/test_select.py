import pytest
import torch
from coder_reference import best, best_of_groups
from hypothesis import given, settings
from hypothesis import strategies as st

from bsc.coders import kernels, select
from bsc.coders.kernels import native

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
    for way in (select.top_k, select.top_k_by_torch):
        assert way(p, k).tolist() == [best(row, k) for row in p.tolist()]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("latents", [640, 643, 4608])
def test_block_shortcut_gives_the_same_as_all(dtype, latents):
    p = torch.randn(64, latents, generator=torch.Generator().manual_seed(1)).to(dtype)
    p[0] = 0.5  # one value everywhere: every block reaches the k-th value
    p[1, : latents // 2] = 9.0
    p[2, ::3] = 9.0
    for k in (1, 8, 16):
        for way in (select.top_k, select.top_k_by_torch):
            assert torch.equal(way(p, k), select._top_k_of_all(p, k))
            assert way(p, k)[0].tolist() == list(range(k))
    assert select.top_k(p, 16)[2].tolist() == list(range(0, 48, 3))


@pytest.mark.compiled
def test_compiled_selection_is_in_use_here():
    """Where there is a compiler, the tests above are of two different ways to select."""
    assert native.selects(torch.zeros(1, 1), None)
    assert not native.selects(torch.zeros(1, 1, dtype=torch.float64), None)
    assert not native.selects(torch.zeros(1, 1), torch.zeros(1, dtype=torch.float64))


@pytest.mark.parametrize("dtype", DTYPES)
def test_more_than_there_are_is_refused(dtype):
    p = torch.randn(3, 8).to(dtype)
    with pytest.raises(ValueError, match="k = 12 of 8 latents"):
        select.top_k(p, 12)
    with pytest.raises(ValueError, match="k = -1 of 8 latents"):
        select.top_k(p, -1)
    with pytest.raises(ValueError, match="8 latents cannot be cut into 3 equal groups"):
        select.winners(p, 3)
    with pytest.raises(ValueError, match="8 latents cannot be cut into 3 equal groups"):
        kernels.softmax(p, 3, 1.0)


@pytest.mark.parametrize("latents", [0, 5, 4_096])
def test_none_of_them_is_an_empty_selection(latents):
    assert select.top_k(torch.randn(3, latents), 0).shape == (3, 0)


@pytest.mark.parametrize("minus", [torch.rand(4), torch.rand(4, 1)])
def test_an_offset_of_another_shape_is_refused(minus):
    p = torch.randn(3, 8)
    with pytest.raises(ValueError, match="8 latents"):
        select.top_k(p, 2, minus)
    with pytest.raises(ValueError, match="8 latents"):
        select.winners(p, 2, minus)


@pytest.mark.parametrize("way", [select.top_k, select.top_k_by_torch])
def test_the_difference_is_taken_in_float32(way):
    p = torch.tensor([[1.0, 1.0, 1.0]], dtype=torch.bfloat16)
    assert way(p, 1, torch.tensor([3e-4, 1e-4, 2e-4])).tolist() == [[1]]  # bfloat16 would see three ties
    p, minus = torch.tensor([[1.0, 1.0, 1.0009]]), torch.tensor([0.5, 0.5, 0.5], dtype=torch.bfloat16)
    assert way(p, 1, minus).tolist() == [[2]]
    p, minus = torch.tensor([[1.0, 1.0]], dtype=torch.float64), torch.tensor([1e-9, 0.0], dtype=torch.float64)
    assert way(p, 1, minus).tolist() == [[1]]


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_both_ways_take_the_same_differences(data):
    """At sizes with and without the shortcut of each, and whatever the number of threads."""
    latents, k = data.draw(st.sampled_from([(60, 60), (300, 7), (1030, 2), (5000, 16), (4608, 32)]))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**30)))
    p = torch.randn(40, latents, generator=generator).to(data.draw(st.sampled_from(DTYPES[:2])))
    minus = torch.rand(latents, generator=generator)
    expected = select.top_k_by_torch(p, k, minus)
    for threads in (1, 2):
        torch.set_num_threads(threads)
        assert torch.equal(select.top_k(p, k, minus), expected)
    torch.set_num_threads(1)


def test_a_view_that_is_not_contiguous():
    p = torch.randn(90, 7, generator=torch.Generator().manual_seed(0)).T
    assert torch.equal(select.top_k(p, 3), select.top_k(p.contiguous(), 3))
    assert torch.equal(select.winners(p, 3), select.winners(p.contiguous(), 3))


@pytest.mark.parametrize("latents", [90, 4000])
def test_a_slice_of_the_latents(latents):
    p = torch.randn(40, 2 * latents, generator=torch.Generator().manual_seed(0))
    for part in (p[:, :latents], p[:, latents + 1 :], p[::3, 5:]):
        assert torch.equal(select.top_k(part, 7), select.top_k_by_torch(part.contiguous(), 7))


@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_of_either_sign_ranks_highest(dtype):
    bits = torch.tensor([0x3F800000, 0xFFC00000 - (1 << 32), 0x7F800000, 0x7FC00000], dtype=torch.int32)
    p = bits.view(torch.float32).unsqueeze(0).to(dtype)  # 1, NaN with the sign bit, infinity, NaN
    for way in (select.top_k, select.top_k_by_torch):
        assert way(p, 1).tolist() == [[1]]
        assert way(p, 2).tolist() == [[1, 3]]
    for way in (select.winners, select.winners_by_torch):
        assert way(p, 1).tolist() == [[1]]


@pytest.mark.compiled
def test_nan_gives_k_latents_all_the_same():
    p = torch.full((2, 5000), torch.nan)
    for way in (select.top_k, select.top_k_by_torch):
        assert way(p, 4).tolist() == [[0, 1, 2, 3]] * 2
    assert select.winners(p, 2).tolist() == [[0, 2500]] * 2


def test_input_is_left_as_it_was():
    p = torch.randn(3, 40)
    before = p.clone()
    select.top_k(p, 4, minus=torch.ones(40))
    assert torch.equal(p, before)


def test_zeros_of_either_sign_are_one_and_infinities_are_in_order():
    p = torch.tensor([[-0.0, 0.0, -torch.inf, -0.0, torch.inf, -1.0]])
    for way in (select.top_k, select.top_k_by_torch):
        assert way(p, 2).tolist() == [[0, 4]]
        assert way(p, 5).tolist() == [[0, 1, 3, 4, 5]]
    assert select.winners(p, 2).tolist() == select.winners_by_torch(p, 2).tolist() == [[0, 4]]


@settings(max_examples=30, deadline=None)
@given(k=st.integers(1, 6), size=st.integers(1, 30), seed=st.integers(0, 2**30), dtype=st.sampled_from(DTYPES))
def test_winners(k, size, seed, dtype):
    generator = torch.Generator().manual_seed(seed)
    p = torch.randint(-2, 3, (4, k * size), generator=generator).to(dtype)
    minus = torch.randint(-2, 3, (k * size,), generator=generator).float()
    for way in (select.winners, select.winners_by_torch):
        assert way(p, k).tolist() == [best_of_groups(row, k) for row in p.tolist()]
        assert way(p, k, minus).tolist() == [best_of_groups(row, k) for row in (p.float() - minus).tolist()]
