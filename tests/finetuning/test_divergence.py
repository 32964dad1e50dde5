"""The KL divergence in chunks, against the whole of it in float64."""

import pytest
import torch
from torch.nn import functional

from bsc.finetuning import divergence as module
from bsc.finetuning.divergence import NO_LABEL, divergence

ROWS, WIDTH, VOCABULARY = 13, 8, 40


@pytest.fixture
def given() -> tuple[torch.nn.Linear, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A frozen head, two hidden states some of whose logits are large, and labels of which two are missing."""
    generator = torch.Generator().manual_seed(0)
    head = torch.nn.Linear(WIDTH, VOCABULARY, bias=False).requires_grad_(False)
    head.weight.copy_(3 * torch.randn(VOCABULARY, WIDTH, generator=generator))
    unspliced, spliced = (2 * torch.randn(ROWS, WIDTH, generator=generator) for _ in range(2))
    labels = torch.randint(VOCABULARY, (ROWS,), generator=generator)
    labels[[3, 12]] = NO_LABEL
    return head, unspliced, spliced, labels


def by_formula(
    head: torch.nn.Linear, unspliced: torch.Tensor, spliced: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    P, Q = (torch.softmax(states @ head.weight.double().T, -1) for states in (unspliced, spliced))
    kl = (P * (P.log() - Q.log())).sum(-1).mean()
    ce = [functional.nll_loss(said.log(), labels, ignore_index=NO_LABEL) for said in (Q, P)]
    return kl, *ce


@pytest.mark.parametrize("chunk", [1, 5, 13, 256])
def test_values_and_gradient(
    chunk: int,
    given: tuple[torch.nn.Linear, torch.Tensor, torch.Tensor, torch.Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "CHUNK_TOKENS", chunk)
    head, unspliced, spliced, labels = given
    ours = spliced.clone().requires_grad_()
    exact = spliced.double().requires_grad_()
    found, expected = divergence(head, unspliced, ours, labels), by_formula(head, unspliced.double(), exact, labels)
    torch.testing.assert_close(torch.stack(found).double(), torch.stack(expected), rtol=1e-5, atol=1e-6)
    (3 * found.kl).backward()
    (3 * expected[0]).backward()
    torch.testing.assert_close(ours.grad.double(), exact.grad, rtol=1e-4, atol=1e-6)
    assert not found.ce.requires_grad
    assert not found.ce_unspliced.requires_grad


def test_equal_states_diverge_by_nothing(given: tuple[torch.nn.Linear, torch.Tensor, torch.Tensor, torch.Tensor]) -> None:
    head, unspliced, _, labels = given
    ours = unspliced.clone().requires_grad_()
    found = divergence(head, unspliced, ours, labels)
    found.kl.backward()
    assert found.kl.item() == 0
    assert found.ce.item() == found.ce_unspliced.item()
    assert ours.grad.abs().max() == 0


def test_no_more_than_a_chunk_of_logits_is_kept(
    given: tuple[torch.nn.Linear, torch.Tensor, torch.Tensor, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK_TOKENS", 5)
    head, unspliced, spliced, labels = given
    seen: list[int] = []
    kept: list[int] = []
    head.register_forward_hook(lambda _, inputs, output: seen.append(len(output)))
    with torch.autograd.graph.saved_tensors_hooks(lambda saved: kept.append(saved.numel()) or saved, lambda saved: saved):
        divergence(head, unspliced, spliced.requires_grad_(), labels)
    assert seen == [5, 5, 5, 5, 3, 3]
    assert set(kept) == {head.weight.numel(), ROWS * WIDTH}, "the head's own weights, and the gradient"
