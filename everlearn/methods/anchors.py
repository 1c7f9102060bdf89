"""Anchors: penalties for moving away from old weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from everlearn.errors import ConfigError
from everlearn.examples import Batch
from everlearn.method import Context, Method
from everlearn.methods.quadratics import copies, count, drift, require_strength, with_mean_one, zeros
from everlearn.randomness import permutation
from everlearn.types import Memory

Fisher = Literal["true", "empirical"]


@dataclass(frozen=True)
class L2SP(Method):
    """Pull the trained weights towards where they started (L2-SP, Li et al. 2018, arXiv:1802.01483, eq. 2).

    Adds strength / 2 * mean_j (theta_j - theta0_j)^2. Differs from the paper: the mean over parameters stands in place
    of the sum, so that a strength means the same on a model of another size, and adapters are pulled towards their
    initial values, which leave the base model as it was.

    Args:
        strength: alpha; nats per token charged for a mean square drift of 2. It has to fit how far weights go: adapters
            move by hundredths, which costs tenths of a nat at 1e4; a model that is trained from the start moves by its
            own length, and learns nothing under as much.
    """

    keeps: ClassVar[str] = "4 P in all"
    computes: ClassVar[str] = "a sum over P, each step"
    reads_batch: ClassVar[bool] = False
    strength: float = 1e4

    def __post_init__(self) -> None:
        """Refuse a negative strength."""
        require_strength(self, self.strength)

    def begin(self, memory: Memory, ctx: Context) -> Memory:
        """The starting point, taken once."""
        return memory if memory is not None else {"anchor": copies(ctx.trainable())}

    def loss(self, memory: Memory, batch: Batch, ctx: Context) -> Tensor | float:
        """The penalty; it does not depend on the batch."""
        parameters = ctx.trainable()
        return self.strength / 2 * drift(parameters, memory["anchor"]) / count(parameters)


@dataclass(frozen=True)
class EWC(Method):
    """Pull each weight towards its old value by how much the old experiences depend on it (arXiv:1612.00796, eq. 3).

    Adds strength / 2 * sum_j F_j (theta_j - theta*_j)^2 for each experience learned. F is the diagonal of the Fisher
    information, from the squared gradient of each example's own log-likelihood, so that it does not depend on a batch
    size. The quadratics of all experiences are kept as one: their sum is exact, and memory does not grow.

    Differs from the paper: F is scaled to mean 1 and the mean over parameters stands in place of the sum, so that a
    strength means the same on another model; `scaled=False` is the paper's formula.

    Args:
        strength: lambda; nats per token charged for a Fisher-weighted mean square drift of 2.
        fisher: "true" draws the labels from the model (the definition); "empirical" takes those of the data.
        samples: examples the Fisher is estimated from, for each experience.
        decay: None sums the quadratics of all experiences, each around its own weights. A number gamma in [0, 1] is
            online EWC (arXiv:1805.06370): F <- gamma F + F_t, around the last weights alone.
        scaled: see above.
    """

    keeps: ClassVar[str] = "8 P in all"
    computes: ClassVar[str] = "a sum over P, each step; gradients of samples, at the end"
    reads_batch: ClassVar[bool] = False
    strength: float = 1e4
    fisher: Fisher = "true"
    samples: int = 64
    decay: float | None = None
    scaled: bool = True

    def __post_init__(self) -> None:
        """Refuse numbers without a meaning."""
        require_strength(self, self.strength)
        if self.samples < 1 or not 0 <= (self.decay or 0) <= 1:
            raise ConfigError(f"{self}: samples is 1 or more, decay in [0, 1].")

    def loss(self, memory: Memory, batch: Batch, ctx: Context) -> Tensor | float:
        """The penalty; it does not depend on the batch."""
        if memory is None:
            return 0.0
        own = drift(ctx.trainable(), memory["anchor"], memory["fisher"], mean=self.scaled)
        penalty: Tensor = self.strength / 2 * (own + memory["constant"])
        return penalty

    def end(self, memory: Memory, ctx: Context) -> Memory:
        """Add the new experience's quadratic around the weights it has reached."""
        new, here = self._fisher(ctx), copies(ctx.trainable())
        if memory is None:
            return {"fisher": new, "anchor": here, "constant": 0.0}
        if self.decay is not None:
            old = memory["fisher"]
            return memory | {"fisher": {n: self.decay * old.get(n, 0.0) + f for n, f in new.items()}, "anchor": here}
        return _added(memory, new, here, self.scaled)

    def _fisher(self, ctx: Context) -> dict[str, Tensor]:
        examples, rng = ctx.experience.train, ctx.rng("labels")
        chosen = permutation(len(examples), ctx.seed, ctx.seen, "fisher", *ctx.place)[: self.samples]
        total = zeros(ctx.trainable())
        for index in chosen:
            for batch in ctx.batches([examples[index]], batch_size=1):
                targets = ctx.model.sample_targets(batch, rng) if self.fisher == "true" else None
                grads = ctx.grads(ctx.model.token_logprobs(batch, targets).sum())
                for name, grad in grads.items():
                    total[name] += grad.to(total[name].dtype) ** 2
        if self.scaled:
            return with_mean_one(total)
        return {name: t / len(chosen) for name, t in total.items()}


def _added(memory: Memory, new: Mapping[str, Tensor], here: Mapping[str, Tensor], scaled: bool) -> Memory:
    """The sum of two quadratics as one: sum F (x - a)^2 = (F1 + F2) (x - c)^2 + F1 F2 / (F1 + F2) (a1 - a2)^2."""
    fisher, anchor, rest = dict(memory["fisher"]), dict(memory["anchor"]), 0.0
    for name, f in new.items():
        old, place = fisher.get(name, torch.zeros_like(f)), anchor.get(name, here[name])
        both = old + f
        share = torch.where(both > 0, f / both.clamp_min(torch.finfo(f.dtype).tiny), 0.0)
        rest += float((old * share * (place - here[name]) ** 2).sum())
        fisher[name], anchor[name] = both, place + share * (here[name] - place)
    size = count(fisher) if scaled else 1
    return {"fisher": fisher, "anchor": anchor, "constant": memory["constant"] + rest / size}
