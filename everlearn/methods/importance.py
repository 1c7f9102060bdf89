"""Importances measured along the way or without labels, and the penalties weighted by them."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from everlearn.errors import ConfigError
from everlearn.examples import Batch
from everlearn.method import Context, Method, Tensors
from everlearn.methods.quadratics import copies, drift, mean, plus, precise, require_strength, with_mean_one, zeros
from everlearn.models.logprobs import squared_norm
from everlearn.randomness import permutation
from everlearn.types import Memory


@dataclass(frozen=True)
class SI(Method):
    """Pull each weight back by how much its movement has lowered old losses (synaptic intelligence, arXiv:1703.04200).

    Along an experience omega_j sums -g_j * (change of theta_j) over the steps, g the objective's own gradient: the loss
    that the movement of theta_j has saved. Afterwards Omega_j += omega_j / (Delta_j^2 + xi) (eq. 5), with Delta_j the
    way from the experience's start to its end, and strength * sum_j Omega_j (theta_j - theta*_j)^2 is added (eq. 4),
    around the last version. At strength 1 undoing an experience costs about what it has gained, on any model.

    Memory: 8 bytes a trained parameter in all, 12 while an experience is learned (twice that in float64), however many
    experiences; the quadratics of all stand around the last version alone, as in the paper.

    Args:
        strength: c.
        damping: xi, which bounds Omega where a weight has hardly moved; in units of the mean Delta^2 where `scaled`.
        scaled: whether damping is relative to the mean Delta^2, so that it means the same at another learning rate.
            The paper's absolute 0.1 drowns the movements of fine-tuning, which are of the order 1e-4; False takes it.
        formula: "paper" keeps a negative Omega, the mark of a weight whose movement has raised the loss: moving on is
            rewarded there. "repo" sets it to zero after each experience, as the authors' code does.
    """

    keeps: ClassVar[str] = "8 P in all"
    computes: ClassVar[str] = "copies of P and a sum over P, each step"
    reads_batch: ClassVar[bool] = False
    strength: float = 1.0
    damping: float = 0.1
    scaled: bool = True
    formula: Literal["paper", "repo"] = "paper"

    def __post_init__(self) -> None:
        """Refuse numbers without a meaning."""
        require_strength(self, self.strength)
        _require_damping(self, self.damping)

    def begin(self, memory: Memory, ctx: Context) -> Memory:
        """The anchor: the last version."""
        return _anchored(memory, ctx)

    def step(self, memory: Memory, grads: Tensors, update: Tensors, ctx: Context) -> Memory:
        """The path integral goes on."""
        return memory | {"path": plus(memory.get("path", {}), _gain(grads, update))}

    def loss(self, memory: Memory, batch: Batch, ctx: Context) -> Tensor | float:
        """The penalty; it does not depend on the batch."""
        return self.strength * drift(ctx.trainable(), memory["anchor"], memory["importance"])

    def end(self, memory: Memory, ctx: Context) -> Memory:
        """Add what the experience's path says to the importances."""
        anchor = memory["anchor"]
        square = {n: (t - anchor[n]) ** 2 for n, t in copies(ctx.trainable()).items() if n in anchor}
        xi = self.damping * (max(mean(square), torch.finfo(torch.float32).tiny) if self.scaled else 1)
        new = {n: omega / (square[n] + xi) for n, omega in memory.get("path", {}).items() if n in square}
        importance = plus(memory["importance"], new)
        if self.formula == "repo":
            importance = {n: t.clamp_min(0) for n, t in importance.items()}
        return {"anchor": anchor, "importance": importance}


