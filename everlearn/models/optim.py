"""Optimiser recipes: AdamW over full-precision masters, and the course of the learning rate.

A parameter stored in half precision is trained through a master copy in fp32: Adam's small steps would round to
nothing otherwise. Parameters in fp32 or fp64 are their own masters.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from everlearn.errors import ConfigError
from everlearn.models.parallel import total_norm
from everlearn.types import Memory

Shape = Literal["cosine", "constant", "linear", "wsd"]


@dataclass(frozen=True)
class Schedule:
    """The learning rate as a factor in [0, 1] of its peak, by progress through the experience.

    Args:
        shape: after the warm-up: "cosine" falls along half a cosine, "linear" along a line, "constant" stays, "wsd"
            (warm-up, stable, decay: MiniCPM, arXiv:2404.06395) stays and falls along 1 - sqrt in the last part.
        warmup: fraction of the experience in which the rate rises linearly from 0.
        decay: fraction of the experience in which "wsd" falls.
        floor: the factor at the end of a falling shape.
    """

    shape: Shape = "cosine"
    warmup: float = 0.1
    decay: float = 0.2
    floor: float = 0.0

    def __post_init__(self) -> None:
        """Refuse fractions that do not fit into one experience."""
        if not (0 <= self.warmup < 1 and 0 < self.decay <= 1 and 0 <= self.floor <= 1):
            raise ConfigError(f"{self}: warmup is in [0, 1), decay in (0, 1], floor in [0, 1].")

    def factor(self, progress: float) -> float:
        """The factor when the fraction `progress` of the experience is done."""
        if progress < self.warmup:
            return progress / self.warmup
        rest = min(1.0, (progress - self.warmup) / (1 - self.warmup))
        if self.shape == "constant":
            return 1.0
        if self.shape == "linear":
            fall = rest
        elif self.shape == "cosine":
            fall = (1 - math.cos(math.pi * rest)) / 2
        else:
            fall = math.sqrt(max(0.0, (progress - (1 - self.decay)) / self.decay))
        return self.floor + (1 - self.floor) * (1 - min(1.0, fall))


@dataclass(frozen=True)
class AdamW:
    """AdamW (arXiv:1711.05101) with clipping by global norm.

    Args:
        learning_rate: peak. None takes 5e-4 when at most a tenth of the parameters learns (adapters), 2e-5 otherwise.
        weight_decay: decoupled.
        beta1: decay of the first moment.
        beta2: decay of the second moment.
        clip: largest norm of the whole gradient; None does not clip.
    """

    learning_rate: float | None = None
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    clip: float | None = 1.0

    def rate(self, trained: int, total: int) -> float:
        """The peak learning rate for a model in which `trained` of `total` parameters learn."""
        if self.learning_rate is not None:
            return self.learning_rate
        return 5e-4 if trained <= total / 10 else 2e-5


@dataclass(frozen=True)
class Recipe:
    """How an experience is trained on, whatever the method.

    Args:
        optimiser: its hyperparameters.
        schedule: the course of the learning rate inside each experience.
        epochs: passes over an experience's examples; an online stream gets one.
        batch_size: rows in an optimiser step.
        length: longest row in tokens; documents are cut to it, longer conversations are set aside before training.
        tokens: most tokens in one forward pass; a step is accumulated from as many passes as it needs.
        validations: how often in an epoch the validation loss is measured, when `patience` asks for it.
        patience: stop after so many validations without a lower loss and keep the best weights; None never stops.
    """

    optimiser: AdamW = AdamW()
    schedule: Schedule = Schedule()
    epochs: int = 1
    batch_size: int = 16
    length: int = 512
    tokens: int = 2048
    validations: int = 1
    patience: int | None = None

    def __post_init__(self) -> None:
        """Refuse counts below one."""
        small = {n: getattr(self, n) for n in ("epochs", "batch_size", "tokens", "validations") if getattr(self, n) < 1}
        if small or self.length < 2:
            raise ConfigError(f"Recipe: {small or {'length': self.length}} is too small; give 1 or more (length: 2).")


class Optimiser:
    """AdamW at work on named parameters: the mutable side of a recipe.

    Args:
        recipe: the hyperparameters.
        parameters: what learns, by name.
        rate: peak learning rate.
    """

    def __init__(self, recipe: AdamW, parameters: Mapping[str, Tensor], rate: float) -> None:
        self.recipe, self.rate = recipe, rate
        self.parameters = dict(parameters)
        self.masters = {name: _master(p) for name, p in self.parameters.items()}
        fused = all(m.device.type in ("cpu", "cuda") for m in self.masters.values())
        self._adam = torch.optim.AdamW(
            list(self.masters.values()),
            rate,
            (recipe.beta1, recipe.beta2),
            weight_decay=recipe.weight_decay,
            fused=fused,
        )

    def take_grads(self) -> dict[str, Tensor]:
        """What backward passes have left in `.grad`, in the masters' precision, by name; `.grad` is cleared."""
        taken = {}
        for name, parameter in self.parameters.items():
            master, grad = self.masters[name], parameter.grad
            taken[name] = torch.zeros_like(master) if grad is None else grad.to(master.dtype)
            parameter.grad = None
        return taken

    def clip(self, grads: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], float]:
        """The gradients scaled down to the recipe's norm, and the norm they had."""
        norm = total_norm(grads)
        if self.recipe.clip is None or norm <= self.recipe.clip:
            return dict(grads), norm
        return {name: g * (self.recipe.clip / norm) for name, g in grads.items()}, norm

    def step(self, grads: Mapping[str, Tensor], factor: float) -> None:
        """Move the masters by one step at `factor` times the peak rate; call `publish` to show it to the model."""
        for group in self._adam.param_groups:
            group["lr"] = self.rate * factor
        for name, master in self.masters.items():
            master.grad = grads[name]
        self._adam.step()
        self._adam.zero_grad(set_to_none=True)

    def assign(self, values: Mapping[str, Tensor]) -> None:
        """Set masters by name, and the model's parameters with them."""
        with torch.no_grad():
            for name, value in values.items():
                self.masters[name].copy_(value)
        self.publish()

    def publish(self) -> None:
        """Copy the masters into the model's own parameters where these are in half precision."""
        with torch.no_grad():
            for name, master in self.masters.items():
                if master is not self.parameters[name]:
                    self.parameters[name].copy_(master)

    def values(self) -> dict[str, Tensor]:
        """A copy of the masters, by name."""
        return {name: m.detach().clone() for name, m in self.masters.items()}

    def state(self) -> Memory:
        """Masters and moments as plain data."""
        return {"masters": self.values(), "adam": self._adam.state_dict()}

    def load_state(self, state: Memory) -> None:
        """The inverse of `state`."""
        self.assign(state["masters"])
        self._adam.load_state_dict(state["adam"])


def _master(parameter: Tensor) -> Tensor:
    if parameter.dtype in (torch.bfloat16, torch.float16):
        return parameter.detach().float().requires_grad_()
    return parameter
