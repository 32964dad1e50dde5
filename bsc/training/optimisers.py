"""The two optimisers of the paper's recipe: Adam, and the sign of the gradient, schedule-free."""

from collections.abc import Callable, Mapping
from typing import Literal, Protocol

import torch
from torch import Tensor, nn
from torch.optim.adam import adam


class Optimiser(Protocol):
    """What the loop asks of an optimiser. Its state is a flat dictionary of tensors, for checkpoints."""

    def step(self, rate: float) -> None:
        """Change the parameters by one step at learning rate `rate`, from the gradients that they hold."""

    def constrain(self, constraint: Callable[[], None]) -> None:
        """Apply something that changes the parameters in place (unit norms, say) to every copy of them that is kept."""

    def finish(self) -> None:
        """Leave in the parameters the weights that are to be evaluated; no step may follow."""

    def tensors(self) -> dict[str, Tensor]:
        """The whole state."""

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over a state that `tensors` gave."""


def build_optimiser(name: Literal["adam", "signum"], parameters: Mapping[str, nn.Parameter]) -> Optimiser:
    """The optimiser of that name for parameters by name, which must hold their initial values already."""
    return Adam(parameters) if name == "adam" else Signum(parameters)


class Adam:
    """Adam (Kingma & Ba 2014) with torch's default moments, fused: bit for bit the steps of `torch.optim.Adam(fused=True)`.

    It is torch's functional form, as the class imports torch's compiler, which takes longer than many a job of the demo.
    """

    BETAS = (0.9, 0.999)
    EPSILON = 1e-8

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        self._parameters = dict(parameters)
        self._state = {
            name: {
                "step": torch.zeros((), device=parameter.device),
                "exp_avg": torch.zeros_like(parameter, requires_grad=False),
                "exp_avg_sq": torch.zeros_like(parameter, requires_grad=False),
            }
            for name, parameter in self._parameters.items()
        }

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """One step at learning rate `rate`. A parameter without a gradient stays."""
        moved = {name: parameter for name, parameter in self._parameters.items() if parameter.grad is not None}
        states = [self._state[name] for name in moved]
        adam(
            list(moved.values()),
            [parameter.grad for parameter in moved.values() if parameter.grad is not None],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=True,
            amsgrad=False,
            beta1=self.BETAS[0],
            beta2=self.BETAS[1],
            lr=rate,
            weight_decay=0.0,
            eps=self.EPSILON,
            maximize=False,
        )

    def constrain(self, constraint: Callable[[], None]) -> None:
        """Apply `constraint` to the parameters: there is no other copy."""
        constraint()

    def finish(self) -> None:
        """Nothing to do: the last weights are the ones."""

    def tensors(self) -> dict[str, Tensor]:
        """Moments and step count of each parameter, as `name.slot`."""
        return {f"{name}.{slot}": value for name, slots in self._state.items() for slot, value in slots.items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over a state that `tensors` gave."""
        for name, slots in self._state.items():
            for slot, value in slots.items():
                value.copy_(tensors[f"{name}.{slot}"])


class Signum:
    """The sign of the gradient, schedule-free (Bernstein et al. 2018; Defazio et al. 2024), as the paper trains.

    z takes the steps, x averages them, and gradients are taken at y between the two, which is what the parameters hold:

        z ← z - γ sign(∇f(y));   x ← (1-c) x + c z with c = γ² / Σγ²;   y ← (1-β) z + β x

    β = 0.95; Σ runs over all steps so far, so that warm-up steps weigh less. x is what `finish` leaves in the parameters.
    """

    BETA = 0.95

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        self._parameters = dict(parameters)
        self._z = {name: parameter.detach().clone() for name, parameter in self._parameters.items()}
        self._x = {name: parameter.detach().clone() for name, parameter in self._parameters.items()}
        self._weight = 0.0

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """One step at learning rate γ = `rate`. A parameter without a gradient stays."""
        self._weight += rate**2
        share = rate**2 / self._weight
        for name, parameter in self._parameters.items():
            if parameter.grad is not None:
                z, x = self._z[name], self._x[name]
                z.add_(parameter.grad.sign(), alpha=-rate)
                x.lerp_(z, share)
                parameter.copy_(torch.lerp(x, z, 1 - self.BETA))

    @torch.no_grad()
    def constrain(self, constraint: Callable[[], None]) -> None:
        """Apply `constraint` to z and to x, each in the place of the parameters, and to y between what these have become."""
        for copies in (self._z, self._x):
            self._assign(copies)
            constraint()
            for name, parameter in self._parameters.items():
                copies[name].copy_(parameter)
        self._assign({name: torch.lerp(x, self._z[name], 1 - self.BETA) for name, x in self._x.items()})
        constraint()

    def finish(self) -> None:
        """Leave the averaged weights x in the parameters."""
        self._assign(self._x)

    @torch.no_grad()
    def _assign(self, values: Mapping[str, Tensor]) -> None:
        for name, parameter in self._parameters.items():
            parameter.copy_(values[name])

    def tensors(self) -> dict[str, Tensor]:
        """The copies z and x of each parameter, as `name.z` and `name.x`, and Σγ²."""
        state = {f"{name}.z": z for name, z in self._z.items()} | {f"{name}.x": x for name, x in self._x.items()}
        return state | {"weight": torch.tensor(self._weight, dtype=torch.float64)}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over a state that `tensors` gave."""
        for name in self._parameters:
            self._z[name].copy_(tensors[f"{name}.z"])
            self._x[name].copy_(tensors[f"{name}.x"])
        self._weight = float(tensors["weight"])
