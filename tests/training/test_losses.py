from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bsc.coders.code import Code
from bsc.coders.coder import SparseCoder
from bsc.training.losses import Silence, auxk, losses

Array = np.ndarray[Any, np.dtype[np.float64]]


def build(architecture: str, binariser: str, width: int = 6, latents: int = 20, k: int = 3, seed: int = 0) -> SparseCoder:
    """A float64 coder none of whose parameters is 0."""
    generator = torch.Generator().manual_seed(seed)
    coder = SparseCoder(width, latents, k, architecture, binariser, generator=generator).double()  # type: ignore[arg-type]
    with torch.no_grad():
        for name, parameter in coder.named_parameters():
            if "threshold" not in name:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return coder


def data(coder: SparseCoder, tokens: int = 9, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    y = torch.randn(tokens, coder.width, generator=generator, dtype=torch.float64)
    return (y, y) if coder.is_sae else (torch.randn(y.shape, generator=generator, dtype=torch.float64), y)


def parts(coder: SparseCoder, x: torch.Tensor) -> tuple[Array, Array, Array]:
    """(p, W_dec, what a decode adds to its latents) from the formulas."""
    weights = {name: parameter.detach().numpy() for name, parameter in coder.named_parameters()}
    read = x.numpy() - (weights["b_dec"] if coder.is_sae else 0)
    added = weights["b_dec"] + (x.numpy() @ weights["W_skip"].T if "W_skip" in weights else 0)
    return read @ weights["W_enc"].T + weights["b_enc"], weights["W_dec"], added


def best(p: Array, allowed: Array, k: int) -> Array:
    """1 at the k largest allowed entries of each row."""
    masked = np.where(allowed, p, -np.inf)
    chosen = np.zeros_like(p)
    np.put_along_axis(chosen, np.argsort(-masked, axis=1)[:, :k], 1.0, axis=1)
    return chosen * allowed


def spread(y: torch.Tensor) -> float:
    return float(((y.numpy() - y.numpy().mean(0)) ** 2).sum())


@settings(max_examples=25, deadline=None)
@given(
    architecture=st.sampled_from(["sae", "transcoder", "skip-transcoder"]),
    width=st.integers(2, 8),
    k=st.integers(1, 5),
    multi_topk=st.booleans(),
    seed=st.integers(0, 99),
)
def test_fvu_and_multi_topk_by_formula(architecture: str, width: int, k: int, multi_topk: bool, seed: int) -> None:
    coder = build(architecture, "topk", width, 17, k, seed)
    x, y = data(coder, seed=seed)
    p, W_dec, added = parts(coder, x)

    def fvu(count: int) -> float:
        y_hat = (np.maximum(p, 0) * best(p, np.ones_like(p, bool), count)) @ W_dec + added
        return float(((y.numpy() - y_hat) ** 2).sum()) / spread(y)

    got = losses(coder, x, y, torch.Generator(), multi_topk=multi_topk)
    assert got.fvu.item() == pytest.approx(fvu(k))
    assert got.total.item() == pytest.approx(fvu(k) + (fvu(min(4 * k, 17)) / 8 if multi_topk else 0))


@pytest.mark.parametrize("architecture", ["sae", "skip-transcoder"])
@pytest.mark.parametrize("binariser", ["topk", "binary-topk"])
@pytest.mark.parametrize("n_dead", [1, 2, 3, 11])
def test_auxk_by_formula(architecture: str, binariser: str, n_dead: int) -> None:
    coder = build(architecture, binariser)
    x, y = data(coder)
    dead = torch.zeros(20, dtype=torch.bool)
    dead[torch.arange(n_dead) * 19 // 11] = True
    plain, with_aux = (losses(coder, x, y, torch.Generator(), dead=mask) for mask in (None, dead))

    p, W_dec, _ = parts(coder, x)
    theta = coder.binariser.log_threshold.detach().exp().numpy() if binariser == "binary-topk" else 0
    chosen = best(p - theta, np.broadcast_to(dead.numpy(), p.shape), 3)
    predicted = (chosen if binariser == "binary-topk" else np.maximum(p, 0) * chosen) @ W_dec
    with torch.no_grad():
        residual = (y - coder(x)).numpy()
    expected = ((residual - predicted) ** 2).sum() / spread(y) / 32 * min(n_dead / 3, 1)
    assert with_aux.fvu.item() == plain.fvu.item()
    assert (with_aux.total - plain.total).item() == pytest.approx(expected)


@pytest.mark.parametrize("architecture", ["sae", "skip-transcoder"])
@pytest.mark.parametrize("binariser", ["topk", "groupmax", "binary-topk", "binary-groupmax", "binary-threshold"])
def test_auxk_gradient_reaches_dead_latents_only(architecture: str, binariser: str) -> None:
    coder = build(architecture, binariser, latents=21)
    x, y = data(coder, tokens=30)
    dead = torch.arange(21) % 3 == 0
    residual = (y - coder(x)).detach()
    auxk(coder, coder.preactivations(x), residual, dead).backward()
    for parameter in (coder.W_enc, coder.W_dec, coder.b_enc):
        reached = parameter.grad.reshape(21, -1).ne(0).any(1)
        assert not reached[~dead].any()
        assert reached[dead].sum() >= 3
    assert coder.b_dec.grad is None
    assert coder.W_skip is None or coder.W_skip.grad is None


def test_auxk_gradient_of_topk_is_exact() -> None:
    """Autograd of the formula, with the dead latents that were picked fixed."""
    coder = build("sae", "topk")
    x, y = data(coder)
    dead = torch.arange(20) % 2 == 0
    residual = (y - coder(x)).detach()
    auxk(coder, coder.preactivations(x), residual, dead).backward()
    W_enc, b_enc, W_dec = (tensor.detach().clone().requires_grad_() for tensor in (coder.W_enc, coder.b_enc, coder.W_dec))
    p = (x - coder.b_dec.detach()) @ W_enc.T + b_enc
    chosen = torch.from_numpy(best(p.detach().numpy(), np.broadcast_to(dead.numpy(), p.shape), 3))
    (residual - (p.relu() * chosen) @ W_dec).square().sum().backward()
    for ours, reference in ((coder.W_enc, W_enc), (coder.b_enc, b_enc), (coder.W_dec, W_dec)):
        torch.testing.assert_close(ours.grad, reference.grad)


def test_no_dead_latents_add_nothing() -> None:
    coder = build("transcoder", "binary-topk")
    x, y = data(coder)
    none_dead = torch.zeros(20, dtype=torch.bool)
    assert auxk(coder, coder.preactivations(x), y, none_dead).item() == 0


def test_the_binarisers_penalty_is_part_of_the_loss() -> None:
    generator = torch.Generator().manual_seed(0)
    coder = SparseCoder(
        6, 20, 3, "sae", "binary-threshold", {"threshold": "learned", "penalty": 0.5}, generator=generator
    ).double()
    x, y = data(coder)
    got = losses(coder, x, y, generator)
    firings = (got.code.values > 0).double().sum(1).mean()
    assert firings > 0
    assert (got.total - got.fvu).item() == pytest.approx(0.5 * firings.item())


MakeCode = Callable[[list[list[int]], list[list[float]]], Code]


@pytest.mark.parametrize("dense", [False, True])
def test_silence_counts_tokens_since_the_last_firing(dense: bool) -> None:
    def code(indices: list[list[int]], values: list[list[float]]) -> Code:
        sparse, at = torch.tensor(values), torch.tensor(indices)
        return Code(None, torch.zeros(len(values), 4).scatter_(1, at, sparse)) if dense else Code(at, sparse)

    silence = Silence(4, 4, torch.device("cpu"))
    silence.update(code([[0, 1], [0, 2]], [[1.0, 0.0], [0.5, 2.0]]))
    assert silence.tokens.tolist() == [0, 2, 0, 2], "selected with value 0 is no firing"
    silence.update(code([[1, 3], [3, 2]], [[0.0, 0.0], [0.0, 3.0]]))
    assert silence.tokens.tolist() == [2, 4, 0, 4]
    assert silence.dead.tolist() == [False, True, False, True]
    silence.update(code([[3, 1]], [[1.0, 0.0]]))
    assert silence.dead.tolist() == [False, True, False, False]
