"""A sparse coder: encode, binarise, decode (paper, Sec. 3).

    p = W_enc x + b_enc                      (an SAE reads y - b_dec in the place of x)
    indices S, values z = binariser(p)
    ŷ = Σ_{i∈S} z_i W_dec[i] + b_dec         (a skip-transcoder adds W_skip x)

x is the hooked module's input, y its output. Under torch.autocast the dense products are bfloat16; everything else is in the
type of the parameters, float32.
"""

import math
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from bsc.coders.binarisers.registry import REGISTRY
from bsc.coders.code import Code
from bsc.coders.decode import combine, squared_error
from bsc.coders.preactivations import Preactivations
from bsc.stages import CoderSpec

_MOST_TOKENS = 4_096
"""Of the first batch, evenly spread, that a binariser starts from: many enough, and their pre-activations fit anywhere."""


class SparseCoder(nn.Module):
    """An SAE, a transcoder or a skip-transcoder with any binariser of the registry.

    Parameters: W_enc [M, d], b_enc [M], W_dec [M, d], b_dec [d], W_skip [d, d] or None, and the binariser's own. `options`
    are the binariser's. W_enc is drawn from the generator as nn.Linear would; an SAE starts with W_dec = W_enc, a
    transcoder with W_dec = 0; biases and W_skip start at 0 (see `initialise_from`).
    """

    def __init__(
        self,
        width: int,
        latents: int,
        k: int,
        architecture: Literal["sae", "transcoder", "skip-transcoder"],
        binariser: str,
        options: dict[str, Any] | None = None,
        *,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        entry = REGISTRY[binariser]
        self.width, self.latents, self.k, self.architecture = width, latents, k, architecture
        self.binariser_key, self.continuous = binariser, entry.continuous
        bound = 1 / math.sqrt(width)
        self.W_enc = nn.Parameter(torch.empty(latents, width).uniform_(-bound, bound, generator=generator))
        self.b_enc = nn.Parameter(torch.zeros(latents))
        self.W_dec = nn.Parameter(self.W_enc.detach().clone() if self.is_sae else torch.zeros(latents, width))
        self.b_dec = nn.Parameter(torch.zeros(width))
        self.W_skip = nn.Parameter(torch.zeros(width, width)) if architecture == "skip-transcoder" else None
        self.binariser = entry.load()(latents, k, **(options or {}))
        self.normalise_decoder()

    @classmethod
    def build(cls, spec: CoderSpec) -> "SparseCoder":
        """The coder that a spec describes, untrained, drawn from its seed; on the CPU."""
        coder = cls(
            spec.width,
            spec.latents,
            spec.k,
            spec.architecture,
            spec.binariser,
            spec.options,
            generator=torch.Generator().manual_seed(spec.seed),
        )
        if spec.frequency is not None and spec.frequency.control == "bias":
            coder.binariser.balance()
        return coder

    @property
    def is_sae(self) -> bool:
        """Whether it reads what it predicts."""
        return self.architecture == "sae"

    @property
    def reads(self) -> Literal["input", "output"]:
        """Which side of the hooked module the encoder reads; the target is the output always."""
        return "output" if self.is_sae else "input"

    @property
    def unit_norm(self) -> bool:
        """Whether the rows of W_dec are kept at unit norm: in continuous SAEs.

        Never in binary coders (*ours*: the authors' default does it in binary SAEs too): the magnitude of a binary latent
        lives in the norm of its row.
        """
        return self.is_sae and self.continuous

    @torch.no_grad()
    def initialise_from(self, x: Float[Tensor, "tokens d"], y: Float[Tensor, "tokens d"]) -> None:
        """Set the biases from the first batch: b_dec = mean(y), and in transcoders b_enc = -W_enc mean(x).

        Then the binariser sets what it starts from the pre-activations with these biases. x: what the encoder reads, y: the
        target (the same in an SAE). Means are taken in float64.
        """
        self.b_dec.copy_(y.mean(0, dtype=torch.float64))
        if not self.is_sae:
            self.b_enc.copy_(-(self.W_enc.double() @ x.mean(0, dtype=torch.float64)))
        some = x[:: -(-len(x) // _MOST_TOKENS)]
        self.binariser.initialise_from(lambda: self.preactivations(some))

    def preactivations(self, x: Float[Tensor, "tokens d"]) -> Preactivations:
        """W_enc x + b_enc, or W_enc (x - b_dec) + b_enc in an SAE. Raises ValueError when x is not [tokens, d]."""
        if x.ndim != 2 or x.shape[1] != self.width:
            raise ValueError(f"an input of shape {list(x.shape)}: this coder takes [tokens, {self.width}]")
        return Preactivations(x.to(self.W_enc.dtype), self.W_enc, self.b_enc, self.b_dec if self.is_sae else None)

    def encode(self, x: Float[Tensor, "tokens d"], generator: torch.Generator | None = None) -> Code:
        """The code of a batch. generator: for binarisers that sample while training."""
        code: Code = self.binariser(self.preactivations(x), generator)
        return code

    def decode(self, code: Code, x: Float[Tensor, "tokens d"]) -> Float[Tensor, "tokens d"]:
        """ŷ = Σ z_i W_dec[i] + b_dec, + W_skip x in a skip-transcoder (x is used for that only)."""
        total = combine(code, self.W_dec) + self.b_dec
        skip = self._skip(x)
        return total if skip is None else total + skip

    def squared_error(
        self, code: Code, x: Float[Tensor, "tokens d"], y: Float[Tensor, "tokens d"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "tokens d"]]:
        """Σ|y - ŷ|², ŷ as `decode` has it, and y - ŷ, through which no gradient goes."""
        return squared_error(code, self.W_dec, y, self.b_dec, self._skip(x))

    def _skip(self, x: Float[Tensor, "tokens d"]) -> Float[Tensor, "tokens d"] | None:
        return None if self.W_skip is None else functional.linear(x.to(self.W_skip.dtype), self.W_skip)

    def auxiliary(self, pre: Preactivations, dead: Bool[Tensor, " latents"], k_aux: int) -> Code:
        """The code of the k_aux best dead latents; see `Binariser.auxiliary`."""
        code: Code = self.binariser.auxiliary(pre, dead, k_aux)
        return code

    def forward(self, x: Float[Tensor, "tokens d"], generator: torch.Generator | None = None) -> Float[Tensor, "tokens d"]:
        """ŷ of what the encoder reads."""
        return self.decode(self.encode(x, generator), x)

    @torch.no_grad()
    def normalise_decoder(self) -> None:
        """Put the rows of W_dec back to unit norm, after each step; does nothing where `unit_norm` is False."""
        if self.unit_norm:
            self.W_dec.div_(self.W_dec.norm(dim=1, keepdim=True).clamp_min(torch.finfo(self.W_dec.dtype).eps))

    @torch.no_grad()
    def project_decoder_gradient(self) -> None:
        """Remove from the gradient of W_dec what is parallel to its rows; does nothing where `unit_norm` is False."""
        if self.unit_norm and self.W_dec.grad is not None:
            square = self.W_dec.square().sum(1, keepdim=True).clamp_min(torch.finfo(self.W_dec.dtype).eps)
            parallel = (self.W_dec.grad * self.W_dec).sum(1, keepdim=True) / square
            self.W_dec.grad.sub_(parallel * self.W_dec)

    def extra_repr(self) -> str:
        """Shown by print(coder)."""
        return f"{self.architecture}, width={self.width}, latents={self.latents}, k={self.k}"
