import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bsc.coders.kernels.gpu import products

DTYPES = (torch.float32, torch.bfloat16)


def batch(tokens, latents, selected, width, seed, dtype, device):
    generator = torch.Generator().manual_seed(seed)
    indices = torch.rand(tokens, latents, generator=generator).argsort(1)[:, :selected].sort(1).values
    made = [torch.randn(shape, generator=generator) for shape in ((tokens, selected), (latents, width), (tokens, width))]
    return [tensor.to(device) for tensor in (indices, *(m.to(dtype) for m in made))]


def close(result, expected):
    assert result.device.type == expected.device.type
    rounding = {"rtol": 8e-3, "atol": 1e-3} if result.dtype == torch.bfloat16 else {"rtol": 1e-5, "atol": 1e-4}
    torch.testing.assert_close(result.double(), expected, **rounding)


def check(indices, values, rows, x):
    """Every product against the dense ones in float64."""
    dense = torch.zeros(len(x), len(rows), dtype=torch.float64, device=x.device).scatter(1, indices, values.double())
    close(products.decode(indices, values, rows), dense @ rows.double())
    close(products.value_gradient(indices, x, rows), (x.double() @ rows.double().T).gather(1, indices))
    close(products.row_gradient(indices, values, x, len(rows)), dense.T @ x.double())
    for skip in (None, x.flip(0)):
        r = x.double() - rows[0].double() - dense @ rows.double() - (0 if skip is None else skip.double())
        found, squares, gradient = products.residual(indices, values, rows, x, rows[0], skip)
        close(found, r)
        close(squares, r.square().sum(1))
        close(gradient, (found.double() @ rows.double().T).gather(1, indices))
    close(products.latent_sums(indices, values, len(rows)), dense.sum(0))


@settings(max_examples=8, deadline=None)
@given(
    latents=st.integers(1, 10),
    share=st.floats(0, 1),
    tokens=st.integers(1, 4),
    width=st.integers(1, 300),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**30),
)
def test_products_agree_with_dense_ones(device, latents, share, tokens, width, dtype, seed):
    check(*batch(tokens, latents, round(share * latents), width, seed, dtype, device))


def test_latents_that_fire_on_every_token_are_summed_in_pieces(monkeypatch, device):
    monkeypatch.setattr(products, "_PIECE", 20)
    tokens = 47
    _, values, rows, x = batch(tokens, 7, 3, 5, 0, torch.float32, device)
    others = torch.stack([torch.arange(tokens) % 2 + 3, torch.full((tokens,), 6)], dim=1).to(device)
    others[tokens // 3 :, 1] = 5
    indices = torch.cat([torch.full((tokens, 1), 1, device=device), others], dim=1)
    check(indices, values, rows, x)
    first, second = (products.row_gradient(indices, values, x, 7) for _ in range(2))
    assert torch.equal(first, second)
    assert not first[[0, 2]].any()


def test_a_latent_with_whole_pieces_only(device):
    for tokens in (products._PIECE - 1, products._PIECE, products._PIECE + 1):
        indices = torch.zeros(tokens, 1, dtype=torch.int64, device=device)
        x = torch.ones(tokens, 2, device=device)
        assert products.row_gradient(indices, x[:, :1], x, 2).tolist() == [[tokens, tokens], [0, 0]]


def test_views_that_are_not_contiguous(device):
    indices, values, rows, x = batch(6, 9, 4, 10, 0, torch.float32, device)
    check(indices.T.contiguous().T, values.T.contiguous().T, rows.T.contiguous().T, x.T.contiguous().T)


def test_nothing_selected_and_no_tokens(device):
    for tokens, selected in ((3, 0), (0, 2), (0, 0)):
        check(*batch(tokens, 4, selected, 3, 0, torch.float32, device))
