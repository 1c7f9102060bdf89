"""Averages of weights: over steps, over experiences, between old and new.

N is the number of trained weights. Adapters are averaged by their products and cut back to their rank; see
`everlearn.merge_rules`. All need the whole of each parameter in every process.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from everlearn.errors import ConfigError
from everlearn.examples import Example
from everlearn.merge_rules import Begins, Draw, Facts, Merging, Share, TaskVectors, combined, cut_back, paired, product
from everlearn.merging import Running, Vector, cocktail_weights, stock_ratio
from everlearn.method import Context, Method, Tensors
from everlearn.randomness import permutation
from everlearn.types import Memory


@dataclass(frozen=True)
class WiSEFT(Merging):
    """Keep a point between the weights before and after each experience (WiSE-FT, arXiv:2109.01903).

    (1 - mixing) theta_before + mixing theta_after. Differs from the paper: in a stream the old end is the last version,
    and the base for the first experience alone. No memory.

    Args:
        mixing: alpha; 1 keeps what was learned as it is, 0 nothing.
    """

    keeps: ClassVar[str] = "nothing"
    computes: ClassVar[str] = "copies of P, at the end"
    weighs: ClassVar[bool] = False
    mixing: float = 0.5

    def __post_init__(self) -> None:
        """Refuse a place off the line."""
        if not 0 <= self.mixing <= 1:
            raise ConfigError(f"{self}: mixing is in [0, 1].")

    def gather(self, folded: Iterable[tuple[str, Tensor, Running]], surveys: Sequence[Facts]) -> Facts:
        """Nothing; there are two ends."""
        if len(surveys) != 1:
            raise ConfigError(f"{self}: a line has two ends, and these are {len(surveys) + 1} models.")
        return {}

    def close(self, base: Tensor, running: Running, fact: Any) -> Tensor:
        """The point on the line."""
        return base + self.mixing * running[0]


@dataclass(frozen=True)
class Soup(TaskVectors):
    """Average the experts of all experiences (uniform model soup, arXiv:2203.05482).

    theta_0 + sum_i w_i tau_i / sum_i w_i; in a stream all weigh the same. `everlearn.merging.greedy_soup` leaves out
    whom a score speaks against. Memory: 8 N bytes, however many experiences there are; for adapters 4 r (in + out) for
    each layer and experience.

    Args:
        begins: where an expert's training begins: "base" as in the paper, "last" or "merged".
    """

    keeps: ClassVar[str] = "8 N in all"
    computes: ClassVar[str] = "sums over N, at the end"

    def close(self, base: Tensor, running: Running, fact: Any) -> Tensor:
        """The base plus the mean change."""
        return base + running[0] / running[1]


@dataclass(frozen=True)
class ModelStock(TaskVectors):
    """Average the experts and go back towards the base, by the angle between them (model stock, arXiv:2403.19522).

    theta_0 + t mean_i tau_i for each tensor, t = k c / (1 + (k - 1) c), where c is the mean cosine between the tau of
    two of the k experts: independent experts are noise around a centre that is nearer to the base than their mean. The
    sum of unit vectors holds c, so memory does not grow: 12 N bytes. A negative c, of which the paper does not speak,
    counts as zero and gives the base.

    Args:
        begins: where an expert's training begins; the paper's experts are independent: "base".
    """

    keeps: ClassVar[str] = "12 N in all"
    computes: ClassVar[str] = "sums over N, at the end"
    weighs: ClassVar[bool] = False

    def survey(self, vector: Vector, draw: Draw) -> Facts:
        """The norm of each tensor's change."""
        return {n: sum(float((b.double() ** 2).sum()) for b in blocks()) ** 0.5 for n, blocks in vector.items()}

    def fold(self, running: Running | None, block: Tensor, share: Share) -> Running:
        """The sum, and that of unit vectors."""
        total, units = running or (torch.zeros_like(block), torch.zeros_like(block))
        return total + block, units + (block / share.fact if share.fact else 0.0)

    def gather(self, folded: Iterable[tuple[str, Tensor, Running]], surveys: Sequence[Facts]) -> Facts:
        """For each tensor t / k: the square norm of a sum of k unit vectors is k + k (k - 1) c."""
        squares, count = dict[str, float](), len(surveys)
        for name, _, running in folded:
            squares[name] = squares.get(name, 0.0) + float((running[1].double() ** 2).sum())
        pairs = max(count * (count - 1), 1)
        return {name: stock_ratio((square - count) / pairs, count) / count for name, square in squares.items()}

    def close(self, base: Tensor, running: Running, fact: Any) -> Tensor:
        """The point between the base and the mean."""
        merged: Tensor = base + fact * running[0]
        return merged


