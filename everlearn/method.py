"""The algebra of methods: four moments, seven sides, and `chain`, which composes them.

A method is a frozen dataclass of hyperparameters. What it remembers is passed in and returned: a hook returns what it
was given, changed, and never changes it in place. Only `params` touches a module. A hook that nobody in a chain
overrides costs nothing: no copy of gradients, updates or weights is made for it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from everlearn.errors import MethodError
from everlearn.examples import Batch, Example, Plan
from everlearn.models.language_model import LanguageModel
from everlearn.randomness import generator
from everlearn.types import Experience, Memory

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Context:
    """What a hook may look at: small, and frozen.

    Args:
        model: the live model.
        experience: what is being learned.
        plan: how its examples are cut into steps.
        seed: the learner's.
        seen: number of experiences learned before this one.
        step: optimiser steps done in this experience.
        factor: at `step`, the learning rate of the step as a fraction of its peak; None where another library steps.
        place: the method's place in its chain, so that two members draw differently.
        before: at `end` and `merge`, if anyone merges: the trained weights before the experience, in full precision.
        after: the same after it.
        note: given numbers by name for people; they go to the log, beside those of the steps.
    """

    model: LanguageModel
    experience: Experience
    plan: Plan = Plan()
    seed: int = 0
    seen: int = 0
    step: int = 0
    factor: float | None = None
    place: tuple[int, ...] = ()
    before: Tensors = field(default_factory=dict, repr=False, compare=False)
    after: Tensors = field(default_factory=dict, repr=False, compare=False)
    note: Callable[[Mapping[str, float]], None] = field(default=lambda numbers: None, repr=False, compare=False)

    def rng(self, purpose: str = "") -> torch.Generator:
        """A fresh random source; the same one whenever the same method asks at the same point of the same run."""
        return generator(self.seed, self.seen, self.experience.name, self.step, purpose, *self.place)

    def fell(self, last: float) -> bool:
        """Whether this step's learning rate is below that of the step before it, of which `last` was the factor.

        Raises:
            MethodError: if another library's loop decides the rate.
        """
        if self.factor is None:
            raise MethodError(
                "a method goes by the learning rate, which another library's loop does not tell. Learn with "
                "`everlearn.learn`, or leave out what needs it: StableBranch, EMA(annealing=True)."
            )
        return self.factor < last

    def trainable(self) -> dict[str, Tensor]:
        """The parameters that learn, by name."""
        return self.model.trainable()

    def batches(self, examples: Sequence[Example], batch_size: int | None = None) -> Iterator[Batch]:
        """The examples as batches of the experience's objective, in the given order."""
        plan = replace(self.plan, seed=None, start=0, batch_size=batch_size or self.plan.batch_size)
        for step in self.experience.objective.steps(self.model, examples, plan):
            yield from step.batches

    def loss(self, batch: Batch) -> Tensor:
        """The objective's mean loss on a batch, a differentiable scalar in nats per token."""
        return self.experience.objective.loss(self.model, batch)

    def grads(self, loss: Tensor) -> dict[str, Tensor]:
        """Gradient of a scalar by parameter name; nobody's `.grad` is touched. Zero where it does not depend."""
        parameters = self.trainable()
        found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        pairs = zip(parameters.items(), found, strict=True)
        return {name: torch.zeros_like(p) if g is None else g for (name, p), g in pairs}


