"""What a coder computes, written from the formulas: the forward by loops, the backward by autograd of a float64 surrogate."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from bsc.coders.code import Code
from bsc.coders.coder import SparseCoder

ONE_OF_EACH = [
    ("topk", {}),
    ("groupmax", {}),
    ("binary-topk", {"ste": "sigmoid", "temperature": 2.0}),
    ("binary-topk", {"ste": "sigmoid", "temperature": 0.7}),
    ("binary-topk", {"ste": "rectangle"}),
    ("binary-topk", {"ste": "identity"}),
    ("binary-topk", {"ste": "power"}),
    ("binary-topk", {"ste": "power", "temperature": 3.0}),
    ("binary-topk-exact", {}),
    ("binary-threshold", {"threshold": "solved"}),
    ("binary-threshold", {"threshold": "learned"}),
    ("binary-groupmax", {}),
    ("binary-groupmax", {"ste": "rectangle"}),
    ("gumbel", {"tau": 0.5}),
    ("reinmax", {"tau": 1.1}),
    ("nbit", {"bits": 1}),
    ("nbit", {"bits": 2}),
    ("nbit", {"bits": 5}),
    ("hybrid", {"continuous": 0.5}),
    ("hybrid", {"continuous": 0.2, "ste": "rectangle"}),
]


def parameters(coder: SparseCoder) -> dict[str, Tensor]:
    """Float64 leaves with the values of the coder's parameters."""
    return {name: p.detach().double().requires_grad_() for name, p in coder.named_parameters()}


def preactivations(coder: SparseCoder, own: dict[str, Tensor], x: Tensor) -> Tensor:
    read = x - own["b_dec"] if coder.architecture == "sae" else x
    return read @ own["W_enc"].T + own["b_enc"]


def best(row: list[float], k: int) -> list[int]:
    """Indices of the k largest, ties to the lowest index, ascending."""
    return sorted(sorted(range(len(row)), key=lambda i: (-row[i], i))[:k])


def best_of_groups(row: list[float], k: int) -> list[int]:
    size = len(row) // k
    return [group * size + best(row[group * size : (group + 1) * size], 1)[0] for group in range(k)]


def pools(latents: int, k: int, share: float) -> tuple[int, int]:
    """(binary latents, binary k) of a hybrid with this continuous share: both pools have something."""
    k_continuous = min(max(round(share * k), 1), k - 1)
    return latents - min(max(round(share * latents), k_continuous), latents - (k - k_continuous)), k - k_continuous


def quantised(p: Tensor, step: Tensor, bits: int) -> float:
    """s·clip(round(p/s), 0, 2^bits - 1) of single numbers; Python rounds half to even, as torch does."""
    return (step * min(max(round((p / step).item()), 0), 2**bits - 1)).item()


def expected_code(
    key: str, options: dict, p: Tensor, theta: Tensor | None, k: int, step: Tensor | None = None
) -> Iterator[tuple[list[int], list[float]]]:
    """(S, z) of each token for what needs no sampling; p, theta and step in the coder's own type, so that ties are its ties."""
    margins = p if theta is None else p - theta
    for token, (row, margin) in enumerate(zip(p.tolist(), margins.tolist(), strict=True)):
        if key == "hybrid":
            binary, k_binary = pools(len(row), k, options["continuous"])
            on, graded = best(margin[:binary], k_binary), [binary + i for i in best(margin[binary:], k - k_binary)]
            yield on + graded, [float(margin[i] > 0) for i in on] + [max(row[i], 0.0) for i in graded]
            continue
        if step is not None:
            S = best(row, k)
            yield S, [quantised(p[token, i], step[i], options["bits"]) for i in S]
            continue
        if options.get("threshold") == "learned":
            yield list(range(len(row))), [float(m > 0) for m in margin]
            continue
        S = best_of_groups(margin, k) if "group" in key or key in ("gumbel", "reinmax") else best(margin, k)
        if key in ("topk", "groupmax"):
            yield S, [max(row[i], 0.0) for i in S]
        elif key in ("binary-topk", "binary-groupmax"):
            yield S, [float(margin[i] > 0) for i in S]
        else:
            yield S, [1.0 for _ in S]


def smooth(ste: str, margin: Tensor, T: float) -> Tensor:
    """A function of the margin whose derivative is the slope of methods' table."""
    if ste == "sigmoid":
        return T * torch.sigmoid(margin / T)
    if ste == "rectangle":
        return margin.clamp(-T / 2, T / 2)
    if ste == "identity":
        return margin
    cut = 1e-3
    slope = cut ** ((1 - T) / T) / T
    root = margin.sign() * margin.abs().clamp(min=cut) ** (1 / T)
    return torch.where(margin.abs() < cut, slope * margin, root)


