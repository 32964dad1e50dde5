"""A coder in training: everything that changes from step to step, and the step."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from bsc.coders.code import Code
from bsc.coders.coder import SparseCoder
from bsc.device import resolve_dtype
from bsc.ranks import ALONE, Ranks
from bsc.stages import CoderSpec
from bsc.training.batches import Batch
from bsc.training.frequencies import Frequencies
from bsc.training.log import TrainingLog
from bsc.training.losses import Losses, Silence, losses
from bsc.training.optimisers import build_optimiser
from bsc.training.schedules import rate_at


class Trainer:
    """The coder of a spec, its optimiser, its noise, its dead and its frequent latents and its log, after `step` steps.

    The coder is drawn from the spec's seed and its biases are set from `first`, batch 0; without it, `load` must follow.
    Weights and optimiser are float32; the dense products are bfloat16 where `dtype` says so. more: what else the log has of
    each step, see `Losses.more`. ranks: of which replicas train the coder together, on a part of each batch each. Raises
    ValueError when the spec has no learning rate.
    """

    def __init__(
        self, spec: CoderSpec, first: Batch | None, device: torch.device, *, more: tuple[str, ...] = (), ranks: Ranks = ALONE
    ) -> None:
        if spec.learning_rate is None:
            raise ValueError("a spec without a learning rate: the choice of a sweep has to give one")
        self.spec, self.device, self.peak, self._ranks = spec, device, spec.learning_rate, ranks
        self.steps = spec.tokens // spec.batch_tokens
        self.step = 0
        self.coder = SparseCoder.build(spec).to(device).train()
        if first is not None:
            self.coder.initialise_from(first.x, first.y)
            ranks.from_first_(*self.coder.state_dict().values())
        self.log = TrainingLog(self.steps, spec.batch_tokens, more)
        self._optimiser = build_optimiser(spec.optimiser, dict(self.coder.named_parameters()))
        self._silence = Silence(spec.latents, spec.dead_after_tokens, device, ranks)
        self.frequencies = None if spec.frequency is None else Frequencies(spec.frequency, spec.latents, device, ranks)
        self.generator = noise_generator(spec.seed, device)
        self._half = resolve_dtype(spec.dtype, device) is torch.bfloat16

    def advance(self, batch: Batch) -> None:
        """One step on a batch: towards a lower FVU of it."""
        dead = self._silence.dead if self.spec.auxk else None
        if self._ranks.replicas > 1:
            self.generator.manual_seed(noise_seed(self.spec.seed, self.step, self._ranks.rank))
        with self.autocast():
            loss = losses(
                self.coder,
                self._ranks.part(batch.x),
                self._ranks.part(batch.y),
                self.generator,
                dead=dead,
                multi_topk=self.spec.multi_topk,
                frequencies=self.frequencies,
                whole=batch.y,
            )
        self.descend(loss)

    def autocast(self) -> torch.autocast:
        """While open, the coder's dense products are in the spec's precision."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._half)

    def descend(self, loss: Losses) -> None:
        """One step down the gradient of a loss; what it measured is noted in `log`."""
        rate = rate_at(self.step, self.steps, self.peak, self.spec.warmup_steps, self.spec.optimiser)
        self.coder.zero_grad(set_to_none=True)
        loss.total.backward()  # type: ignore[no-untyped-call]
        gradients = [p.grad for p in self.coder.parameters() if p.grad is not None]
        self._ranks.sum_(*gradients)
        self.coder.project_decoder_gradient()
        norm = torch.stack([gradient.flatten() @ gradient.flatten() for gradient in gradients]).sum().sqrt()
        self._optimiser.step(rate)
        if self.coder.unit_norm:
            self._optimiser.constrain(self.coder.normalise_decoder)
        self._silence.update(loss.code)
        if self.frequencies is not None:
            self._control(self.frequencies, loss.code)
        l0 = torch.count_nonzero(loss.code.values.detach()) / (len(loss.code.values) * self._ranks.replicas)
        shares = torch.stack((loss.fvu.detach(), loss.total.detach(), l0))
        self._ranks.sum_(shares)
        self.log.add(torch.stack((*shares, self._silence.dead.float().mean(), norm, *loss.more)), rate)
        self.step += 1

    def _control(self, frequencies: Frequencies, code: Code) -> None:
        frequencies.update(code, self.step * self.spec.batch_tokens)
        if self.coder.binariser.bias is not None:
            frequencies.balance(self.coder.binariser.bias)

    def finish(self) -> None:
        """Leave in the coder the weights to keep (signum's are averages), and put it in evaluation mode."""
        self._optimiser.finish()
        self.coder.eval()

    def tensors(self) -> dict[str, Tensor]:
        """The whole state after the steps whose log was fetched, on the CPU or where it lies."""
        parts: dict[str, Mapping[str, Tensor]] = {"coder": self.coder.state_dict(), "optimiser": self._optimiser.tensors()}
        state = {f"{part}.{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}
        if self.frequencies is not None:
            state["frequencies"] = self.frequencies.rates
        return state | {
            "silence": self._silence.tokens,
            "generator": self.generator.get_state(),
            "log": self.log.tensor(),
        }

    def load(self, step: int, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what `tensors` gave after `step` steps."""
        self.step = step
        self.coder.load_state_dict(_part(tensors, "coder"))
        self._optimiser.load(_part(tensors, "optimiser"))
        self._silence.tokens.copy_(tensors["silence"])
        if self.frequencies is not None:
            self.frequencies.rates.copy_(tensors["frequencies"])
        self.generator.set_state(tensors["generator"].clone())
        self.log.load(tensors["log"])


def _part(tensors: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    return {name.removeprefix(f"{part}."): tensor for name, tensor in tensors.items() if name.startswith(f"{part}.")}


def noise_generator(seed: int, device: torch.device) -> torch.Generator:
    """The generator that sampling binarisers draw from while training; not the stream that the weights were drawn from."""
    return torch.Generator(device).manual_seed(noise_seed(seed))


def noise_seed(*numbers: int) -> int:
    """A seed of noise, from a coder's seed and, for a replica, from the step and the rank."""
    return int(np.random.default_rng([*numbers, int.from_bytes(b"noise", "little")]).integers(2**63))
