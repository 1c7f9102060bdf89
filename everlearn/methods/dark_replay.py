"""Dark experience replay: stored examples are met with the answers that the model gave to them when they were stored.

For a language model an answer is a distribution over the vocabulary at each supervised token. Of each of them the k
most probable tokens are kept, and all others as one: 6 k + 4 bytes a token, by 4 of an id and 2 of a log-probability.

Both methods keep a reservoir over the stream of examples (Vitter 1985), filled while it is learned: after step s the
examples numbered s b to (s + 1) b of a random order are offered, where b is the recipe's batch size, and those that
are taken are stored with what the model answers at that moment. The papers' code offers the examples of the step
itself, each epoch anew, with its answer from before the step: a method sees no batch when it may change its memory, so
that here each example of an experience is offered once, in an order of its own; what the steps do not reach is offered
at the end. As in the paper, examples of the present experience are replayed too, once they are stored. Of a document
longer than a row the first `length` tokens are stored. Looking at each step costs two copies of what learns.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from everlearn.data.buffers import reservoir_keep, turns
from everlearn.data.packing import rows_alone
from everlearn.data.sequences import each
from everlearn.errors import ConfigError
from everlearn.examples import Batch, Example
from everlearn.method import Context, Method, Tensors
from everlearn.models.language_model import LanguageModel
from everlearn.models.top_logits import DISTANCES, Distance, Top, distance_from, top_said
from everlearn.randomness import permutation
from everlearn.types import Memory

Kept = Mapping[str, Any]
"""One stored example: its "row", the "ids" (N, k) int32 and the "values" (N, k + 2) fp16 of `Top`."""


@dataclass(frozen=True)
class DER(Method):
    """Answer stored examples as they were answered when they were stored (dark experience replay, arXiv:2004.07211).

    Adds strength times the mean distance, over the supervised tokens of a batch drawn from memory, between the stored
    and the present distribution (eq. 5; what is kept and when, see the module). The paper's distance is the squared one
    of logits, summed over classes: here a mean over the k tokens kept, so that a strength means the same for any k.
    Extra compute: a forward and a backward pass for `rows` examples in each step, and a forward pass for each example
    that is stored. Memory: for each of `capacity` examples its text and, for each supervised token, 6 k + 4 bytes.

    Args:
        strength: alpha.
        top: k, the tokens kept at each place; all others are kept as one.
        distance: "kl" is KL(stored || present) in nats over the k tokens and the rest; "mse" the mean squared
            difference of the k logits, both with their mean taken off, since a constant added to all logits means
            nothing; "mse-raw" the paper's, of the logits as they are.
        rows: stored examples in a batch, drawn anew in each step.
        capacity: most examples kept in all.
    """

    keeps: ClassVar[str] = "capacity examples and 6 k + 4 a token, in all"
    computes: ClassVar[str] = "a gradient of stored rows, each step"
    forgets_apart: ClassVar[str] = "it holds examples to answers from before they were learned"
    reads_batch: ClassVar[bool] = False

    strength: float = 0.5
    top: int = 20
    distance: Distance = "kl"
    rows: int = 8
    capacity: int = 500

    def __post_init__(self) -> None:
        """Refuse counts below one, negative weights and unknown distances."""
        _require(self, (self.strength,), (self.top, self.rows, self.capacity), self.distance)

    def init(self, model: LanguageModel) -> Memory:
        """An empty reservoir."""
        return {"kept": [], "seen": 0}

    def step(self, memory: Memory, grads: Tensors, update: Tensors, ctx: Context) -> Memory:
        """The reservoir after the examples whose turn it is were offered."""
        return _offered_in_step(memory, self.top, self.capacity, ctx)

    def end(self, memory: Memory, ctx: Context) -> Memory:
        """The reservoir after the examples that no step has reached were offered."""
        return _offered_at_end(memory, self.top, self.capacity, ctx)

    def loss(self, memory: Memory, batch: Batch, ctx: Context) -> Tensor | float:
        """The weighted distance on a batch drawn from memory; it does not depend on the batch learned from."""
        if not memory["kept"] or not self.strength:
            return 0.0
        return self.strength * _distance(_drawn(memory, self.rows, "first", ctx), self.distance, ctx)


@dataclass(frozen=True)
class DERPP(Method):
    """DER, and the cross-entropy of a second, independent batch from memory (DER++, arXiv:2004.07211, eq. 6).

    Adds distilled times the distance of `DER` on one batch drawn from memory, and replayed times the objective's loss
    on another. Extra compute: forward and backward passes for 2 `rows` examples in each step, and a forward pass for
    each example that is stored. Memory: as of `DER`.

    Args:
        distilled: alpha, the weight of the distance from the stored answers.
        replayed: beta, the weight of the loss on stored examples.
        top: as of `DER`.
        distance: as of `DER`.
        rows: stored examples in each of the two batches.
        capacity: most examples kept in all.
    """

    keeps: ClassVar[str] = "capacity examples and 6 k + 4 a token, in all"
    computes: ClassVar[str] = "two gradients of stored rows, each step"
    reads_batch: ClassVar[bool] = False

    distilled: float = 0.5
    replayed: float = 0.5
    top: int = 20
    distance: Distance = "kl"
    rows: int = 8
    capacity: int = 500

    def __post_init__(self) -> None:
        """Refuse counts below one, negative weights and unknown distances."""
        _require(self, (self.distilled, self.replayed), (self.top, self.rows, self.capacity), self.distance)

    def init(self, model: LanguageModel) -> Memory:
        """An empty reservoir."""
        return {"kept": [], "seen": 0}

    def step(self, memory: Memory, grads: Tensors, update: Tensors, ctx: Context) -> Memory:
        """The reservoir after the examples whose turn it is were offered."""
        return _offered_in_step(memory, self.top, self.capacity, ctx)

    def end(self, memory: Memory, ctx: Context) -> Memory:
        """The reservoir after the examples that no step has reached were offered."""
        return _offered_at_end(memory, self.top, self.capacity, ctx)

    def loss(self, memory: Memory, batch: Batch, ctx: Context) -> Tensor | float:
        """The two weighted terms; they do not depend on the batch learned from."""
        if not memory["kept"]:
            return 0.0
        term: Tensor | float = 0.0
        if self.distilled:
            term = self.distilled * _distance(_drawn(memory, self.rows, "first", ctx), self.distance, ctx)
        if self.replayed:
            examples = [Example.from_row(kept["row"]) for kept in _drawn(memory, self.rows, "second", ctx)]
            batches = list(ctx.batches(examples))
            weight = sum(b.weight for b in batches)
            term = term + self.replayed * torch.stack([ctx.loss(b) * (b.weight / weight) for b in batches]).sum()
        return term


def _offered_in_step(memory: Memory, top: int, capacity: int, ctx: Context) -> Memory:
    size, count = ctx.plan.batch_size, len(ctx.experience.train)
    return _offered(memory, range(count)[ctx.step * size : (ctx.step + 1) * size], top, capacity, ctx)


def _offered_at_end(memory: Memory, top: int, capacity: int, ctx: Context) -> Memory:
    size, count = ctx.plan.batch_size, len(ctx.experience.train)
    return _offered(memory, range(count)[ctx.step * size :], top, capacity, ctx)


def _offered(memory: Memory, turn: Sequence[int], top: int, capacity: int, ctx: Context) -> Memory:
    """The reservoir after the examples whose turn it is, in the experience's random order, were offered."""
    if not len(turn):
        return memory
    train = ctx.experience.train
    order = permutation(len(train), ctx.seed, ctx.seen, ctx.experience.name, "offered", *ctx.place)
    slots = reservoir_keep(len(memory["kept"]), memory["seen"], len(turn), capacity, ctx.rng("keep"))
    taken = [i for old, i in slots if not old]
    new = iter(_stored(list(each(train, [order[turn[i]] for i in taken])), top, ctx))
    kept = [memory["kept"][i] if old else next(new) for old, i in slots]
    return {"kept": kept, "seen": memory["seen"] + len(turn)}