@dataclass(frozen=True)
class MAS(Method):
    """Pull each weight back by how much the outputs depend on it (memory aware synapses, arXiv:1711.09601).

    Omega_j = mean over inputs x of |d |f(x)|^2 / d theta_j| (eq. 3), the Omega of all experiences summed, and
    strength * sum_j Omega_j (theta_j - theta*_j)^2 is added around the last version (eq. 4). No label is asked for: an
    answer's tokens are read as input, and never scored.

    What f(x) is for a language model: the logits at all supervised places of an example, less their mean at each place.
    Logits, as in the authors' code: a softmax is flat where the model is sure, and would call such weights unimportant.
    Less their mean, since a softmax does not see it, and a change that changes no probability should cost nothing.

    Differs from the paper: Omega is scaled to mean 1 in each experience and the mean over parameters stands in place of
    the sum, so that a strength means the same on another model; `scaled=False` is the paper's formula.

    Memory: 8 bytes a trained parameter in all (16 in float64), however many experiences.

    Args:
        strength: lambda; nats per token charged for an Omega-weighted mean square drift of 1.
        samples: examples the importance is estimated from, for each experience; each costs a backward pass.
        scaled: see above.
    """

    keeps: ClassVar[str] = "8 P in all"
    computes: ClassVar[str] = "a sum over P, each step; gradients of samples, at the end"
    reads_batch: ClassVar[bool] = False
    strength: float = 5e3
    samples: int = 64
    scaled: bool = True

    def __post_init__(self) -> None:
        """Refuse numbers without a meaning."""
        require_strength(self, self.strength)
        if self.samples < 1:
            raise ConfigError(f"{self}: samples is 1 or more.")

    def begin(self, memory: Memory, ctx: Context) -> Memory:
        """The anchor: the last version."""
        return _anchored(memory, ctx)

    def loss(self, memory: Memory, batch: Batch, ctx: Context) -> Tensor | float:
        """The penalty; it does not depend on the batch."""
        return self.strength * drift(ctx.trainable(), memory["anchor"], memory["importance"], mean=self.scaled)

    def end(self, memory: Memory, ctx: Context) -> Memory:
        """Add the experience's importances."""
        new = self._sensitivity(ctx)
        new = with_mean_one(new) if self.scaled else new
        return {"anchor": memory["anchor"], "importance": plus(memory["importance"], new)}

    def _sensitivity(self, ctx: Context) -> dict[str, Tensor]:
        examples, total, inputs = ctx.experience.train, zeros(ctx.trainable()), 0
        chosen = permutation(len(examples), ctx.seed, ctx.seen, "importance", *ctx.place)[: self.samples]
        for index in chosen:
            for batch in ctx.batches([examples[index]], batch_size=1):
                grads = ctx.grads(ctx.model.token_statistic(batch, squared_norm).sum())
                total = {name: t + grads[name].to(t.dtype).abs() for name, t in total.items()}
                inputs += 1
        return {name: t / inputs for name, t in total.items()}


