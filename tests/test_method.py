"""The algebra: chaining is associative, flat, and costs nothing where nothing is overridden."""

from dataclasses import dataclass, replace

import pytest
import torch

from everlearn.errors import MethodError
from everlearn.examples import Batch
from everlearn.method import (
    HOOKS,
    Chain,
    Context,
    Method,
    Tensors,
    chain,
    overrides,
)
from everlearn.methods.adapters import LoRA
from everlearn.methods.anchors import EWC, L2SP
from everlearn.methods.replay import Replay
from everlearn.testing.toys import toy_model, toy_stream
from everlearn.types import Memory


@dataclass(frozen=True)
class Constant(Method):
    """Adds a constant to the loss."""

    value: float = 1.0

    def loss(self, memory: Memory, batch: Batch, ctx: Context) -> float:
        return self.value


def context() -> Context:
    return Context(toy_model(), toy_stream().experiences[0])


def test_chaining_is_associative() -> None:
    a, b, c = LoRA(), Replay(), EWC()
    assert chain(a, chain(b, c)) == chain(chain(a, b), c) == chain(a, b, c)
    assert chain(chain(), a) == chain(a)


def test_the_empty_chain_overrides_nothing() -> None:
    assert overrides(chain()) == frozenset()
    assert overrides(Method()) == frozenset()


def test_a_chain_overrides_what_its_members_do() -> None:
    assert overrides(LoRA()) == {"params"}
    assert overrides(chain(LoRA(), L2SP())) == {"params", "begin", "loss"}
    assert overrides(Replay) <= set(HOOKS)


def test_loss_terms_are_summed() -> None:
    method = chain(Constant(1.0), LoRA(), Constant(2.5))
    ctx = context()
    batch = next(ctx.batches(ctx.experience.train))
    assert method.loss(method.init(ctx.model), batch, ctx) == 3.5


def test_members_draw_differently_and_each_the_same_again() -> None:
    ctx = context()
    first, second = (Context(ctx.model, ctx.experience, place=(i,)) for i in range(2))
    draws = [torch.rand(1, generator=c.rng()).item() for c in (first, second, first)]
    assert draws[0] == draws[2] != draws[1]


def test_grads_leave_no_trace() -> None:
    ctx = context()
    batch = next(ctx.batches(ctx.experience.train))
    grads = ctx.grads(ctx.loss(batch))
    assert set(grads) == set(ctx.trainable())
    assert all(p.grad is None for p in ctx.trainable().values())
    assert Chain() == chain()


@dataclass(frozen=True)
class Plus(Method):
    """Adds to the merged weights, and remembers what it was shown at the end."""

    amount: float

    def end(self, memory: Memory, ctx: Context) -> Memory:
        return {"shown": dict(ctx.after)}

    def merge(self, memory: Memory, before: Tensors, after: Tensors, ctx: Context) -> Tensors:
        return {name: w + self.amount for name, w in after.items()}


def test_members_end_with_the_weights_that_those_to_their_left_merge() -> None:
    ctx = replace(context(), after={"w": torch.zeros(1)})
    method = chain(Plus(1.0), LoRA(), Plus(10.0), LoRA())
    memory = method.end([None] * 4, ctx)
    assert [float(m["shown"]["w"]) for m in (memory[0], memory[2])] == [0.0, 1.0]
    assert float(method.merge(memory, {}, ctx.after, ctx)["w"]) == 11.0


def test_a_version_of_another_chain_is_refused_in_words() -> None:
    model, pair = toy_model(), chain(LoRA(rank=2), EWC())
    with pytest.raises(MethodError, match="remembers for 2 methods, and this chain has 0"):
        chain().params(pair.init(model), model)
