"""Gradient episodic memory: movements that do not raise the loss on remembered examples.

What is projected is the movement that the optimiser proposes. A projected gradient is not enough: momentum, Adam's
scaling and weight decay come after it, and the weights then move where the constraint forbids it. `side="grad"` is
the papers' rule, which is the same under plain gradient descent and promises nothing otherwise. `side="both"` projects
the gradient too, so that Adam's moments gather little of what will be taken out of its movements, at twice the cost. It
is the default, since the movement alone kept far less on split digits (recipes/digits.md, "GEM's side").

In a chain, what stands to the right acts on what is left of a movement, and may turn it back into what a member to the
left has ruled out; the last member's constraints hold.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from everlearn.config import dump, restore
from everlearn.errors import ConfigError
from everlearn.examples import Example
from everlearn.method import Context, Method, Tensors
from everlearn.methods.spans import precise
from everlearn.models.language_model import LanguageModel
from everlearn.randomness import permutation
from everlearn.types import Memory

Side = Literal["update", "grad", "both"]
Formula = Literal["paper", "repo"]

PIECE = 1 << 20
"""Numbers that are multiplied in float64 at a time: 16 MB beside the tensors."""


@dataclass(frozen=True)
class GEM(Method):
    """Move so that, to first order, no past experience's loss rises (Lopez-Paz & Ranzato 2017, arXiv:1706.08840).

    min 1/2 |x - g|^2 subject to <x, g_k> >= 0 for each past experience k (eq. 8), by an exact solution of the dual
    min_v 1/2 v'GG'v + g'G'v with v >= 0, x = G'v + g (eq. 11). g_k is the gradient of k's own objective on the examples
    that are remembered of it, computed anew in each step.

    Differs from the paper: g is the movement that the optimiser proposes, turned round, so that the constraints hold
    for how the weights do move, whatever the optimiser. Under plain gradient descent both are one.

    Memory: `kept` rows of an experience, as text (about 4 bytes a token each). In a step: 4 bytes for each trained
    parameter and each past experience, and a forward and a backward pass over all that is remembered.

    Args:
        kept: examples remembered of each experience.
        margin: gamma, which favours movements that lower old losses, where some constraint is violated; 0.5 in all of
            the paper's experiments, of a grid from 0 to 1. On the update, each g_k is scaled to the length of the
            proposed movement, so that a margin means the same at any rate.
        side: what is projected: "update", the movement; "grad", the paper's; or "both", at twice the cost.
        formula: how a margin acts. "paper" adds it to the solution v (section 3: "adding a small constant gamma >= 0 to
            v*"), after which constraints can fail where past experiences conflict with each other; "repo", the authors'
            project2cone2, solves with v >= gamma, and all constraints hold.
    """

    keeps: ClassVar[str] = "kept examples of each experience"
    computes: ClassVar[str] = "a gradient for each old experience, each step"

    kept: int = 64
    margin: float = 0.0
    side: Side = "both"
    formula: Formula = "paper"

    def __post_init__(self) -> None:
        """Refuse an empty memory and a margin that favours forgetting."""
        if self.kept < 1 or not 0 <= self.margin < float("inf"):
            raise ConfigError(f"{self}: kept is 1 or more, margin 0 or more, and finite.")

    def init(self, model: LanguageModel) -> Memory:
        """No experience is remembered."""
        return []

    def end(self, memory: Memory, ctx: Context) -> Memory:
        """Remember some of the experience's examples."""
        return [*memory, _remembered(ctx, self.kept)]

    def grad(self, memory: Memory, grads: Tensors, ctx: Context) -> Tensors:
        """The paper's side."""
        if self.side == "update" or not memory:
            return grads
        past = [_gradient([one], ctx) for one in memory]
        return self._projected(grads, past, [1.0] * len(past))

    def update(self, memory: Memory, update: Tensors, ctx: Context) -> Tensors:
        """The nearest movement along which no past loss rises."""
        if self.side == "grad" or not memory:
            return update
        past = [_gradient([one], ctx) for one in memory]
        length = _dot(update, update) ** 0.5
        sizes = [_dot(g, g) ** 0.5 for g in past]
        back = {name: -u for name, u in update.items()}
        found = self._projected(back, past, [length / s if s else 1.0 for s in sizes])
        return {name: -x for name, x in found.items()}

    def _projected(self, proposed: Tensors, past: Sequence[Tensors], scales: Sequence[float]) -> Tensors:
        """X for g, with each g_k scaled."""
        scale = torch.tensor(scales, dtype=torch.float64)
        slopes = scale * torch.tensor([_dot(g, proposed) for g in past], dtype=torch.float64)
        if bool((slopes >= 0).all()):
            return proposed
        gram = torch.outer(scale, scale) * _products(past)
        if self.formula == "paper":
            weights = nonnegative_minimum(gram, slopes) + self.margin
        else:
            weights = nonnegative_minimum(gram, slopes + self.margin * gram.sum(1)) + self.margin
        return _moved(proposed, past, (scale * weights).tolist())


@dataclass(frozen=True)
class AGEM(Method):
    """Drop the part of a movement that would raise the mean loss on remembered examples (arXiv:1812.00420, eq. 11).

    g - <g, r> / <r, r> r where <g, r> < 0, with r the gradient on examples drawn anew in each step from those of all
    past experiences: one constraint in place of GEM's many.

    Differs from the paper: g is the movement that the optimiser proposes, turned round. See `GEM`.

    Memory: `kept` rows of an experience, as text (about 4 bytes a token each). In a step: 4 bytes for each trained
    parameter, and a forward and a backward pass over `drawn` examples.

    Args:
        kept: examples remembered of each experience.
        drawn: examples that each step draws from the memory.
        side: what is projected: "update", the movement; "grad", the paper's; or "both", at twice the cost.
    """

    keeps: ClassVar[str] = "kept examples of each experience"
    computes: ClassVar[str] = "a gradient of stored rows, each step"

    kept: int = 64
    drawn: int = 16
    side: Side = "both"

    def __post_init__(self) -> None:
        """Refuse an empty memory."""
        if self.kept < 1 or self.drawn < 1:
            raise ConfigError(f"{self}: kept and drawn are 1 or more.")

    def init(self, model: LanguageModel) -> Memory:
        """No experience is remembered."""
        return []

    def end(self, memory: Memory, ctx: Context) -> Memory:
        """Remember some of the experience's examples."""
        return [*memory, _remembered(ctx, self.kept)]

    def grad(self, memory: Memory, grads: Tensors, ctx: Context) -> Tensors:
        """The paper's side."""
        if self.side == "update" or not memory:
            return grads
        return without_rise(grads, self._reference(memory, ctx), -1.0)

    def update(self, memory: Memory, update: Tensors, ctx: Context) -> Tensors:
        """The nearest movement along which the mean loss on what was drawn does not rise."""
        if self.side == "grad" or not memory:
            return update
        return without_rise(update, self._reference(memory, ctx), 1.0)

    def _reference(self, memory: Memory, ctx: Context) -> Tensors:
        places = [(k, row) for k, one in enumerate(memory) for row in one["rows"]]
        order = torch.randperm(len(places), generator=ctx.rng("memory"))[: self.drawn].tolist()
        drawn = [places[i] for i in sorted(order)]
        return _gradient([one | {"rows": [r for place, r in drawn if place == k]} for k, one in enumerate(memory)], ctx)


def without_rise(proposed: Tensors, reference: Tensors, sign: float) -> Tensors:
    """What is left of a proposal without its part along `sign` times a reference, where it has one."""
    along = _dot(proposed, reference)
    if sign * along <= 0:
        return proposed
    return _moved(proposed, [reference], [-along / _dot(reference, reference)])


def nonnegative_minimum(gram: Tensor, slopes: Tensor) -> Tensor:
    """Argmin of 1/2 v'Pv + q'v over v >= 0, exact, by active sets (Lawson & Hanson 1974).

    Args:
        gram: P, (T, T) float64, symmetric and positive semidefinite.
        slopes: q, (T,) float64, in the range of P.
    """
    size = gram.diagonal().clamp_min(0).sqrt()
    size = torch.where(size > 0, size, 1.0)
    gram, slopes = gram / torch.outer(size, size), slopes / size
    value, free = torch.zeros_like(slopes), torch.zeros_like(slopes, dtype=torch.bool)
    barred = torch.zeros_like(free)  # depend on those that are free, as far as float64 can tell
    least = -1e-13 * float(slopes.abs().max())
    while True:
        rise = torch.where(free | barred, 0.0, gram @ value + slopes)
        lowest = int(rise.argmin())
        if rise[lowest] >= least:
            return value / size
        free[lowest] = True
        before, (value, free) = value, _settled(gram, slopes, value, free)
        stuck = bool((value - before).abs().max() <= 1e-12 * value.max())
        barred = barred & stuck
        barred[lowest] = stuck
        free[lowest] &= not stuck


def _settled(gram: Tensor, slopes: Tensor, value: Tensor, free: Tensor) -> tuple[Tensor, Tensor]:
    """The minimum over the free weights that stay positive on the way there, and which these are."""
    while True:
        target = torch.zeros_like(value)
        inner = gram[free][:, free]
        target[free] = torch.linalg.lstsq(inner, -slopes[free][:, None], driver="gelsd").solution[:, 0]
        low = free & (target <= 0)
        if not bool(low.any()):
            return target, free
        shares = torch.where(low & (value > 0), value / (value - target), torch.where(low, 0.0, torch.inf))
        free = free & (shares > shares.min())  # those that reach zero first stay there
        value = torch.where(free, value + shares.min() * (target - value), 0.0)


def _remembered(ctx: Context, kept: int) -> Memory:
    train = ctx.experience.train
    chosen = permutation(len(train), ctx.seed, ctx.seen, "remembered", *ctx.place)[:kept]
    return {
        "name": ctx.experience.name,
        "objective": dump(ctx.experience.objective),
        "rows": [train[i].row() for i in chosen],
    }


def _gradient(parts: Sequence[Mapping[str, Any]], ctx: Context) -> dict[str, Tensor]:
    """Gradient of the mean loss over the supervised tokens of remembered rows, each by its own objective."""
    kinds = {n: precise(p) for n, p in ctx.trainable().items()}
    total = {n: torch.zeros_like(p, dtype=kinds[n]) for n, p in ctx.trainable().items()}
    weight = 0.0
    for part in parts:
        past = replace(ctx, experience=replace(ctx.experience, objective=restore(part["objective"])))
        for batch in past.batches([Example.from_row(row) for row in part["rows"]]):
            grads = past.grads(past.loss(batch) * batch.weight)
            total = {n: total[n] + g.to(kinds[n]) for n, g in grads.items()}
            weight += batch.weight
    return {n: t / weight for n, t in total.items()}


def _moved(start: Tensors, along: Sequence[Tensors], by: Sequence[float]) -> dict[str, Tensor]:
    return {n: t + sum(w * g[n].to(t.dtype) for w, g in zip(by, along, strict=True) if w) for n, t in start.items()}


def _products(vectors: Sequence[Tensors]) -> Tensor:
    """(T, T) all inner products, on the CPU."""
    found = torch.zeros(len(vectors), len(vectors), dtype=torch.float64)
    for i, one in enumerate(vectors):
        for j in range(i + 1):
            found[i, j] = found[j, i] = _dot(one, vectors[j])
    return found


def _dot(a: Tensors, b: Tensors) -> float:
    """<a, b> in float64, piece by piece."""
    pairs = ((torch.split(a[n].reshape(-1), PIECE), torch.split(b[n].reshape(-1), PIECE)) for n in a)
    return float(
        torch.stack([x.double() @ y.double() for one, other in pairs for x, y in zip(one, other, strict=True)]).sum()
    )