@dataclass(frozen=True)
class LMCocktail(Method):
    """Mix the new expert with the base and the earlier ones, by their losses on a few examples (arXiv:2311.13534).

    mixing theta_t + (1 - mixing) sum_i w_i theta_i, where i runs over the base and the experts before, and w is the
    softmax of -loss / temperature on examples of the new experience. Over files: `TaskArithmetic(scale=1)` with the
    weights that `everlearn.merging.cocktail_weights` gives. Memory: 4 N bytes for the base and for each experience.

    Args:
        mixing: alpha.
        temperature: of the softmax over losses in nats per token; the official code's default is 5.
        examples: how many of the new experience the losses are measured on.
        begins: where an expert's training begins: "base" as in the paper, "last" or "merged".
    """

    keeps: ClassVar[str] = "4 N an experience"
    computes: ClassVar[str] = "losses of all experts on examples, at the end"

    mixing: float = 0.5
    temperature: float = 5.0
    examples: int = 5
    begins: Begins = field(default="base", kw_only=True)

    def __post_init__(self) -> None:
        """Refuse numbers without a meaning."""
        if not 0 <= self.mixing <= 1 or self.temperature <= 0 or self.examples < 1:
            raise ConfigError(f"{self}: mixing is in [0, 1], temperature above 0, examples 1 or more.")

    def begin(self, memory: Memory, ctx: Context) -> Memory:
        """The base's values of whatever learns, taken once."""
        memory = memory or {"origin": {}, "experts": [], "shares": [], "lost": 0.0}
        new = {n: p.detach().clone() for n, p in ctx.trainable().items() if n not in memory["origin"]}
        return memory | {"origin": memory["origin"] | new}

    def start(self, memory: Memory, weights: Tensors, ctx: Context) -> Tensors:
        """The weights that the next expert starts from."""
        last = memory["experts"][-1] if memory["experts"] else {}
        return {**weights, **{"base": memory["origin"], "last": last, "merged": {}}[self.begins]}

    def end(self, memory: Memory, ctx: Context) -> Memory:
        """One expert more, and everyone's share in the mix."""
        after = dict(ctx.after) or {n: p.detach().clone() for n, p in ctx.trainable().items()}
        candidates = self._candidates(memory, after)
        examples = ctx.experience.train
        chosen = [examples[i] for i in permutation(len(examples), ctx.seed, ctx.seen, *ctx.place)[: self.examples]]
        others = cocktail_weights([self._loss(c, chosen, ctx) for c in candidates], self.temperature)
        ctx.model.assign(after)
        shares = [*((1 - self.mixing) * w for w in others), self.mixing]
        lost = combined(ctx, [*candidates, after], shares)[1] if paired(ctx, after) else 0.0
        return memory | {"experts": [*memory["experts"], after], "shares": shares, "lost": lost}

    def merge(self, memory: Memory, before: Tensors, after: Tensors, ctx: Context) -> Tensors:
        """The mix."""
        candidates = self._candidates(memory | {"experts": memory["experts"][:-1]}, after)
        return combined(ctx, [*candidates, after], memory["shares"])[0]

    def _candidates(self, memory: Memory, after: Tensors) -> list[dict[str, Tensor]]:
        """The base and the experts before, each as far as it is trained now."""
        origin = {n: memory["origin"][n].to(w) for n, w in after.items()}
        return [origin, *({n: e.get(n, origin[n]).to(w) for n, w in after.items()} for e in memory["experts"])]

    def _loss(self, weights: Tensors, examples: Sequence[Example], ctx: Context) -> float:
        """Mean loss in nats per token under other weights."""
        ctx.model.assign(weights)
        total, count = 0.0, 0.0
        with torch.no_grad():
            for batch in ctx.batches(examples):
                total, count = total + float(ctx.loss(batch)) * batch.weight, count + batch.weight
        return total / max(count, 1)


