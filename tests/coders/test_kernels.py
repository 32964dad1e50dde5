import shutil
import subprocess
import sys
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bsc.coders import kernels
from bsc.coders.kernels import build, cpu, native, reference


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
    for skip in (None, x.flip(0)):
        r = x - rows[0] - dense @ rows - (0 if skip is None else skip)
        expected = r, r.square().sum(1), (r @ rows.T).gather(1, indices)
        for found, right in zip(kernels.residual(indices, values, rows, x, rows[0], skip), expected, strict=True):
            torch.testing.assert_close(found, right)
    for twin in (reference, cpu):
        torch.testing.assert_close(twin.decode(indices, values, rows), dense @ rows)
        torch.testing.assert_close(twin.value_gradient(indices, x, rows), (x @ rows.T).gather(1, indices))
        torch.testing.assert_close(twin.row_gradient(indices, values, x, latents), dense.T @ x)


@pytest.mark.compiled
@settings(max_examples=40, deadline=None)
@given(st.data())
def test_compiled_kernels_agree_with_dense_products(data):
    latents = data.draw(st.integers(1, 30))
    selected = data.draw(st.integers(0, latents))
    tokens, width = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40))
    indices, values, rows, x = batch(tokens, latents, selected, width, data.draw(st.integers(0, 2**30)))
    dense = torch.zeros(tokens, latents, dtype=torch.float64).scatter(1, indices, values)
    values, rows, x, close = values.float(), rows.float(), x.float(), {"rtol": 1e-5, "atol": 1e-4}
    expected = dense @ rows.double(), (x.double() @ rows.double().T).gather(1, indices), dense.T @ x.double()
    skip = data.draw(st.sampled_from([None, x.flip(0)]))
    r = x.double() - rows[0].double() - expected[0] - (0 if skip is None else skip.double())
    residual = r, r.square().sum(1), (r @ rows.double().T).gather(1, indices)
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for found, right in zip(native.residual(indices, values, rows, x, rows[0], skip), residual, strict=True):
            torch.testing.assert_close(found.double(), right, rtol=1e-5, atol=1e-3)
        torch.testing.assert_close(native.decode(indices, values, rows).double(), expected[0], **close)
        torch.testing.assert_close(native.value_gradient(indices, x, rows).double(), expected[1], **close)
        torch.testing.assert_close(native.row_gradient(indices, values, x, latents).double(), expected[2], **close)


@pytest.mark.compiled
def test_compiled_kernels_do_not_depend_on_the_number_of_threads():
    indices, values, rows, x = batch(500, 300, 16, 48, 0, torch.float32)
    results = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        row_gradient = native.row_gradient(indices, values, x, 300)
        results.append((native.decode(indices, values, rows), native.value_gradient(indices, x, rows), row_gradient))
        results[-1] += native.residual(indices, values, rows, x, rows[0], x)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


def moments(x):
    """By the formula, in float64."""
    mean = x.double().mean(0)
    return mean, (x.double() - mean).square().sum(0)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 20), st.integers(0, 2**30))
