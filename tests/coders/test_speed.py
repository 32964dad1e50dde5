"""What the compiled kernels are for, as ratios of medians in one run: seconds depend on the machine, these hardly."""

import argparse

import pytest
import torch
from checkouts import ROOT

from bsc.coders import kernels
from bsc.coders.kernels import screening
from bsc.coders.select import top_k

pytestmark = [pytest.mark.slow, pytest.mark.compiled]


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    p = torch.randn(512, 18_432, generator=generator)
    x, rows = torch.randn(512, 576, generator=generator), torch.randn(18_432, 576, generator=generator)
    return p, x, rows, top_k(p, 32), torch.rand(512, 32, generator=generator)


def test_selection_takes_a_fraction_of_torchs(medians, batch):
    p, *_ = batch
    taken = medians({"ours": lambda: top_k(p, 32), "torch": lambda: p.topk(32)}, 7)
    assert taken["ours"] < 0.8 * taken["torch"], taken


def test_screening_takes_a_fraction_of_the_product_and_its_selection(medians, batch):
    p, x, rows, *_ = batch
    if not screening.pays(*p.shape, 32):
        pytest.skip("this CPU does not multiply bytes fast")
    bias = torch.zeros(len(rows))
    cases = {
        "screened": lambda: screening.top_k(x, rows, bias, 32),
        "dense": lambda: top_k(torch.nn.functional.linear(x, rows, bias), 32),
    }
    taken = medians(cases, 7)
    assert taken["screened"] < 0.8 * taken["dense"], taken


def test_gradients_take_a_fraction_of_gathering_and_adding(medians, batch):
    _, x, rows, indices, values = batch

    def gathered():
        (x.unsqueeze(1) * rows[indices]).sum(2)

    def added():
        total = torch.zeros_like(rows)
        total.index_add_(0, indices.flatten(), (values.unsqueeze(2) * x.unsqueeze(1)).flatten(0, 1))

    cases = {
        "values": lambda: kernels.value_gradient(indices, x, rows),
        "gathered": gathered,
        "rows": lambda: kernels.row_gradient(indices, values, x, len(rows)),
        "added": added,
    }
    taken = medians(cases, 7)
    assert taken["values"] < 0.5 * taken["gathered"], taken
    assert taken["rows"] < 0.8 * taken["added"], taken


def test_a_step_costs_little_more_than_its_product(medians, monkeypatch):
    """Limits leave room for a machine that does other things too: idle, and at the sizes of the paper, the first is 1.3.

    Where the CPU multiplies bytes fast it is 0.6.
    """
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import coders

    shape = argparse.Namespace(width=576, latents=9_216, k=32, tokens=1_024)
    variants = ("topk", "binary-topk", "binary-groupmax", "gumbel")
    product = coders.products(shape)["product float32"]
    taken = medians({"product": product, **{one: coders.step(one, shape, "float32") for one in variants}}, 5)
    assert taken["topk"] < (1.8 if screening.pays(1_024, 9_216, 32) else 2.3) * taken["product"], taken
    assert taken["binary-topk"] < 1.3 * taken["topk"], taken
    assert taken["binary-groupmax"] < 1.3 * taken["topk"], taken
    assert taken["gumbel"] < 6.0 * taken["product"], taken
