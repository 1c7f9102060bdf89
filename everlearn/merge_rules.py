"""Merging as a side of a method: what each experience has changed, folded together, and one model made of it.

A rule works block by block on what models have changed. What it has to know of a whole model first it surveys; what of
all models together it gathers; both are plain numbers, so that a rule runs over files as it does in a stream.

The two factors of a low-rank adapter are never merged apart: the mean of two products is not the product of two means.
Each adapter stands for its product, scale B A, and the merged product is cut back to the adapter's rank by its singular
values. What that loses is kept in the memory under "lost", a fraction of the squared norm; full weights lose nothing.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from everlearn.errors import MethodError
from everlearn.merging import Running, Vector, fresh, rows_of, truncated, weighted_sum
from everlearn.method import Context, Method, Tensors
from everlearn.models.lora import LoRALinear, adapters
from everlearn.randomness import generator
from everlearn.types import Memory

FIRST = re.compile(r"(?P<layer>.+)\.A(?P<number>\.\d+)?")
"""The first factor of an adapter, of which a layer may have several, by number."""

Begins = Literal["base", "last", "merged"]
Facts = Mapping[str, Any]
"""Plain numbers by tensor name; "" stands for all tensors."""
Draw = Callable[[str], torch.Generator]
"""A fresh random source for a tensor of a model, the same one whenever it is asked."""


@dataclass(frozen=True)
class Share:
    """What a rule may look at while it folds a block of one model.

    Args:
        weight: the model's, 1 unless something else was asked for.
        fact: what the rule's survey of this model says of this tensor.
        rng: goes on from block to block of a tensor.
    """

    weight: float
    fact: Any
    rng: torch.Generator


def fact_of(facts: Facts, name: str) -> Any:
    """What facts say of a tensor; None where nothing."""
    return facts.get(name, facts.get(""))


class Merging(Method, ABC):
    """A rule by which models become one, and a method: here each experience is merged with the version before it.

    `whole` says whether a block has to be a whole tensor, `weighs` whether models may be given weights.
    """

    whole: ClassVar[bool] = False
    weighs: ClassVar[bool] = True

    def survey(self, vector: Vector, draw: Draw) -> Facts:
        """What has to be known of all that one model has changed before a block of it is folded."""
        return {}

    def fold(self, running: Running | None, block: Tensor, share: Share) -> Running:
        """What is known of the models so far, with one more of them."""
        return weighted_sum(running, block, share.weight)

    def gather(self, folded: Iterable[tuple[str, Tensor, Running]], surveys: Sequence[Facts]) -> Facts:
        """What has to be known of all models, from each block's name, base and running tensors, before one is closed.

        Args:
            folded: read only if it is asked for.
            surveys: of each model.
        """
        return {}

    @abstractmethod
    def close(self, base: Tensor, running: Running, fact: Any) -> Tensor:
        """The merged block, from the base's, all models' running tensors, and what was gathered about this tensor."""

    def end(self, memory: Memory, ctx: Context) -> Memory:
        """The merged adapters, where there are any."""
        before, after = _values(ctx)
        inside = {f"{name}.{k}" for name in paired(ctx, after) for k in "AB"}
        known = _learned(self, _fresh(before), before, {n: w for n, w in after.items() if n in inside}, ctx)
        return {"merged": known["merged"], "lost": known["lost"]}

    def merge(self, memory: Memory, before: Tensors, after: Tensors, ctx: Context) -> Tensors:
        """Before and after as one."""
        ready: Tensors = memory["merged"]
        plain = {name: rows_of(w) - rows_of(before[name]) for name, w in after.items() if name not in ready}
        running = {n: self.fold(None, block, Share(1.0, None, generator(n))) for n, block in plain.items()}
        facts = self.gather(((n, rows_of(before[n]), r) for n, r in running.items()), [{}])
        return {n: ready[n] if n in ready else _closed(self, n, before[n], running[n], facts) for n in after}


@dataclass(frozen=True)
class TaskVectors(Merging, ABC):
    """A rule by which all experiences so far become one model.

    What is known of them is folded into tensors that do not grow with their number; of adapters the factors are kept
    instead, which are smaller than what they stand for.

    Args:
        begins: where training begins: "base", so that experts are independent; "last", where the last experience's
            training ended, unmerged; "merged", at the last version, so that an experience adds what it changed there.
    """

    begins: Begins = field(default="base", kw_only=True)

    def begin(self, memory: Memory, ctx: Context) -> Memory:
        """The base's values of whatever learns, taken once."""
        memory = memory or _fresh({})
        new = {n: p.detach().clone() for n, p in ctx.trainable().items() if n not in memory["origin"]}
        return memory | {"origin": memory["origin"] | new, "merged": {}}

    def start(self, memory: Memory, weights: Tensors, ctx: Context) -> Tensors:
        """The weights that the next expert starts from."""
        chosen = {"base": memory["origin"], "last": memory["last"], "merged": {}}[self.begins]
        return {**weights, **chosen}

    def end(self, memory: Memory, ctx: Context) -> Memory:
        """What the new expert has changed, folded into what the others had."""
        before, after = _values(ctx)
        learned = _learned(self, memory, before if self.begins == "merged" else memory["origin"], after, ctx)
        return learned | {"last": dict(after) if self.begins == "last" else {}}

    def merge(self, memory: Memory, before: Tensors, after: Tensors, ctx: Context) -> Tensors:
        """All experts as one."""
        ready, running, facts = memory["merged"], memory["running"], memory["facts"]
        return {
            n: ready[n] if n in ready else _closed(self, n, memory["origin"][n].to(w), _on(running[n], w), facts)
            for n, w in after.items()
        }


