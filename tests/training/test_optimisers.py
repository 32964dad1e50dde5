import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bsc.training.optimisers import Adam, Optimiser, Signum, build_optimiser

BETA = 0.95


def parameters(seed: int, dtype: torch.dtype = torch.float64) -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype)) for name, shape in (("W", (3, 4)), ("b", (4,)))
    }


def follow(optimiser: Optimiser, held: dict[str, nn.Parameter], rates: list[float], seed: int) -> list[dict[str, np.ndarray]]:
    """Steps with seeded gradients; the gradients."""
    generator, gradients = torch.Generator().manual_seed(seed), []
    for rate in rates:
        for parameter in held.values():
            parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        gradients.append({name: parameter.grad.numpy().copy() for name, parameter in held.items()})
        optimiser.step(rate)
    return gradients


@settings(max_examples=30, deadline=None)
@given(rates=st.lists(st.floats(1e-4, 1.0), min_size=1, max_size=8), seed=st.integers(0, 99))
def test_signum_by_formula(rates: list[float], seed: int) -> None:
    held = parameters(seed)
    start = {name: parameter.detach().numpy().copy() for name, parameter in held.items()}
    optimiser = Signum(held)
    gradients = follow(optimiser, held, rates, seed)
    weights = np.square(rates) / np.square(rates).sum()
    for name, parameter in held.items():
        steps = np.cumsum([rate * np.sign(gradient[name]) for rate, gradient in zip(rates, gradients, strict=True)], axis=0)
        z = start[name] - steps
        x = np.tensordot(weights, z, axes=1)
        np.testing.assert_allclose(parameter.detach().numpy(), (1 - BETA) * z[-1] + BETA * x, rtol=1e-12, atol=1e-12)
    optimiser.finish()
    np.testing.assert_allclose(held["b"].detach().numpy(), x, rtol=1e-12, atol=1e-12)


def test_signum_takes_gradients_between_z_and_x() -> None:
    """On f(w) = |w - 3| the trajectory is fixed by where the gradient is taken."""
    w = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimiser = Signum({"w": w})
    z = x = 0.0
    for step in range(1, 40):
        y = (1 - BETA) * z + BETA * x
        assert w.item() == pytest.approx(y, abs=1e-12)
        w.grad = (w.detach() - 3).sign()
        optimiser.step(0.4)
        z -= 0.4 * float(np.sign(y - 3))
        x += (z - x) / step
    optimiser.finish()
    assert w.item() == pytest.approx(x, abs=1e-12)
    assert x == pytest.approx(3, abs=0.8)


class Sign(torch.optim.Optimizer):
    """Plain sign descent, as the authors' code wraps it."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.sub_(group["lr"] * parameter.grad.sign())


def test_signum_is_the_authors() -> None:
    schedulefree = pytest.importorskip("schedulefree")
    ours, theirs = parameters(5), parameters(5)
    wrapped = schedulefree.ScheduleFreeWrapper(Sign(theirs.values(), {"lr": 0.01}), momentum=BETA)
    wrapped.train()
    optimiser = Signum(ours)
    for gradients in follow(optimiser, ours, [0.01] * 12, 7):
        for name, parameter in theirs.items():
            parameter.grad = torch.from_numpy(gradients[name])
        wrapped.step()
    torch.testing.assert_close(ours["W"], theirs["W"])
    optimiser.finish()
    wrapped.eval()
    torch.testing.assert_close(ours["W"], theirs["W"])


def test_adam_by_formula() -> None:
    held, rates = parameters(3), [0.1, 0.2, 0.05, 0.01]
    expected = {name: parameter.detach().numpy().copy() for name, parameter in held.items()}
    gradients = follow(Adam(held), held, rates, 4)
    for name, value in expected.items():
        m, v = np.zeros_like(value), np.zeros_like(value)
        for step, (rate, gradient) in enumerate(zip(rates, gradients, strict=True), 1):
            m, v = 0.9 * m + 0.1 * gradient[name], 0.999 * v + 0.001 * gradient[name] ** 2
            value -= rate * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
        np.testing.assert_allclose(held[name].detach().numpy(), value, rtol=1e-10)


def test_adam_is_torchs_bit_for_bit() -> None:
    ours, theirs = parameters(6, torch.float32), parameters(6, torch.float32)
    torchs = torch.optim.Adam(theirs.values(), fused=True)
    rates = [0.01, 0.02, 0.005]
    for rate, gradients in zip(rates, follow(Adam(ours), ours, rates, 8), strict=True):
        torchs.param_groups[0]["lr"] = rate
        for name, parameter in theirs.items():
            parameter.grad = torch.from_numpy(gradients[name])
        torchs.step()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_adam_does_without_torchs_compiler() -> None:
    """Importing that takes seconds, of every training job."""
    code = """
import sys, torch
from bsc.training.optimisers import Adam
w = torch.nn.Parameter(torch.ones(3))
optimiser = Adam({"w": w})
w.sum().backward()
optimiser.step(0.5)
sys.exit("torch._dynamo" in sys.modules or not torch.allclose(w, torch.tensor(0.5)))
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("name", ["adam", "signum"])
def test_state_goes_on_exactly(name: str) -> None:
    whole, first, second = (parameters(1, torch.float32) for _ in range(3))
    rates = [0.01, 0.02, 0.03, 0.02]
    follow(build_optimiser(name, whole), whole, rates, 0)

    generator = torch.Generator().manual_seed(0)
    stopped, gone_on = build_optimiser(name, first), build_optimiser(name, second)
    for step, rate in enumerate(rates):
        optimiser, held = (stopped, first) if step < 2 else (gone_on, second)
        if step == 2:
            gone_on.load(stopped.tensors())
            for key, parameter in second.items():
                parameter.data.copy_(first[key])
        for parameter in held.values():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimiser.step(rate)
    assert all(torch.equal(whole[key], second[key]) for key in whole)


@pytest.mark.parametrize("name", ["adam", "signum"])
def test_constraint_reaches_every_copy(name: str) -> None:
    held = parameters(2)
    optimiser = build_optimiser(name, held)

    def normalise() -> None:
        held["W"].data.div_(held["W"].data.norm(dim=1, keepdim=True))

    for rate in (0.1, 0.2, 0.1):
        follow(optimiser, held, [rate], 3)
        optimiser.constrain(normalise)
        assert held["W"].norm(dim=1).tolist() == pytest.approx([1.0] * 3)
    optimiser.finish()
    assert held["W"].norm(dim=1).tolist() == pytest.approx([1.0] * 3)