def _stored(examples: Sequence[Example], top: int, ctx: Context) -> list[Kept]:
    """Examples with what the live model answers to them, in their order."""
    found: dict[int, Kept] = {}
    for group, batch in _batches(examples, ctx):
        answers, at = top_said(ctx.model.said(batch), top), 0
        for index, count in zip(group, batch.supervised.sum(1).tolist(), strict=True):
            mine = answers[at : at + count]
            row = examples[index].row() | {"origin": ctx.experience.name}
            values = mine.values.to("cpu", torch.float16, copy=True)
            found[index] = {"row": row, "ids": mine.ids.to("cpu", copy=True), "values": values}
            at += count
    return [found[i] for i in range(len(examples))]


def _drawn(memory: Memory, rows: int, purpose: str, ctx: Context) -> list[Kept]:
    held = len(memory["kept"])
    return [memory["kept"][i] for i in turns(held, min(rows, held), ctx.rng(purpose))]


def _distance(kept: Sequence[Kept], distance: Distance, ctx: Context) -> Tensor:
    """The mean over the supervised tokens of stored examples."""
    far: list[Tensor] = []
    for group, batch in _batches([Example.from_row(k["row"]) for k in kept], ctx):
        answers = Top.joined([Top(kept[i]["ids"], kept[i]["values"]) for i in group])
        there = answers.to(ctx.model.device, torch.promote_types(answers.values.dtype, torch.float32))
        far.append(ctx.model.token_statistic(batch, distance_from(there, distance)))
    return torch.cat(far).mean()


def _batches(examples: Sequence[Example], ctx: Context) -> Iterator[tuple[list[int], Batch]]:
    return rows_alone([(ctx.model.encode(e), e) for e in examples], ctx.plan.length, ctx.plan.tokens)


def _require(method: Method, weights: Sequence[float], counts: Sequence[int], distance: str) -> None:
    if not all(0 <= w < float("inf") for w in weights) or min(counts) < 1 or distance not in DISTANCES:
        raise ConfigError(
            f"{method}: weights are 0 or more, and finite; top, rows and capacity 1 or more; "
            f"distance is {', '.join(DISTANCES[:-1])} or {DISTANCES[-1]}."
        )
