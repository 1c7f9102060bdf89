"""The algebra: chaining is associative, flat, and costs nothing where nothing is overridden."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch

from everlearn.errors import MethodError
from everlearn.examples import Batch, Example
from everlearn.method import (
    HOOKS,
    Chain,
    Context,
    Method,
    Tensors,
    chain,
    overrides,
    require_scenario,
    require_sharding,
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
class Shuffled(Method):
    """Overrides `data` alone."""

    def data(self, memory: Memory, examples: Sequence[Example], ctx: Context) -> Sequence[Example]:
        return list(reversed(examples))


def test_a_method_is_held_to_replicated_parameters_unless_it_says_more() -> None:
    for method in (chain(), Shuffled(), LoRA(), Replay(), chain(LoRA(), Replay(), Shuffled())):
        require_sharding(method, "replicated")
        require_sharding(method, "sharded")
    require_sharding(EWC(), "replicated")
    with pytest.raises(MethodError, match=r"EWC\(.* needs parameters replicated, and this launch has them sharded"):
        require_sharding(chain(LoRA(), EWC()), "sharded")


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


@dataclass(frozen=True)
class Told(Method):
    """Needs to be told."""

    needs_task: ClassVar[bool] = True


def test_a_method_that_has_to_be_told_is_refused_where_the_scenario_does_not_tell() -> None:
    require_scenario(chain(Told(), LoRA()), "task")
    require_scenario(chain(LoRA(), Replay()), "class")
    for method in (Told(), chain(LoRA(), Told())):
        with pytest.raises(MethodError, match=r"Told\(\) has to be told .* a class-incremental stream"):
            require_scenario(method, "class")