def staircase(p: Tensor, step: Tensor, levels: int) -> Tensor:
    """LSQ: z = s·clip(round(p/s), 0, Q); to s by autograd, its rounding passed straight through; to p with slope 1.

    Beyond an end nothing reaches p that would take it further, by descent, from the other.
    """
    scaled = p.detach() / step
    rounded = scaled + (scaled.round() - scaled).detach()
    inside = (scaled > 0) & (scaled < levels)
    through = p - p.detach()
    if through.requires_grad:
        through.register_hook(lambda g: g.where(inside | torch.where(scaled <= 0, g < 0, g > 0), 0.0))
    return step * torch.where(inside, rounded, rounded.detach().clamp(0, levels)) + through


def surrogate(coder: SparseCoder, own: dict[str, Tensor], p: Tensor, S: Tensor, extra: dict[str, Tensor]) -> Tensor:
    """The smooth z on S whose autograd is the binariser's backward. extra: solved threshold `tau`, or the drawn `noise`."""
    key, binariser = coder.binariser_key, coder.binariser
    on_S = p.gather(1, S)
    if key == "nbit":
        return staircase(on_S, own["binariser.log_step"].exp()[S], binariser.levels)
    if key == "hybrid":
        theta = torch.cat([own["binariser.log_threshold"].exp(), p.new_zeros(coder.latents - binariser.binary)])
        binary = smooth(binariser.ste, on_S - theta[S], binariser.temperature)
        return torch.where(binariser.binary > S, binary, on_S * (on_S > 0))
    if coder.continuous:
        return on_S * (on_S > 0)
    if key in ("gumbel", "reinmax"):
        groups = p.view(len(p), coder.k, -1)
        if key == "gumbel":
            soft = ((groups + extra["noise"].view_as(groups)) / binariser.tau).softmax(2)
            return soft.flatten(1).gather(1, S)
        D = torch.zeros_like(p).scatter(1, S, 1.0).view_as(groups)
        first = (D + (groups / binariser.tau).softmax(2)) / 2
        first = ((first.log() - groups).detach() + groups).softmax(2)
        return (2 * first - groups.softmax(2) / 2).flatten(1).gather(1, S)
    if "tau" in extra:
        return smooth("sigmoid", on_S - extra["tau"], binariser.temperature)
    theta = own["binariser.log_threshold"].exp().expand_as(p).gather(1, S)
    return smooth(getattr(binariser, "ste", "sigmoid"), on_S - theta, binariser.temperature)


def reconstruct(own: dict[str, Tensor], S: Tensor, z: Tensor, x: Tensor) -> Tensor:
    y_hat = torch.einsum("ts,tsd->td", z, own["W_dec"][S]) + own["b_dec"]
    return y_hat + x @ own["W_skip"].T if "W_skip" in own else y_hat


def gradients(
    coder: SparseCoder, x: Tensor, y: Tensor, code: Code, extra: dict[str, Tensor], p: Tensor | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """FVU of the batch and its gradients, with S and z as in `code`. p: values to put in the place of the exact ones."""
    own, x, y = parameters(coder), x.double(), y.double()
    exact = preactivations(coder, own, x)
    used = exact if p is None else exact + (p.double() - exact).detach()
    S = torch.arange(coder.latents).expand(len(x), -1) if code.indices is None else code.indices
    soft = surrogate(coder, own, used, S, extra)
    z = code.values.detach().double() + (soft - soft.detach())
    fvu = (y - reconstruct(own, S, z, x)).square().sum() / (y - y.mean(0)).square().sum()
    grads = torch.autograd.grad(fvu, list(own.values()), allow_unused=True)
    return fvu.detach(), {
        name: torch.zeros_like(p) if g is None else g for (name, p), g in zip(own.items(), grads, strict=True)
    }


def solved_threshold(row: list[float], k: int) -> float:
    """τ with Σσ(p-τ) = k, by bisection in float64."""
    low, high = min(row) - 60.0, max(row) + 60.0
    for _ in range(200):
        middle = (low + high) / 2
        total = sum(1 / (1 + math.exp(-(p - middle))) if p - middle > -700 else 0.0 for p in row)
        low, high = (middle, high) if total > k else (low, middle)
    return low
