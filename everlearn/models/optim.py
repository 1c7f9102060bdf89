"""Optimiser recipes: AdamW or Muon over full-precision masters.

A parameter stored in half precision is trained through a master copy in fp32: Adam's small steps would round to
nothing otherwise. Parameters in fp32 or fp64 are their own masters.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from everlearn.errors import ConfigError
from everlearn.models.parallel import total_norm
from everlearn.models.schedules import Schedule
from everlearn.names import optional
from everlearn.types import Memory

Torch = torch.optim.Optimizer


@dataclass(frozen=True)
class AdamW:
    """AdamW (arXiv:1711.05101) with clipping by global norm.

    Args:
        learning_rate: peak. None takes 5e-4 when at most a tenth of the parameters learns (adapters), 2e-5 otherwise.
        weight_decay: decoupled.
        beta1: decay of the first moment.
        beta2: decay of the second moment.
        clip: largest norm of the whole gradient; None does not clip.
        bits: of the moments: 32, or 8 for blocks that are quantised (arXiv:2110.02861; on CUDA, with bitsandbytes).
    """

    learning_rate: float | None = None
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    clip: float | None = 1.0
    bits: Literal[8, 32] = 32

    def rate(self, trained: int, total: int) -> float:
        """The peak learning rate for a model in which `trained` of `total` parameters learn."""
        if self.learning_rate is not None:
            return self.learning_rate
        return 5e-4 if trained <= total / 10 else 2e-5

    def build(self, masters: Mapping[str, Tensor], embeddings: Collection[str], rate: float) -> list[Torch]:
        """The optimiser at work.

        Args:
            masters: what learns, by name.
            embeddings: names of token embeddings and output heads; they are treated like the rest.
            rate: peak learning rate.

        Raises:
            ConfigError: if 8 bits are asked for where they cannot be had.
        """
        betas, tensors = (self.beta1, self.beta2), list(masters.values())
        kinds = {m.device.type for m in tensors}
        if self.bits == 32:
            fused = kinds <= {"cpu", "cuda"}
            return [torch.optim.AdamW(tensors, rate, betas, weight_decay=self.weight_decay, fused=fused)]
        if kinds != {"cuda"}:
            raise ConfigError(f"{self}: moments of 8 bits are for CUDA, and the parameters are on {sorted(kinds)}.")
        return [optional("everlearn.models.eight_bit:adamw", "quant")(tensors, rate, betas, self.weight_decay)]


@dataclass(frozen=True)
class Muon:
    """Muon (Jordan et al. 2024; arXiv:2502.16982): momentum, made orthogonal, for the matrices of a whole model.

    A matrix moves along U V^T, where U S V^T is its momentum's singular value decomposition, found by Newton-Schulz
    steps, and scaled so that AdamW's learning rate and weight decay fit (eq. 4 of arXiv:2502.16982). Token embeddings,
    the output head, and what is no matrix move by AdamW at the same rate.

    Args:
        learning_rate: peak. None takes 2e-5, AdamW's for a whole model.
        weight_decay: decoupled.
        momentum: mu.
        clip: largest norm of the whole gradient; None does not clip.
    """

    learning_rate: float | None = None
    weight_decay: float = 0.0
    momentum: float = 0.95
    clip: float | None = 1.0

    def rate(self, trained: int, total: int) -> float:
        """The peak learning rate, however many parameters learn."""
        return 2e-5 if self.learning_rate is None else self.learning_rate

    def build(self, masters: Mapping[str, Tensor], embeddings: Collection[str], rate: float) -> list[Torch]:
        """Muon for the matrices and AdamW for the rest; see `AdamW.build`."""
        inner = {name for name, m in masters.items() if m.ndim == 2 and name not in embeddings}
        others = {name: m for name, m in masters.items() if name not in inner}
        built: list[Torch] = AdamW(weight_decay=self.weight_decay).build(others, embeddings, rate) if others else []
        if inner:
            matrices = [masters[name] for name in masters if name in inner]
            muon = torch.optim.Muon(matrices, rate, self.weight_decay, self.momentum, adjust_lr_fn="match_rms_adamw")
            built.append(muon)
        return built


Validate = Literal["loss", "metric", "attempts"]


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
        validations: how often in an epoch the validation rows are asked, when `patience` or `margin` asks for it.
        patience: stop after so many validations without a better one and keep the best weights; None never stops.
        validate: what a validation measures: the objective's "loss"; the experience's "metric" of the model's answers;
            or its metric of the "attempts" that an objective makes which learns from them, as they are drawn. The last
            two are measured before the first step too, and among equals the latest weights are kept.
        margin: stop as soon as a validation is worse than the best by more than this, in the measure's unit, and keep
            the best weights; None never does.
        ramp: (tokens, batch_size, length) that hold once so many tokens of an experience are learned, padding left out;
            batch_size and length as above hold before the first. For one epoch.
    """

    optimiser: AdamW | Muon = AdamW()
    schedule: Schedule = Schedule()
    epochs: int = 1
    batch_size: int = 16
    length: int = 512
    tokens: int = 2048
    validations: int = 1
    patience: int | None = None
    validate: Validate = "loss"
    margin: float | None = None
    ramp: tuple[tuple[int, int, int], ...] = ()

    def __post_init__(self) -> None:
        """Refuse counts below one, a negative margin, measures that there are not, and a ramp that goes back."""
        starts = [0, *(stage[0] for stage in self.ramp)]
        if sorted(set(starts)) != starts or any(stage[1] < 1 or stage[2] < 2 for stage in self.ramp):
            raise ConfigError(f"Recipe: ramp={self.ramp}: tokens rise from 1; batch_size is at least 1, length 2.")
        if self.ramp and self.epochs > 1:
            raise ConfigError(f"Recipe: a ramp counts the tokens of one epoch, and these are {self.epochs}; use one.")
        if self.validate not in ("loss", "metric", "attempts") or (self.margin is not None and self.margin < 0):
            raise ConfigError(
                f"Recipe: validate={self.validate!r} is loss, metric or attempts; margin={self.margin} is 0 or more."
            )
        small = {n: getattr(self, n) for n in ("epochs", "batch_size", "tokens", "validations") if getattr(self, n) < 1}
        if small or self.length < 2:
            raise ConfigError(f"Recipe: {small or {'length': self.length}} is too small; give 1 or more (length: 2).")


