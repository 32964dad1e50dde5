"""What stands in for a hooked module in an evaluation, and the sums that its quality is computed from.

At position 0 of each context the module's own output is left as it is. Its massive activation is kept out of training, so a
coder makes no claim about it, and replacing it would measure that alone. Cross-entropy keeps every predicted token; FVU, L0 and
firing counts leave position 0 out. The same holds for the references (zero, mean, linear map), so that all rows of a table are
comparable.
*Ours*: the paper's code replaces the output everywhere.
"""

from collections.abc import Callable

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from bsc.coders.code import Code
from bsc.coders.coder import SparseCoder
from bsc.models.hooks import Replacement

Rows = Float[Tensor, "rows d"]
Reconstruct = Callable[[Rows, Rows], tuple[Rows, Code | None]]
"""From the module's input and output, position 0 left out, to the reconstruction ŷ and, from a coder, its code."""


def from_coder(coder: SparseCoder, *, bfloat16: bool) -> Reconstruct:
    """Reconstruction by a coder, in float32 or with bfloat16 products as in training."""

    def reconstruct(x: Rows, y: Rows) -> tuple[Rows, Code]:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=bfloat16):
            code = coder.encode(y if coder.reads == "output" else x)
            return coder.decode(code, x), code

    return reconstruct


def constant(value: Float[Tensor, "d"]) -> Reconstruct:
    """The same output for every token: zeros, or the module's mean."""
    return lambda x, y: (value.to(y).expand_as(y), None)


def linear(weight: Float[Tensor, "d_in d"], bias: Float[Tensor, "d"]) -> Reconstruct:
    """A linear map of the module's input, ŷ = x weight + bias."""
    return lambda x, y: (torch.addmm(bias.to(y), x, weight.to(y)), None)


def _after_first(
    reconstruct: Reconstruct, x: Float[Tensor, "batch position d"], y: Float[Tensor, "batch position d"]
) -> tuple[Float[Tensor, "batch later d"], Float[Tensor, "batch later d"], Code | None]:
    """The module's own output at all positions but 0, in float32, its reconstruction there, and the code, of flattened rows."""
    target = y[:, 1:].float()
    flat, code = reconstruct(x[:, 1:].flatten(0, 1).float(), target.flatten(0, 1))
    return target, flat.view_as(target), code


def keeping_first(y: Float[Tensor, "batch position d"], y_hat: Float[Tensor, "batch later d"]) -> Tensor:
    """What the model goes on with: its own output at position 0, a reconstruction at the others."""
    return torch.cat([y[:, :1], y_hat.to(y)], dim=1)


def replacing(reconstruct: Reconstruct) -> Replacement:
    """A replacement (see bsc.models.hooks) that reconstructs, and keeps no record of it."""
    return lambda x, y: keeping_first(y, _after_first(reconstruct, x, y)[1])


class Recorder:
    """A replacement (see bsc.models.hooks) that reconstructs, and keeps float64 sums for each sequence that passes through.

    latents: M of the coder; 0 when there is none.
    """

    def __init__(self, reconstruct: Reconstruct, latents: int = 0) -> None:
        self._reconstruct = reconstruct
        self._errors: list[Float[Tensor, batch]] = []
        self._squares: list[Float[Tensor, "batch position"]] = []
        self._sums: list[Float[Tensor, "batch d"]] = []
        self._first: list[Float[Tensor, "batch d"]] = []
        self._fired: list[Int[Tensor, batch]] = []
        self._rows = 0
        self.firings: Int[Tensor, latents] = torch.zeros(latents, dtype=torch.long)

    def __call__(self, x: Float[Tensor, "batch position d"], y: Float[Tensor, "batch position d"]) -> Tensor:
        """The module's own output at position 0, the reconstruction elsewhere."""
        target, y_hat, code = _after_first(self._reconstruct, x, y)
        self._rows = target.shape[1]
        self._errors.append((target.double() - y_hat.double()).square().sum(dim=(1, 2)).cpu())
        self._squares.append(y.double().square().sum(dim=2).cpu())
        self._sums.append(target.double().sum(dim=1).cpu())
        self._first.append(y[:, 0].double().cpu())
        if code is not None:
            self._count(code, len(y))
        return keeping_first(y, y_hat)

    def _count(self, code: Code, batch: int) -> None:
        token, latent, _ = code.firing()
        self._fired.append(torch.bincount(token // self._rows, minlength=batch).cpu())
        self.firings += torch.bincount(latent, minlength=len(self.firings)).cpu()

    def sequences(self) -> pd.DataFrame:
        """One row a sequence: rows, squared_error, squared_deviation from the mean of all sequences, firings (coders only).

        Squared sums run over all rows but position 0, and over dimensions.
        """
        sums, squares = torch.cat(self._sums), torch.cat(self._squares)[:, 1:].sum(dim=1)
        mean = sums.sum(dim=0) / (self._rows * len(sums))
        deviation = squares - 2 * sums @ mean + self._rows * mean.square().sum()
        table = {"squared_error": torch.cat(self._errors).numpy(), "squared_deviation": deviation.numpy()}
        if self._fired:
            table["firings"] = torch.cat(self._fired).numpy()
        return pd.DataFrame({"rows": self._rows, **table})

    def latents(self) -> pd.DataFrame:
        """One row a latent: latent, firings, and its firing rate over all rows but position 0."""
        firings = self.firings.numpy()
        rows = self._rows * len(torch.cat(self._sums))
        return pd.DataFrame({"latent": range(len(firings)), "firings": firings, "rate": firings / rows})

    def variance_left_out(self) -> float:
        """Share of the total squared deviation of y, position 0 included, that is gone when position 0 is left out."""
        squares, sums, first = torch.cat(self._squares), torch.cat(self._sums), torch.cat(self._first)
        rows = self._rows * len(sums)
        kept = squares[:, 1:].sum() - sums.sum(dim=0).square().sum() / rows
        total = squares.sum() - (sums + first).sum(dim=0).square().sum() / (rows + len(first))
        return float(1 - kept / total)