def test_moments_are_those_of_the_formula(tokens, width, seed):
    x = torch.randn(tokens, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    for found, right in zip(kernels.moments(x), moments(x), strict=True):
        torch.testing.assert_close(found, right)


@pytest.mark.compiled
@settings(max_examples=40, deadline=None)
@given(st.integers(1, 700), st.integers(1, 40), st.sampled_from([0, 1, 1e3]), st.integers(0, 2**30))
def test_compiled_moments_are_those_of_the_formula_far_from_zero_too(tokens, width, mean, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(width, generator=generator) * torch.randn(tokens, width, generator=generator) + mean
    found = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        found.append(native.moments(x))
        assert all(map(torch.equal, found[0], found[-1]))
    (ours, squares), (right, expected) = found[0], moments(x)
    torch.testing.assert_close(ours.double(), right, rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(squares.double(), expected, rtol=1e-5, atol=1e-10 * mean**2 * tokens)


@pytest.mark.compiled
def test_compiled_kernels_are_used_where_they_serve(monkeypatch):
    indices, values, rows, _ = batch(20, 30, 4, 8, 0, torch.float32)
    monkeypatch.setattr(native, "decode", lambda *arguments: "native")
    assert kernels.decode(indices, values, rows) == "native"
    assert torch.is_tensor(kernels.decode(indices, values.double(), rows.double()))


def test_no_compiler_is_said_once_and_torch_serves(monkeypatch, capsys, tmp_path):
    indices, values, rows, _ = batch(20, 30, 4, 8, 0, torch.float32)
    monkeypatch.setattr(native, "library", build.library.__wrapped__)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    expected = cpu.decode(indices, values, rows)
    for setting, said in {"": "no C++ compiler was found", "/bin/false": "/bin/false failed", "/no/such": "/no/such"}.items():
        monkeypatch.setenv("CXX", setting)
        monkeypatch.setattr(build, "COMPILERS", ())
        assert torch.equal(kernels.decode(indices, values, rows), expected)
        assert said in capsys.readouterr().err


@pytest.fixture
def quickly(monkeypatch):
    """Compile without optimising, which takes most of the time."""
    monkeypatch.setattr(build, "FLAGS", tuple("-O0" if flag == "-O3" else flag for flag in build.FLAGS))


@pytest.mark.compiled
@pytest.mark.usefixtures("quickly")
def test_kernels_are_compiled_once_into_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert build.library.__wrapped__() is not None
    files = sorted((tmp_path / "bsc").iterdir())
    assert [path.suffix for path in files] == [".sha256", ".so"]
    written = [path.stat().st_mtime_ns for path in files]
    assert build.library.__wrapped__() is not None
    assert files == sorted((tmp_path / "bsc").iterdir())
    assert written == [path.stat().st_mtime_ns for path in files]


@pytest.mark.compiled
@pytest.mark.usefixtures("quickly")
@pytest.mark.parametrize("kept", [0.0, 0.6])
def test_a_damaged_library_is_compiled_again(monkeypatch, tmp_path, kept):
    """Much of a library is worse than none of it: the process that loads it dies of SIGBUS."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert build.library.__wrapped__() is not None
    (made,) = (tmp_path / "bsc").glob("*.so")
    whole = made.read_bytes()
    made.unlink()  # this process has it mapped
    made.write_bytes(whole[: int(kept * len(whole))])
    assert build.library.__wrapped__() is not None
    assert made.read_bytes() == whole


@pytest.mark.compiled
@pytest.mark.usefixtures("quickly")
def test_a_compiler_behind_a_launcher(monkeypatch, tmp_path):
    compiler = next(filter(None, map(shutil.which, build.COMPILERS)))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", f"env {compiler} -g0")
    assert build.library.__wrapped__() is not None


@pytest.mark.parametrize("setting", ["'", "''"])
def test_a_setting_that_names_no_compiler(monkeypatch, capsys, tmp_path, setting):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", setting)
    assert build.library.__wrapped__() is None
    assert "slower CPU kernels are used" in capsys.readouterr().err


@pytest.mark.parametrize("twin", [reference, cpu, pytest.param(native, marks=pytest.mark.compiled)])
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


def test_indices_of_any_integer_type():
    indices, values, rows, x = batch(20, 30, 4, 8, 0, torch.float32)
    p, (_, softmax) = torch.randn(20, 30), kernels.softmax(torch.randn(20, 30), 2, 1.0)
    terms = [(softmax, torch.rand(20, 2))]

    def all_of(indices):
        return (
            kernels.decode(indices, values, rows),
            kernels.value_gradient(indices, x, rows),
            *kernels.residual(indices, values, rows, x, rows[0], None),
            kernels.row_gradient(indices, values, x, 30),
            kernels.latent_sums(indices, values, 30),
            kernels.softmax_gradient(p, terms, indices, values),
        )

    assert all(torch.equal(a, b) for a, b in zip(all_of(indices.int()), all_of(indices), strict=True))


@pytest.mark.parametrize("dtypes", [(torch.float32, torch.bfloat16), (torch.bfloat16,) * 2, (torch.float64, torch.float32)])
def test_types_that_differ_or_are_narrow_are_summed_in_the_wider_one(dtypes):
    indices, values, rows, x = batch(20, 30, 4, 8, 0)
    values, rows, x = values.to(dtypes[0]), rows.to(dtypes[1]), x.to(dtypes[1])
    for name, arguments in {
        "decode": (indices, values, rows),
        "value_gradient": (indices, x, rows),
        "row_gradient": (indices, values, x, 30),
    }.items():
        found = getattr(kernels, name)(*arguments)
        wide = [a.double() if torch.is_tensor(a) and a.is_floating_point() else a for a in arguments]
        expected = getattr(reference, name)(*wide)
        assert found.dtype == dtypes[1]
        close = {"rtol": 4e-3, "atol": 1e-5} if dtypes[1] == torch.bfloat16 else {"rtol": 1e-5, "atol": 1e-5}
        torch.testing.assert_close(found.double(), expected, **close)


def test_autocast_does_not_reach_them_and_they_are_quiet():
    indices, values, rows, x = batch(20, 30, 4, 8, 0, torch.float32)
    outside = kernels.decode(indices, values, rows), kernels.row_gradient(indices, values, x, 30)
    with warnings.catch_warnings(), torch.autocast("cpu", torch.bfloat16):
        warnings.simplefilter("error")
        inside = kernels.decode(indices, values, rows), kernels.row_gradient(indices, values, x, 30)
        sampled = kernels.value_gradient(indices, x, rows)
    assert all(torch.equal(a, b) for a, b in zip(outside, inside, strict=True))
    assert torch.equal(sampled, kernels.value_gradient(indices, x, rows))


_WITHOUT_TORCH = """
import ctypes, sys
import numpy as np
library, alone = ctypes.CDLL(sys.argv[1]), not hasattr(ctypes.CDLL(None), "GOMP_parallel")
generator = np.random.default_rng(0)
indices, values = generator.integers(0, 50, (300, 4)), generator.random((300, 4), np.float32)
rows, total = generator.random((50, 33), np.float32), np.empty((300, 33), np.float32)
def at(array):
    return ctypes.c_void_p(array.ctypes.data)
library.bsc_decode(at(indices), at(values), at(rows), *map(ctypes.c_int64, (300, 4, 33, 3)), at(total))
print(alone, np.allclose(total, (values[..., None] * rows[indices]).sum(1), atol=1e-5))
"""


@pytest.mark.compiled
def test_without_torchs_threads_the_kernels_start_their_own():
    library = build.library()
    said = subprocess.run([sys.executable, "-c", _WITHOUT_TORCH, library._name], capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["True", "True"]