class Method:
    """What fights forgetting. Subclass as a frozen dataclass and override the hooks you need.

    Memory is plain data: see `everlearn.types.Memory`.

    `shardings` says how parameters may lie while the method acts: "replicated" and "sharded", see
    `everlearn.models.parallel`. None stands for both where `data` alone is overridden, and otherwise for "replicated",
    under which every process has the whole of each parameter and gradient.

    `reads_batch` says whether `loss` depends on the batch it is given. Where it does not, the term is computed once in
    an optimiser step, however many forward passes the step has.

    `needs_task` says whether the model has to be told at inference which experience a prompt belongs to, and
    `needs_boundaries` whether an experience may hold none of another's rows, as a blurry stream's do. Whatever does
    not need them takes the stream as it is cut: an experience is then a stretch of it, and no task.

    `forgets_apart` says why experiences that share nothing are forgotten nevertheless, where neither parameters are
    shaped nor weights set; empty where they are not. See `everlearn.testing.calibration`.

    `keeps` and `computes` say in a few words what a method costs, for the table of methods: bytes of memory, and what
    is done beside plain learning. P numbers learn of N in all; an example is its text; r is a rank, in and out are a
    layer's widths, T the tokens of an example, D the model's width.
    """

    keeps: ClassVar[str] = ""
    computes: ClassVar[str] = ""

    shardings: ClassVar[frozenset[str] | None] = None
    reads_batch: ClassVar[bool] = True
    needs_task: ClassVar[bool] = False
    needs_boundaries: ClassVar[bool] = False
    forgets_apart: ClassVar[str] = ""

    def init(self, model: LanguageModel) -> Memory:
        """The memory before anything was learned."""
        return None

    def begin(self, memory: Memory, ctx: Context) -> Memory:
        """Moment before an experience is learned; the model is still the last version."""
        return memory

    def step(self, memory: Memory, grads: Tensors, update: Tensors, ctx: Context) -> Memory:
        """Moment after each optimiser step.

        Args:
            memory: the method's.
            grads: the objective's own gradient at the weights before the step, penalties apart.
            update: by how much each parameter moved.
            ctx: the moment.
        """
        return memory

    def end(self, memory: Memory, ctx: Context) -> Memory:
        """Moment after an experience is learned."""
        return memory

    def data(self, memory: Memory, examples: Sequence[Example], ctx: Context) -> Sequence[Example]:
        """Side: the examples to learn from; asked for at the beginning of each epoch, of which `ctx.step` tells."""
        return examples

    def params(self, memory: Memory, model: LanguageModel) -> LanguageModel:
        """Side: the parameters, and which of them learn.

        The one hook that touches a module. It rebuilds saved versions, so it has to be deterministic and idempotent;
        what it draws at random it draws from torch's default generator, which the learner has seeded.
        """
        return model

    def start(self, memory: Memory, weights: Tensors, ctx: Context) -> Tensors:
        """Side: the weights that training starts from, by name, from those of the last version.

        Called after `begin`. Names that do not learn now, or that are missing, stay as they are.
        """
        return weights

    def loss(self, memory: Memory, batch: Batch, ctx: Context) -> Tensor | float:
        """Side: a term added to the objective's loss; a differentiable scalar."""
        return 0.0

    def grad(self, memory: Memory, grads: Tensors, ctx: Context) -> Tensors:
        """Side: the gradient of objective and penalties, before clipping."""
        return grads

    def update(self, memory: Memory, update: Tensors, ctx: Context) -> Tensors:
        """Side: by how much the optimiser would move each parameter; the model still holds the weights before it."""
        return update

    def merge(self, memory: Memory, before: Tensors, after: Tensors, ctx: Context) -> Tensors:
        """Side: the weights to keep, from those before and those after the experience."""
        return after


HOOKS = ("init", "begin", "step", "end", "data", "params", "start", "loss", "grad", "update", "merge")


