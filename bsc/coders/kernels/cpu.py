"""The sparse products by way of torch's own compiled CPU paths: embedding bags and CSR products.

Same functions as `reference`. Each output row is summed by one thread in a fixed order, so results are the same bit for bit
whenever the number of threads is the same.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

_TYPES = (torch.float32, torch.float64)


def serves(*tensors: Tensor) -> bool:
    """Whether these kernels can take the tensors: all float32, or all float64, on the CPU."""
    return all(t.device.type == "cpu" and t.dtype == tensors[0].dtype and t.dtype in _TYPES for t in tensors)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's notice that its CSR support is in beta."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        yield


def _csr(crow: Tensor, column: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    with _quiet():
        return torch.sparse_csr_tensor(crow, column, values, shape, check_invariants=False)


def decode(
    indices: Int[Tensor, "tokens selected"], values: Float[Tensor, "tokens selected"], rows: Float[Tensor, "latents d"]
) -> Float[Tensor, "tokens d"]:
    """Σ_s values[t, s] · rows[indices[t, s]] for each token t: an embedding bag a token."""
    if not indices.numel():
        return rows.new_zeros(len(indices), rows.shape[1])
    return functional.embedding_bag(indices, rows, mode="sum", per_sample_weights=values)


def value_gradient(
    indices: Int[Tensor, "tokens selected"], gradient: Float[Tensor, "tokens d"], rows: Float[Tensor, "latents d"]
) -> Float[Tensor, "tokens selected"]:
    """⟨gradient[t], rows[indices[t, s]]⟩: the product gradient · rowsᵀ, taken at the selected entries only."""
    tokens, selected = indices.shape
    if not indices.numel():
        return gradient.new_zeros(indices.shape)
    crow = torch.arange(0, tokens * selected + 1, selected)
    pattern = _csr(crow, indices.flatten(), gradient.new_zeros(indices.numel()), (tokens, len(rows)))
    sampled: Tensor = torch.sparse.sampled_addmm(pattern, gradient, rows.T, beta=0.0)
    return sampled.values().view(indices.shape)


def row_gradient(
    indices: Int[Tensor, "tokens selected"],
    weights: Float[Tensor, "tokens selected"],
    x: Float[Tensor, "tokens d"],
    rows: int,
) -> Float[Tensor, "rows d"]:
    """Row i is Σ of weights[t, s] · x[t] over indices[t, s] = i: the weights, transposed as a CSR matrix, times x."""
    if not indices.numel():
        return x.new_zeros(rows, x.shape[1])
    latent, order = indices.flatten().sort(stable=True)
    crow = torch.searchsorted(latent, torch.arange(rows + 1))
    token = order // indices.shape[1]
    product: Tensor = _csr(crow, token, weights.flatten()[order], (rows, len(x))) @ x
    return product
