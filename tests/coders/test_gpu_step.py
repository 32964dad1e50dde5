"""A training step of every binariser by Triton's kernels, and by the plain reference."""

import pytest
import torch

from bsc.coders.binarisers.registry import REGISTRY
from bsc.coders.kernels import gpu, native
from bsc.stages import CoderSpec
from bsc.training.batches import Batch
from bsc.training.trainer import Trainer

VARIANTS = [*((key, {}) for key in REGISTRY), ("binary-threshold", {"threshold": "learned"})]


def gradients(binariser, options, device):
    """Of each parameter in the second step, in which latents that were silent in the first are dead, for AuxK."""
    spec = CoderSpec(
        width=5,
        latents=12,
        k=2,
        architecture="sae",
        binariser=binariser,
        options=options,
        seed=1,
        tokens=60,
        batch_tokens=6,
        optimiser="adam",
        learning_rate=1e-3,
        warmup_steps=1,
        auxk=True,
        multi_topk=REGISTRY[binariser].continuous,
        dead_after_tokens=6,
        dtype="float32",
    )
    generator = torch.Generator().manual_seed(0)
    batches = [Batch(*torch.randn(2, 6, 5, generator=generator).to(device)) for _ in range(2)]
    trainer = Trainer(spec, batches[0], device)
    trainer.coder.W_dec.data.copy_(trainer.coder.W_enc.data)
    for batch in batches:
        trainer.advance(batch)
    return {name: parameter.grad for name, parameter in trainer.coder.named_parameters()}


@pytest.mark.parametrize(("binariser", "options"), VARIANTS)
def test_a_step_has_the_gradients_of_the_reference(monkeypatch, device, binariser, options):
    ours = gradients(binariser, options, device)
    monkeypatch.setattr(gpu, "serves", lambda *tensors: False)
    monkeypatch.setattr(native, "library", lambda: None)
    expected = gradients(binariser, options, device)
    for name, gradient in expected.items():
        torch.testing.assert_close(ours[name], gradient, rtol=2e-3, atol=2e-5, msg=lambda m, name=name: f"{name}: {m}")


def test_the_kernels_serve_here(device):
    p = torch.zeros(1, 1, device=device)
    assert gpu.serves(p, p.bfloat16(), None)
    assert not gpu.serves(p, p.double())
