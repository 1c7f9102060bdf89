"""Soft masks: units learn the slower, the more old knowledge hangs on them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from everlearn.errors import ConfigError
from everlearn.method import Context, Method, Tensors
from everlearn.methods.quadratics import precise
from everlearn.randomness import permutation
from everlearn.types import Memory


@dataclass(frozen=True)
class SoftMask(Method):
    """Scale how far each unit moves by 1 - importance (soft-masking, DAS, arXiv:2302.03241).

    A unit's importance is the mean over examples of |dL / dg|, g = 1 a gate on its output; it is standardised over the
    units of a layer and squashed, |tanh(z)|, and over experiences the largest counts. L is the loss of an experience
    just learned. For what the model knew before the first, L is the negative log-probability of answers that it draws
    itself, on the first experience's inputs.

    A unit is a row of a trained matrix, or an element of a vector. The gradient of its gate needs no gate: for a row w
    it is the product of w and dL/dw, summed.

    Differs from the paper: the *update* is scaled, and not the gradient, since Adam divides a constant factor of a
    gradient out again (`acts_on="grad"` is the paper's formula; under plain SGD both are the same). Units are all rows,
    where the paper gates attention heads and neurons. And general knowledge is measured on answers drawn, where the
    paper compares two passes under dropout, which today's models have not.

    Memory: 4 bytes (8 in float64) a row of each trained matrix and an element of each trained vector in all, however
    many experiences.

    Args:
        samples: examples the importance is measured on, for each experience; each costs a backward pass.
        general: whether what the model knew before the first experience is masked too.
        acts_on: see above.
        low: units far less important than their layer's mean get a large |tanh(z)| too: "protect" is the paper's
            formula, "free" sets them to zero.
    """

    keeps: ClassVar[str] = "4 a row of P, in all"
    computes: ClassVar[str] = "copies of P, each step; gradients of samples, at the end"

    samples: int = 64
    general: bool = True
    acts_on: Literal["update", "grad"] = "update"
    low: Literal["protect", "free"] = "protect"

    def __post_init__(self) -> None:
        """Refuse a sample of nothing."""
        if self.samples < 1:
            raise ConfigError(f"{self}: samples is 1 or more.")

    def begin(self, memory: Memory, ctx: Context) -> Memory:
        """Before the first experience: what the model's own answers hang on."""
        if memory is not None:
            return memory
        return {"importance": self._measured(ctx, own=True) if self.general else {}}

    def grad(self, memory: Memory, grads: Tensors, ctx: Context) -> Tensors:
        """The gradient, scaled where the paper's formula is asked for."""
        return self._masked(memory, grads) if self.acts_on == "grad" else grads

    def update(self, memory: Memory, update: Tensors, ctx: Context) -> Tensors:
        """The update, scaled."""
        return self._masked(memory, update) if self.acts_on == "update" else update

    def end(self, memory: Memory, ctx: Context) -> Memory:
        """What the experience's answers hang on joins in."""
        old, new = memory["importance"], self._measured(ctx, own=False)
        return {"importance": old | {n: torch.maximum(old[n], t) if n in old else t for n, t in new.items()}}

    def _masked(self, memory: Memory, tensors: Tensors) -> dict[str, Tensor]:
        kept = {n: 1 - mask for n, mask in memory["importance"].items()}
        return {n: t * _by_row(kept[n].to(t), t) if n in kept else t for n, t in tensors.items()}

    def _measured(self, ctx: Context, own: bool) -> dict[str, Tensor]:
        """Each unit's importance in [0, 1).

        Args:
            ctx: the moment.
            own: whether the answers are drawn from the model.
        """
        examples, rng, total = ctx.experience.train, ctx.rng("labels"), dict[str, Tensor]()
        chosen = permutation(len(examples), ctx.seed, ctx.seen, "importance", own, *ctx.place)[: self.samples]
        for index in chosen:
            for batch in ctx.batches([examples[index]], batch_size=1):
                if own:
                    loss = -ctx.model.token_logprobs(batch, ctx.model.sample_targets(batch, rng)).mean()
                else:
                    loss = ctx.loss(batch)
                gates = _gates(ctx.trainable(), ctx.grads(loss))
                total = {name: total.get(name, 0.0) + gate.abs() for name, gate in gates.items()}
        return {name: self._squashed(t) for name, t in total.items()}

    def _squashed(self, importance: Tensor) -> Tensor:
        """Standardised over the layer, and within [0, 1)."""
        spread = importance.std(correction=0).clamp_min(torch.finfo(importance.dtype).tiny)
        squashed = torch.tanh((importance - importance.mean()) / spread)
        return squashed.abs() if self.low == "protect" else squashed.clamp_min(0)


def _gates(parameters: Mapping[str, Tensor], grads: Tensors) -> dict[str, Tensor]:
    """The gradient with respect to a gate on each row's output, in float32 at least."""
    products = {n: (p.detach() * grads[n]).to(precise(p)) for n, p in parameters.items()}
    return {n: t.flatten(1).sum(1) if t.ndim > 1 else t for n, t in products.items()}


def _by_row(rows: Tensor, like: Tensor) -> Tensor:
    return rows.view(-1, *[1] * (like.ndim - 1))
