"""Binary values against a threshold: one per token that is solved for, or one per latent that is learned."""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from bsc.coders.binarisers.base import Binariser
from bsc.coders.binarisers.straight_through import straight_through
from bsc.coders.code import Code
from bsc.coders.gather import gather
from bsc.coders.kernels import gpu, native
from bsc.coders.preactivations import Preactivations
from bsc.coders.select import top_k
from bsc.errors import UserError

_TOLERANCE = 1e-5
_ITERATIONS = 60
_CHUNK_ELEMENTS = 1 << 18


class BinaryThreshold(Binariser):
    """threshold `solved`: S = the k largest of p, z = 1 on S; the slope is taken around the token's τ, Σ_j σ(p_j - τ) = k.

    threshold `learned` (*ours*): no top-k; every latent with p > θ fires, θ = exp(log θ) per latent, and `penalty` times the
    mean number of firings a token is added to the loss. Backward of both: the sigmoid's straight-through, temperature T.
    A step of the learned kind is dense in float32, forward and backward: six times the pre-activations' memory.
    """

    def __init__(
        self,
        latents: int,
        k: int,
        threshold: str = "solved",
        temperature: float = 2.0,
        initial_threshold: float = 0.004,
        penalty: float = 1e-3,
    ) -> None:
        super().__init__(latents, k)
        self.learned = threshold == "learned"
        if not self.learned and k >= latents:
            raise UserError(
                f"no threshold solves Σσ(p-τ) = k with k = {k} of {latents} latents",
                where="binarisers.binary-threshold",
                fix="use a k below the number of latents, or `threshold: learned`",
            )
        self.temperature, self.penalty_weight = temperature, penalty
        initial = torch.full((latents,), math.log(initial_threshold)) if self.learned else None
        self.log_threshold = None if initial is None else nn.Parameter(initial)

    def forward(self, pre: Preactivations, generator: torch.Generator | None = None) -> Code:
        """The code: [tokens, k] when solved, dense when learned."""
        if self.log_threshold is None:
            return super().forward(pre)
        p = pre.differentiable()
        margin = p.to(torch.promote_types(p.dtype, torch.float32)) - self.log_threshold.exp()
        return Code(None, self._through(margin, margin > 0))

    def select(self, pre: Preactivations) -> Int[Tensor, "tokens k"]:
        """The k largest pre-activations of each token (solved): of the dense ones, which the threshold needs too."""
        return top_k(pre.dense, self.k)

    def thresholds(self) -> Float[Tensor, " latents"] | None:
        """θ when learned; τ is one for all latents of a token and changes no order."""
        return None if self.log_threshold is None else self.log_threshold.exp()

    def values(self, pre: Preactivations, indices: Int[Tensor, "tokens selected"]) -> Float[Tensor, "tokens selected"]:
        """All z = 1 on S, the slope around τ (solved) or θ (learned)."""
        if self.log_threshold is None:
            threshold = solve_threshold(pre.dense, self.k)
        else:
            threshold = gather(self.log_threshold, indices).exp()
        margin = pre.at(indices) - threshold
        return self._through(margin, torch.ones_like(margin, dtype=torch.bool))

    def _through(self, margin: Float[Tensor, "..."], fires: Bool[Tensor, "..."]) -> Float[Tensor, "..."]:
        return straight_through(margin, fires.to(margin.dtype), "sigmoid", self.temperature)

    def penalty(self, code: Code) -> Float[Tensor, ""]:
        """λ times the mean number of firings a token (learned); its gradient goes through the straight-through."""
        if not self.learned:
            return super().penalty(code)
        return self.penalty_weight * code.values.sum(1).mean()


@torch.no_grad()
def solve_threshold(p: Float[Tensor, "tokens latents"], k: int) -> Float[Tensor, "tokens 1"]:
    """τ of each token with Σ_j σ(p_j - τ) = k, to 1e-5 of k, in float32 or wider; 0 < k < latents."""
    if gpu.serves(p):
        from bsc.coders.kernels.gpu import threshold

        return threshold.solve_threshold(p, k)
    if native.selects(p, None):
        return native.solve_threshold(p, k)
    return solve_threshold_by_torch(p, k)


def solve_threshold_by_torch(p: Float[Tensor, "tokens latents"], k: int) -> Float[Tensor, "tokens 1"]:
    """As `solve_threshold`, on any device and in any type, in chunks that stay in the CPU's cache."""
    rows = max(1, _CHUNK_ELEMENTS // p.shape[1]) if p.device.type == "cpu" else len(p)
    wide = torch.promote_types(p.dtype, torch.float32)
    return torch.cat([_solve(chunk.to(wide), k) for chunk in torch.split(p, rows)])


def _solve(p: Float[Tensor, "tokens latents"], k: int) -> Float[Tensor, "tokens 1"]:
    """Newton on the logarithm of the sum, nearly a straight line in τ; where a step leaves the bracket, bisection.

    The root lies within logit(k/M) of the smallest and the largest pre-activation. A token that has converged stays: its next
    step is smaller than its last digit, and would be taken for one out of the bracket.
    """
    shift = math.log(k / (p.shape[1] - k))
    low, high = p.amin(1, keepdim=True) - shift, p.amax(1, keepdim=True) - shift
    threshold = (torch.logsumexp(p, 1, keepdim=True) - math.log(k)).clamp(low, high)
    for _ in range(_ITERATIONS):
        gate = torch.sigmoid(p - threshold)
        total = gate.sum(1, keepdim=True)
        converged = (total - k).abs() <= _TOLERANCE * k
        if bool(converged.all()):
            break
        low, high = torch.where(total > k, threshold, low), torch.where(total < k, threshold, high)
        slope = gate.mul_(1 - gate).sum(1, keepdim=True)
        newton = threshold + total * torch.log(total / k) / slope
        step = torch.where((newton > low) & (newton < high), newton, (low + high) / 2)
        threshold = torch.where(converged, threshold, step)
    return threshold