@dataclass(frozen=True)
class EMA(Method):
    """Keep the average of the weights along an experience's steps in place of the last ones (arXiv:1803.05407).

    average <- alpha average + (1 - alpha) theta after every so many steps, alpha = min(decay, 1 - 1 / n) at the n-th
    average (the ramp of arXiv:1703.01780): the plain mean of what was visited for the first 1 / (1 - decay)
    averages, so that a decay does not tie an experience of few steps to where it began. `EMA(decay=1, annealing=True)`
    is the average of checkpoints in the annealing phase of Llama 3 (arXiv:2407.21783). Memory: 8 N bytes while it
    learns, 4 N after; for adapters 4 out in bytes of each layer while it learns, since their products are averaged.

    Args:
        decay: of the average; 0 keeps the last weights, 1 the plain mean.
        every: steps from one average to the next.
        annealing: whether the average begins anew at each step whose learning rate is not below that of the step before
            it, so that it is one of the last fall alone; where the rate never falls the last weights are kept.
    """

    keeps: ClassVar[str] = "4 P in all"
    computes: ClassVar[str] = "a sum over P, each step"

    decay: float = 0.99
    every: int = 1
    annealing: bool = False

    def __post_init__(self) -> None:
        """Refuse numbers without a meaning."""
        if not 0 <= self.decay <= 1 or self.every < 1:
            raise ConfigError(f"{self}: decay is in [0, 1], every 1 or more.")

    def begin(self, memory: Memory, ctx: Context) -> Memory:
        """A new average."""
        return {"steps": 0, "moved": {}, "average": {}, "merged": {}, "lost": 0.0, "factor": 0.0}

    def step(self, memory: Memory, grads: Tensors, update: Tensors, ctx: Context) -> Memory:
        """Move, and average now and then."""
        begins = self.annealing and not ctx.fell(memory["factor"])
        known, steps = memory["moved"], 0 if begins else memory["steps"] + 1
        layers = paired(ctx, update)
        inside = {f"{name}.{k}" for name in layers for k in "AB"}
        moved = {n: known[n].to(u) + u if n in known else u.clone() for n, u in update.items() if n not in inside}
        average = {} if begins else memory["average"]
        if steps and steps % self.every == 0:
            rate = max(1 - self.decay, self.every / steps)
            trained = ctx.trainable()
            dense = {n: product(layer, n, trained).to(layer.A.dtype) for n, layer in layers.items()}
            average = {n: torch.lerp(average.get(n, w).to(w), w, rate) for n, w in (moved | dense).items()}
        return memory | {"steps": steps, "moved": moved, "average": average, "factor": ctx.factor or 0.0}

    def end(self, memory: Memory, ctx: Context) -> Memory:
        """The average as it is merged."""
        before, after = ctx.before or dict(ctx.trainable()), ctx.after or dict(ctx.trainable())
        average, layers = memory["average"], paired(ctx, after)
        dense = {n: average[n].to(before[f"{n}.B"].device).double() for n in layers if average}
        merged, lost = cut_back(layers, before, dense) if average else ({}, 0.0)
        plain = {n: w for n, w in average.items() if n not in layers}
        return {"steps": memory["steps"], "moved": {}, "average": plain, "merged": merged, "lost": lost, "factor": 0.0}

    def merge(self, memory: Memory, before: Tensors, after: Tensors, ctx: Context) -> Tensors:
        """The average; what was learned where there was no step to average."""
        ready, average = memory["merged"], memory["average"]
        moved = {n: before[n] + average[n].to(w) for n, w in after.items() if n in average}
        return {n: ready[n] if n in ready else moved.get(n, w) for n, w in after.items()}
