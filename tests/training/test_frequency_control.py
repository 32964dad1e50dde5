"""Running firing rates, the penalty on them, and the bias against them, each by its formula."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bsc.activations.store import ActivationStore
from bsc.coders.code import Code
from bsc.coders.coder import SparseCoder
from bsc.coders.load import load_coder, load_spec
from bsc.io import read_parquet
from bsc.stages import CoderSpec, FrequencySpec
from bsc.training.frequencies import Frequencies
from bsc.training.losses import losses
from bsc.training.train import train

MakeSpec = Callable[..., CoderSpec]
CPU = torch.device("cpu")


def frequency(control: str = "penalty", **changes: float) -> FrequencySpec:
    return FrequencySpec.model_validate({"control": control, "cap": 0.1, "strength": 2.0, "memory_tokens": 100, **changes})


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 70), min_size=1, max_size=6),
    memory=st.integers(1, 120),
    dense=st.booleans(),
    seed=st.integers(0, 99),
)
def test_rates_are_means_at_first_and_forget_later(sizes: list[int], memory: int, dense: bool, seed: int) -> None:
    frequencies = Frequencies(frequency(memory_tokens=memory), 7, CPU)
    generator = np.random.default_rng(seed)
    expected, seen = np.zeros(7), 0
    for size in sizes:
        fires = generator.random((size, 7)) < 0.4
        values = torch.from_numpy(np.where(fires, generator.random((size, 7)) + 0.1, 0.0)).float()
        indices = torch.arange(7).expand(size, 7)
        frequencies.update(Code(None if dense else indices, values), seen)
        share = 1.0 if size > memory else size / min(seen + size, memory)
        expected += share * (fires.mean(0) - expected)
        seen += size
    np.testing.assert_allclose(frequencies.rates.numpy(), expected, atol=1e-5)


def test_before_memory_is_full_the_rate_is_the_share_of_all_tokens() -> None:
    frequencies = Frequencies(frequency(memory_tokens=10), 2, CPU)
    frequencies.update(Code(torch.tensor([[0], [0], [1]]), torch.tensor([[1.0], [0.0], [3.0]])), 0)
    frequencies.update(Code(torch.tensor([[0]] * 5), torch.ones(5, 1)), 3)
    torch.testing.assert_close(frequencies.rates, torch.tensor([6 / 8, 1 / 8]))


@pytest.mark.parametrize("architecture", ["sae", "skip-transcoder"])
@pytest.mark.parametrize("binariser", ["topk", "binary-topk", "binary-threshold", "hybrid", "nbit", "gumbel"])
def test_penalty_and_its_gradient_by_formula(binariser: str, architecture: str) -> None:
    """The loss it adds is λ·Σ relu(r-cap)·mean z, and its gradient that of the sum through z with these weights fixed."""
    generator = torch.Generator().manual_seed(0)
    options = {"threshold": "learned", "penalty": 1e-9} if binariser == "binary-threshold" else {}
    coder = SparseCoder(6, 20, 4, architecture, binariser, options, generator=generator).double()  # type: ignore[arg-type]
    y = torch.randn(30, 6, generator=generator, dtype=torch.float64)
    frequencies = Frequencies(frequency(), 20, CPU)
    frequencies.rates = torch.linspace(0, 0.6, 20, dtype=torch.float64)

    code = losses(coder, y, y, torch.Generator().manual_seed(1)).code
    penalty = frequencies.penalty(code)
    weights = np.maximum(frequencies.rates.numpy() - 0.1, 0)
    z = np.zeros((30, 20))
    indices = np.arange(20)[None].repeat(30, 0) if code.indices is None else code.indices.numpy()
    np.put_along_axis(z, indices, code.values.detach().numpy(), axis=1)
    assert penalty.item() == pytest.approx(2.0 * (weights * z.mean(0)).sum())
    assert penalty.item() > 0

    with_it, without = (
        losses(coder, y, y, torch.Generator().manual_seed(1), frequencies=given) for given in (frequencies, None)
    )
    assert (with_it.total - without.total).item() == pytest.approx(penalty.item())
    (grad,) = torch.autograd.grad(penalty, coder.W_enc)
    dz = torch.from_numpy(2.0 * weights / 30)[torch.from_numpy(indices)]
    again = losses(coder, y, y, torch.Generator().manual_seed(1)).code
    (expected,) = torch.autograd.grad(again.values, coder.W_enc, grad_outputs=dz)
    torch.testing.assert_close(grad, expected)
    assert grad.any()


def test_a_latent_under_the_cap_costs_nothing() -> None:
    frequencies = Frequencies(frequency(cap=0.5), 3, CPU)
    frequencies.rates = torch.tensor([0.1, 0.5, 0.0])
    values = torch.ones(4, 3, requires_grad=True)
    penalty = frequencies.penalty(Code(None, values))
    penalty.backward()
    assert penalty.item() == 0
    assert values.grad is not None
    assert not values.grad.any()


def test_the_bias_falls_over_the_cap_and_rises_to_0_under_it() -> None:
    frequencies = Frequencies(frequency("bias", strength=0.25), 3, CPU)
    frequencies.rates = torch.tensor([0.2, 0.1, 0.05])
    bias = torch.tensor([0.0, -0.1, -1.0])
    frequencies.balance(bias)
    assert bias.tolist() == [-0.25, 0.0, -0.75]
    assert frequencies.penalty(Code(None, torch.ones(2, 3))).item() == 0


def rates_of(folder: Path, index: Path) -> torch.Tensor:
    store = ActivationStore.open(index)
    x = torch.cat([shard.input for shard in store.shards])
    code = load_coder(folder).encode(x[torch.arange(len(x)) % store.context != 0].float())
    assert code.indices is not None
    fires = (code.values > 0).double()
    return torch.zeros(64, dtype=torch.float64).scatter_add_(0, code.indices.flatten(), fires.flatten()) / len(fires)


@pytest.mark.parametrize(
    "settings_", [{"control": "penalty", "strength": 10.0, "memory_tokens": 1_000}, {"control": "bias", "strength": 0.1}]
)
def test_training_with_control_has_fewer_frequent_latents(
    settings_: dict[str, object], make_spec: MakeSpec, store_index: Path, tmp_path: Path
) -> None:
    long = {"binariser": "binary-topk", "k": 8, "tokens": 300 * 128, "learning_rate": 3e-2}
    control = {"memory_tokens": 2_000, "cap": 0.12, **settings_}
    train(make_spec(**long), store_index, tmp_path / "free")
    train(make_spec(**long, frequency=control), store_index, tmp_path / "held")
    free, held = (rates_of(tmp_path / name, store_index) for name in ("free", "held"))
    excess_free, excess_held = (float((rates - 0.12).clamp(min=0).sum()) for rates in (free, held))
    assert excess_free > 0.3
    assert excess_held < excess_free / 2
    assert read_parquet(tmp_path / "held" / "log.parquet")["fvu"].iloc[-1] < 1


def test_the_bias_is_part_of_the_coder(make_spec: MakeSpec, store_index: Path, tmp_path: Path) -> None:
    control = {"control": "bias", "strength": 0.05, "cap": 0.1, "memory_tokens": 1_000}
    train(make_spec(binariser="topk", frequency=control), store_index, tmp_path)
    bias = load_coder(tmp_path).binariser.bias
    assert isinstance(bias, torch.Tensor)
    assert (bias <= 0).all()
    assert (bias < 0).any()
    assert load_spec(tmp_path).frequency == FrequencySpec.model_validate(control)


def test_a_spec_without_control_says_nothing_of_it(make_spec: MakeSpec, store_index: Path, tmp_path: Path) -> None:
    """So that coders trained before there was any are still the ones that their specs describe."""
    assert "frequency" not in make_spec().model_dump()
    assert "frequency" not in make_spec().json_text
    train(make_spec(), store_index, tmp_path)
    assert load_spec(tmp_path) == make_spec()