def combined(ctx: Context, candidates: Sequence[Tensors], shares: Sequence[float]) -> tuple[dict[str, Tensor], float]:
    """A weighted sum of weights, adapters by their products, and the fraction of these that their rank loses."""
    layers = paired(ctx, candidates[0])
    dense = {n: _sum([product(layer, n, c) for c in candidates], shares) for n, layer in layers.items()}
    ready, lost = cut_back(layers, candidates[0], dense)
    return {n: ready[n] if n in ready else _sum([c[n] for c in candidates], shares) for n in candidates[0]}, lost


def paired(ctx: Context, weights: Tensors) -> dict[str, LoRALinear]:
    """The adapted layers both of whose factors are among the weights; one that learns alone is linear as it is.

    Raises:
        MethodError: if there are factors of another kind of adapter, which would be merged apart.
    """
    found = adapters(ctx.model.module)
    firsts = [match for name in weights if (match := FIRST.fullmatch(name))]
    both = [m["layer"] for m in firsts if f"{m['layer']}.B{m['number'] or ''}" in weights]
    if unknown := [name for name in both if name not in found]:
        raise MethodError(
            f"{unknown[0]} ({len(unknown)} in all) has factors A and B of an adapter that merging does not know, and "
            "factors are not merged apart; merge full weights, or with LoRA."
        )
    return {name: found[name] for name in both}


def product(layer: LoRALinear, name: str, weights: Tensors) -> Tensor:
    """(out, in) what an adapter with these weights adds to its layer, in float64."""
    a, b = (fresh(weights[f"{name}.{k}"]).to(layer.weight.device) for k in "AB")
    return layer.scale * (b @ a)


def _fresh(origin: Tensors) -> Memory:
    return {
        "origin": dict(origin),
        "last": {},
        "running": {},
        "factors": {},
        "surveys": [],
        "facts": {},
        "merged": {},
        "lost": 0.0,
    }


def _values(ctx: Context) -> tuple[Tensors, Tensors]:
    """Weights before and after the experience; the live model's where nobody says."""
    after = ctx.after or {n: p.detach().clone() for n, p in ctx.trainable().items()}
    return ctx.before or after, after