@dataclass(frozen=True)
class Chain(Method):
    """Several methods as one: sides from left to right, loss terms summed, each with its own memory.

    Args:
        methods: the members; none of them a chain (`chain` flattens).
    """

    methods: tuple[Method, ...] = ()

    def init(self, model: LanguageModel) -> Memory:
        """Each member's own memory."""
        return [m.init(model) for m in self.methods]

    def begin(self, memory: Memory, ctx: Context) -> Memory:
        """Each member begins."""
        return [m.begin(mine, here) for m, mine, here in self._members(memory, ctx)]

    def step(self, memory: Memory, grads: Tensors, update: Tensors, ctx: Context) -> Memory:
        """Each member sees the step."""
        return [m.step(mine, grads, update, here) for m, mine, here in self._members(memory, ctx)]

    def end(self, memory: Memory, ctx: Context) -> Memory:
        """Each member ends; it sees the weights after the experience as those to its left merge them."""
        ended, after = list[Memory](), ctx.after
        last = max((i for i, m in enumerate(self.methods) if "merge" in overrides(m)), default=0)
        for m, mine, here in self._members(memory, ctx):
            ended.append(m.end(mine, replace(here, after=after)))
            if "merge" in overrides(m) and len(ended) <= last:
                after = m.merge(ended[-1], ctx.before, after, replace(here, after=after))
        return ended

    def data(self, memory: Memory, examples: Sequence[Example], ctx: Context) -> Sequence[Example]:
        """Left to right."""
        for m, mine, here in self._members(memory, ctx):
            examples = m.data(mine, examples, here)
        return examples

    def params(self, memory: Memory, model: LanguageModel) -> LanguageModel:
        """Left to right.

        Raises:
            MethodError: if the memory is another chain's.
        """
        if len(memory) != len(self.methods):
            raise MethodError(
                f"the version remembers for {len(memory)} methods, and this chain has {len(self.methods)}: {self}. "
                "Restore a version with the method that it was learned with."
            )
        for m, mine in zip(self.methods, memory, strict=True):
            model = m.params(mine, model)
        return model

    def start(self, memory: Memory, weights: Tensors, ctx: Context) -> Tensors:
        """Left to right."""
        for m, mine, here in self._members(memory, ctx):
            weights = m.start(mine, weights, here)
        return weights

    def loss(self, memory: Memory, batch: Batch, ctx: Context) -> Tensor | float:
        """The sum of the members' terms."""
        return sum((self.penalty(memory, batch, ctx, reads) for reads in (True, False)), start=0.0)

    def penalty(self, memory: Memory, batch: Batch, ctx: Context, reads_batch: bool) -> Tensor | float:
        """The sum of the terms that depend on the batch, or of those that do not; see `Method.reads_batch`."""
        members = [(m, mine, here) for m, mine, here in self._members(memory, ctx) if "loss" in overrides(m)]
        return sum((m.loss(mine, batch, here) for m, mine, here in members if m.reads_batch is reads_batch), start=0.0)

    def grad(self, memory: Memory, grads: Tensors, ctx: Context) -> Tensors:
        """Left to right."""
        for m, mine, here in self._members(memory, ctx):
            grads = m.grad(mine, grads, here)
        return grads

    def update(self, memory: Memory, update: Tensors, ctx: Context) -> Tensors:
        """Left to right."""
        for m, mine, here in self._members(memory, ctx):
            update = m.update(mine, update, here)
        return update

    def merge(self, memory: Memory, before: Tensors, after: Tensors, ctx: Context) -> Tensors:
        """Left to right; each sees the same weights before."""
        for m, mine, here in self._members(memory, ctx):
            after = m.merge(mine, before, after, here)
        return after

    def _members(self, memory: Memory, ctx: Context) -> Iterator[tuple[Method, Memory, Context]]:
        for place, (method, mine) in enumerate(zip(self.methods, memory, strict=True)):
            yield method, mine, replace(ctx, place=(place,))


def chain(*methods: Method) -> Chain:
    """Compose methods. Associative; `chain()` is plain sequential fine-tuning, `chain(a)` does what `a` does."""
    flat: list[Method] = []
    for method in methods:
        flat.extend(method.methods if isinstance(method, Chain) else [method])
    return Chain(tuple(flat))


def overrides(method: Method | type[Method]) -> frozenset[str]:
    """The hooks that a method, its class, or any member of a chain changes."""
    if isinstance(method, Chain):
        return frozenset().union(*(overrides(m) for m in method.methods))
    kind = method if isinstance(method, type) else type(method)
    return frozenset(h for h in HOOKS if getattr(kind, h) is not getattr(Method, h))


def members(method: Method) -> tuple[Method, ...]:
    """The members of a chain, or the method alone."""
    return method.methods if isinstance(method, Chain) else (method,)