class Optimiser:
    """An optimiser at work on named parameters: the mutable side of a recipe.

    Args:
        recipe: the hyperparameters.
        parameters: what learns, by name.
        rate: peak learning rate.
        embeddings: names of token embeddings and output heads.
    """

    def __init__(
        self, recipe: AdamW | Muon, parameters: Mapping[str, Tensor], rate: float, embeddings: Collection[str] = ()
    ) -> None:
        self.recipe, self.rate = recipe, rate
        self.parameters = dict(parameters)
        self.masters = {name: _master(p) for name, p in self.parameters.items()}
        self._parts = recipe.build(self.masters, embeddings, rate)

    def take_grads(self, all_names: bool = True) -> dict[str, Tensor]:
        """What backward passes have left in `.grad`, in the masters' precision, by name; `.grad` is cleared.

        Args:
            all_names: whether what no pass has reached has zeros; else it is left out.
        """
        taken = {}
        for name, parameter in self.parameters.items():
            master, grad = self.masters[name], parameter.grad
            if grad is not None or all_names:
                taken[name] = torch.zeros_like(master) if grad is None else grad.to(master.dtype)
            parameter.grad = None
        return taken

    def clip(self, grads: Mapping[str, Tensor], spare: bool = True) -> tuple[dict[str, Tensor], float]:
        """The gradients scaled down to the recipe's norm, and the norm they had.

        Args:
            grads: by name.
            spare: whether they stay as they are; else they are scaled where they lie, without memory for a second set.
        """
        norm = total_norm(grads)
        if self.recipe.clip is None or norm <= self.recipe.clip:
            return dict(grads), norm
        factor = self.recipe.clip / norm
        return {name: g * factor if spare else g.mul_(factor) for name, g in grads.items()}, norm

    def step(self, grads: Mapping[str, Tensor], factor: float) -> None:
        """Move the masters by one step at `factor` times the peak rate; call `publish` to show it to the model."""
        for name, master in self.masters.items():
            master.grad = grads[name]
        for part in self._parts:
            for group in part.param_groups:
                group["lr"] = self.rate * factor
            part.step()
            part.zero_grad(set_to_none=True)

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
        return {"masters": self.values(), "parts": [part.state_dict() for part in self._parts]}

    def load_state(self, state: Memory) -> None:
        """The inverse of `state`."""
        self.assign(state["masters"])
        for part, known in zip(self._parts, state["parts"], strict=True):
            part.load_state_dict(known)


def _master(parameter: Tensor) -> Tensor:
    if parameter.dtype in (torch.bfloat16, torch.float16):
        return parameter.detach().float().requires_grad_()
    return parameter