def _learned(rule: Merging, memory: Memory, since: Tensors, after: Tensors, ctx: Context) -> Memory:
    """The memory with one more expert, and all of them merged as far as they are adapters."""
    layers = paired(ctx, after)
    factors = {n: _factors(layer, n, since, after) for n, layer in layers.items()}
    inside = {f"{n}.{k}" for n in layers for k in "AB"}
    plain = {n: rows_of(w) - rows_of(since[n].to(w)) for n, w in after.items() if n not in inside}
    index = len(memory["surveys"])
    vector: Vector = {n: partial(_one, block) for n, block in plain.items()}
    facts = rule.survey({**vector, **{n: partial(_spread, *pair) for n, pair in factors.items()}}, _draw(ctx, index))
    running = dict(memory["running"])
    for name, block in plain.items():
        share = Share(1.0, fact_of(facts, name), _draw(ctx, index)(name))
        known = _on(running[name], block) if name in running else None
        running[name] = rule.fold(known, block, share)
    kept = {n: [*memory["factors"].get(n, []), [index, *pair]] for n, pair in factors.items()}
    new = {"running": running, "factors": memory["factors"] | kept, "surveys": [*memory["surveys"], facts]}
    return _gathered(rule, memory | new, layers, ctx)


def _gathered(rule: Merging, memory: Memory, layers: Mapping[str, LoRALinear], ctx: Context) -> Memory:
    origin, surveys = memory["origin"], memory["surveys"]

    def refolded(name: str) -> tuple[Tensor, Running]:
        running: Running | None = None
        for index, left, right in memory["factors"][name]:
            share = Share(1.0, fact_of(surveys[index], name), _draw(ctx, index)(name))
            (block,) = _spread(left, right)
            running = rule.fold(running, block.to(layers[name].weight.device), share)
        assert running is not None
        return layers[name].weight.double() + product(layers[name], name, origin), running

    def folded() -> Iterable[tuple[str, Tensor, Running]]:
        yield from ((n, rows_of(origin[n].to(r[0])), r) for n, r in memory["running"].items())
        yield from ((n, *refolded(n)) for n in layers)

    facts = rule.gather(folded(), surveys)
    dense = {}
    for name, layer in layers.items():
        base, running = refolded(name)
        dense[name] = rule.close(base, running, fact_of(facts, name)) - layer.weight.double()
    merged, lost = cut_back(layers, origin, dense)
    return memory | {"facts": dict(facts), "merged": merged, "lost": lost}


def cut_back(
    layers: Mapping[str, LoRALinear], origin: Tensors, dense: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], float]:
    """Factors of each layer's dense change at its adapter's rank; directions that it lacks begin as the origin does."""
    merged, lost, total = dict[str, Tensor](), 0.0, 0.0
    for name, layer in layers.items():
        left, right, missing = truncated(dense[name], layer.rank)
        root = layer.scale**0.5
        idle = (right == 0).all(1, keepdim=True)
        first = origin[f"{name}.A"].to(right)
        merged[f"{name}.A"] = torch.where(idle, first, right / root).to(layer.A.dtype).contiguous()
        merged[f"{name}.B"] = (left / root).to(layer.B.dtype).contiguous()  # as files give it back, for the same bits
        lost, total = lost + missing, total + float((dense[name] ** 2).sum())
    return merged, lost / total if total else 0.0


def _closed(rule: Merging, name: str, base: Tensor, running: Running, facts: Facts) -> Tensor:
    return rule.close(rows_of(base), running, fact_of(facts, name)).reshape(base.shape)


def _factors(layer: LoRALinear, name: str, since: Tensors, after: Tensors) -> tuple[Tensor, Tensor]:
    """(out, r) and (r, in) whose product is what the adapter has changed."""
    left, right = layer.scale * after[f"{name}.B"], after[f"{name}.A"]
    first, second = since[f"{name}.B"].to(left), since[f"{name}.A"].to(right)
    if not bool(first.any()):
        return left, right
    return torch.cat([left, -layer.scale * first], 1), torch.cat([right, second])


def _spread(left: Tensor, right: Tensor) -> tuple[Tensor]:
    return ((fresh(left) @ fresh(right)).to(left.dtype),)


def _one(block: Tensor) -> tuple[Tensor]:
    return (block,)


def _on(running: Running, like: Tensor) -> Running:
    return tuple(r.to(like.device) for r in running)


def _sum(parts: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    total = torch.zeros_like(parts[0])
    for part, share in zip(parts, shares, strict=True):
        total = total + share * part.to(total)
    return total


def _draw(ctx: Context, index: int) -> Draw:
    """By the expert's place in the stream and not by the moment, since adapters are folded again each time."""
    return lambda name: generator(ctx.seed, "expert", index, name, *ctx.place)