@dataclass(frozen=True)
class RWalk(Method):
    """Pull each weight back by its Fisher information and its share in past gains (RWalk, arXiv:1801.10112).

    Adds strength * sum_j (F_j + s_j) (theta_j - theta*_j)^2 (eq. 8) around the last version. F is the empirical Fisher
    information as a moving average over the steps, F <- alpha g^2 + (1 - alpha) F (eq. 6), of the objective's gradient
    on each step's batch, as in the paper; it goes on through all experiences. The score s sums, over every `interval`
    steps, the loss saved by the weight's path over the distance it went in the model's own metric,
    sum(-g * change) / (F * change^2 / 2 + epsilon) (eq. 7). Negative scores count as zero, and the score of an
    experience is averaged with that of the experiences before.

    Differs from the paper: F and s are each scaled to mean 1, where the paper scales both to [0, 1] by their largest
    element, which on a language model leaves almost nothing of all others; and the mean over parameters stands in place
    of the sum. `scaled=False` is the paper's formula. Where the paper is silent, negative scores are cut before the
    average, and steps that do not fill an interval count as one.

    Memory: 16 bytes a trained parameter in all, 28 while an experience is learned (twice that in float64), however many
    experiences.

    Args:
        strength: lambda; nats per token charged for a weighted mean square drift of 1.
        alpha: weight of the newest gradient in F, in (0, 1].
        interval: steps between two scores.
        damping: epsilon; in units of the mean of F * change^2 / 2 where `scaled`.
        scaled: see above.
    """

    keeps: ClassVar[str] = "16 P in all"
    computes: ClassVar[str] = "copies of P and a sum over P, each step"
    reads_batch: ClassVar[bool] = False
    strength: float = 2.5e3
    alpha: float = 0.9
    interval: int = 10
    damping: float = 0.1
    scaled: bool = True

    def __post_init__(self) -> None:
        """Refuse numbers without a meaning."""
        require_strength(self, self.strength)
        _require_damping(self, self.damping)
        if not 0 < self.alpha <= 1 or self.interval < 1:
            raise ConfigError(f"{self}: alpha is in (0, 1], interval 1 or more.")

    def begin(self, memory: Memory, ctx: Context) -> Memory:
        """The anchor: the last version."""
        kept = {} if memory is None else {"fisher": memory["fisher"], "score": memory["score"]}
        return kept | _anchored(memory, ctx)

    def step(self, memory: Memory, grads: Tensors, update: Tensors, ctx: Context) -> Memory:
        """The Fisher's moving average, the path and the distance go on; a score where an interval is full."""
        fisher = memory.get("fisher", {})
        squares = {n: g.to(precise(g)) ** 2 for n, g in grads.items()}
        fisher = {n: self.alpha * s + (1 - self.alpha) * fisher[n] if n in fisher else s for n, s in squares.items()}
        moving = {
            "path": plus(memory.get("path", {}), _gain(grads, update)),
            "moved": plus(memory.get("moved", {}), update),
        }
        memory = memory | {"fisher": fisher} | moving
        return memory if (ctx.step + 1) % self.interval else self._scored(memory)

    def loss(self, memory: Memory, batch: Batch, ctx: Context) -> Tensor | float:
        """The penalty; it does not depend on the batch."""
        return self.strength * drift(ctx.trainable(), memory["anchor"], memory["importance"], mean=self.scaled)

    def end(self, memory: Memory, ctx: Context) -> Memory:
        """The experience's score joins those before; Fisher and score become the next penalty's weights."""
        memory = self._scored(memory)
        new = {n: s.clamp_min(0) for n, s in memory["gained"].items()}
        old = memory.get("score", {})
        score = {n: (old[n] + s) / 2 if n in old else s for n, s in new.items()}
        weight = plus(self._even(memory["fisher"]), self._even(score))
        return {"anchor": memory["anchor"], "importance": weight, "fisher": memory["fisher"], "score": score}

    def _scored(self, memory: Memory) -> Memory:
        """The memory with the running interval's score counted, and a new interval begun."""
        rest = {name: value for name, value in memory.items() if name not in ("path", "moved")}
        fisher, path, moved = memory.get("fisher", {}), memory.get("path", {}), memory.get("moved", {})
        length = {n: fisher[n] * m**2 / 2 for n, m in moved.items()}
        epsilon = self.damping * (max(mean(length), torch.finfo(torch.float32).tiny) if self.scaled else 1)
        new = {n: path[n] / (distance + epsilon) for n, distance in length.items()}
        return rest | {"gained": plus(memory.get("gained", {}), new)}

    def _even(self, weights: Tensors) -> dict[str, Tensor]:
        """Weights on a scale that Fisher and score share."""
        if self.scaled:
            return with_mean_one(weights)
        largest = max((float(w.max()) for w in weights.values()), default=0.0)
        return {n: w / max(largest, torch.finfo(torch.float32).tiny) for n, w in weights.items()}


def _anchored(memory: Memory, ctx: Context) -> dict[str, dict[str, Tensor]]:
    """Importances so far, around the version that is there now."""
    return {"anchor": copies(ctx.trainable()), "importance": {} if memory is None else memory["importance"]}


def _gain(grads: Tensors, update: Tensors) -> dict[str, Tensor]:
    """To first order, the loss that each element's movement has saved; in nats per token."""
    return {name: -grads[name] * moved for name, moved in update.items()}


def _require_damping(method: Method, damping: float) -> None:
    if not 0 < damping < float("inf"):
        raise ConfigError(f"{method}: damping is more than 0, and finite.")
