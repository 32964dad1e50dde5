import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bsc.coders.code import Code
from bsc.evaluation.bootstrap import bootstrap_ratio
from bsc.evaluation.replacement import Recorder, constant, from_coder


def activations(sequences, positions, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    y = torch.randn(sequences, positions, width, generator=generator)
    y[:, 0] *= 20  # a massive activation, as in the models
    return torch.randn(sequences, positions, width, generator=generator), y + torch.linspace(-3, 3, width)


def pass_through(recorder, x, y, batch):
    return torch.cat([recorder(x[n : n + batch], y[n : n + batch]) for n in range(0, len(x), batch)])


def noisy(x, y):
    return y + 0.3 * x, None


@settings(deadline=None, max_examples=30)
@given(
    sequences=st.integers(1, 6),
    positions=st.integers(2, 7),
    width=st.integers(1, 5),
    batch=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_sums_are_the_formulas(sequences, positions, width, batch, seed):
    x, y = activations(sequences, positions, width, seed)
    recorder = Recorder(noisy)
    pass_through(recorder, x, y, batch)
    kept, noise = y[:, 1:].double().numpy(), (y + 0.3 * x - y)[:, 1:].double().numpy()
    table = recorder.sequences()
    assert (table["rows"] == positions - 1).all()
    np.testing.assert_allclose(table["squared_error"], (noise**2).sum(axis=(1, 2)), rtol=1e-4)
    deviation = ((kept - kept.mean(axis=(0, 1))) ** 2).sum(axis=(1, 2))
    np.testing.assert_allclose(table["squared_deviation"], deviation, rtol=1e-9, atol=1e-9)


def test_fvu_is_mean_squared_error_over_mean_variance():
    x, y = activations(5, 6, 4)
    recorder = Recorder(noisy)
    pass_through(recorder, x, y, 2)
    table = recorder.sequences()
    fvu = bootstrap_ratio(table["squared_error"], table["squared_deviation"], resamples=100, seed=0).value
    kept = y[:, 1:].double().flatten(0, 1)
    error = (0.3 * x[:, 1:].double()).square().mean()
    assert fvu == pytest.approx(float(error / kept.var(dim=0, correction=0).mean()), rel=1e-5)


def test_variance_left_out():
    x, y = activations(5, 6, 4)
    recorder = Recorder(noisy)
    pass_through(recorder, x, y, 2)

    def squared_deviation(rows):
        return (rows - rows.mean(dim=0)).square().sum()

    kept, total = (squared_deviation(rows.double().flatten(0, 1)) for rows in (y[:, 1:], y))
    assert 0.5 < recorder.variance_left_out() == pytest.approx(float(1 - kept / total), rel=1e-9)


def test_position_0_is_left_as_it_is_and_not_looked_at():
    x, y = activations(3, 4, 2)
    changed = x.clone(), y.clone()
    for tensor in changed:
        tensor[:, 0] = 1e6
    recorders = Recorder(noisy), Recorder(noisy)
    out, changed_out = recorders[0](x, y), recorders[1](*changed)
    assert torch.equal(out[:, 0], y[:, 0])
    assert torch.equal(out[:, 1:], y[:, 1:] + 0.3 * x[:, 1:])
    assert torch.equal(changed_out[:, 1:], out[:, 1:])
    assert recorders[0].sequences().equals(recorders[1].sequences())


def test_the_models_precision_is_kept():
    x, y = activations(3, 4, 2)
    out = Recorder(noisy)(x.bfloat16(), y.bfloat16())
    assert out.dtype == torch.bfloat16


def test_mean_ablation_has_an_fvu_of_one_and_zero_ablation_of_more():
    x, y = activations(4, 6, 3)
    mean = y[:, 1:].double().mean(dim=(0, 1))
    sums = {}
    for name, value in (("mean", mean), ("zero", torch.zeros(3))):
        recorder = Recorder(constant(value))
        recorder(x, y)
        table = recorder.sequences()
        sums[name] = table["squared_error"].sum() / table["squared_deviation"].sum()
    assert sums["mean"] == pytest.approx(1, rel=1e-6)
    assert sums["zero"] > 1


def test_firings_by_sequence_and_by_latent():
    x, y = activations(4, 3, 2)
    indices = torch.tensor([[0, 3], [1, 3], [2, 3], [0, 1], [0, 4], [1, 2], [0, 3], [1, 3]])
    values = torch.tensor([[1.0, 0], [1, 2], [0, 0], [1, 1], [1, 1], [1, 1], [1, 0], [0, 0]])
    codes = iter((Code(indices[:4], values[:4]), Code(indices[4:], values[4:])))
    recorder = Recorder(lambda x, y: (y, next(codes)), latents=6)
    pass_through(recorder, x, y, 2)
    assert recorder.sequences()["firings"].tolist() == [3, 2, 4, 1]
    latents = recorder.latents()
    assert latents["latent"].tolist() == [0, 1, 2, 3, 4, 5]
    assert latents["firings"].tolist() == [4, 3, 1, 1, 1, 0]
    assert latents["rate"].tolist() == [count / 8 for count in (4, 3, 1, 1, 1, 0)]


class FakeCoder:
    """Says what it was given."""

    def __init__(self, reads):
        self.reads = reads

    def encode(self, x):
        return Code(None, x)

    def decode(self, code, x):
        return torch.stack([code.values, x])


@pytest.mark.parametrize("reads", ["input", "output"])
def test_a_coder_encodes_its_side_of_the_module_and_skips_from_the_input(reads):
    x, y = torch.zeros(2, 2), torch.ones(2, 2)
    y_hat, code = from_coder(FakeCoder(reads), bfloat16=False)(x, y)
    assert torch.equal(y_hat[0], x if reads == "input" else y)
    assert torch.equal(y_hat[1], x)
    assert code is not None
