"""Branches from the trunk of a stable learning rate: by hand on two numbers, and over experiences on the toy."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from everlearn.errors import Interrupted, MethodError
from everlearn.learner import Learner, learn
from everlearn.method import Context, Method, chain
from everlearn.methods.adapters import LoRA
from everlearn.methods.annealing import StableBranch
from everlearn.methods.averaging import EMA
from everlearn.models.optim import AdamW, Recipe
from everlearn.models.schedules import Schedule
from everlearn.testing.toys import toy_model, toy_stream
from everlearn.types import State
from everlearn.watch import Watch
from everlearn.weights import equal

FIRST, SECOND, _ = toy_stream()
WSD = Schedule("wsd", warmup=0.0, decay=0.5, rewarm=False)
RECIPE = Recipe(AdamW(learning_rate=1e-2), WSD, batch_size=2, length=64, tokens=4096)


def through(method: Method, factors: list[float]) -> Any:
    """The memory after steps by 1, 2, 4, 8, ... from the weight 100."""
    ctx = Context(toy_model(), FIRST, before={"w": torch.tensor([100.0])})
    memory = method.begin(method.init(ctx.model), ctx)
    for number, factor in enumerate(factors):
        update = {"w": torch.tensor([2.0**number])}
        memory = method.step(memory, update, update, replace(ctx, factor=factor))
    return method.end(memory, ctx)


@pytest.mark.parametrize(
    ("factors", "trunk"),
    [
        ([0.5, 1.0, 1.0, 0.5, 0.1], 100 + 1 + 2 + 4),  # warm-up, stable, decay
        ([1.0, 0.6, 0.6, 0.3], 100 + 1 + 2 + 4),  # a cooldown to a constant is the trunk's, the last fall is not
        ([1.0, 1.0], 100 + 1 + 2),  # a rate that never falls
        ([], 100),
    ],
)
def test_the_trunk_ends_where_the_last_fall_begins(factors: list[float], trunk: float) -> None:
    assert through(StableBranch(), factors)["trunk"]["w"].tolist() == [trunk]


def test_the_average_of_the_annealing_is_that_of_the_last_fall() -> None:
    # Weights move by 1, 2, 4, 8, 16, and the last two steps fall: (15 + 31) / 2.
    found = through(EMA(decay=1.0, annealing=True), [0.5, 1.0, 1.0, 0.5, 0.1])
    assert found["average"]["w"].tolist() == [23.0]
    assert through(EMA(decay=1.0), [0.5, 1.0, 1.0, 0.5, 0.1])["average"]["w"].item() == pytest.approx(
        (1 + 3 + 7 + 15 + 31) / 5
    )
    assert through(EMA(decay=1.0, annealing=True), [1.0, 1.0])["average"] == {}


def learned(method: Method, recipe: Recipe = RECIPE, experiences: Any = (FIRST, SECOND)) -> list[State]:
    learner, model = Learner("toy", method, recipe), toy_model()
    states = [learner.start(model)]
    for experience in experiences:
        states.append(learn(learner, model, states[-1], experience))
    return states


def near(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.allclose(one[n], other[n], rtol=0, atol=1e-12) for n in other)


def test_the_branch_is_kept_and_the_next_experience_begins_at_the_trunk() -> None:
    first, second = learned(StableBranch())[1:]
    plain = learned(chain(), experiences=(FIRST,))[1]
    assert equal(dict(first.weights), dict(plain.weights))  # the first version is plain fine-tuning's
    trunk = first.memory[0]["trunk"]
    assert not near(trunk, dict(first.weights))
    learner, model = Learner("toy", chain(), RECIPE), toy_model()
    begun = State({**first.weights, **trunk}, [], ("letters",))
    model.assign(begun.weights)
    assert near(dict(learn(learner, model, begun, SECOND).weights), dict(second.weights))


def test_a_trunk_of_a_constant_rate_is_plain_fine_tuning() -> None:
    recipe = replace(RECIPE, schedule=Schedule("constant", warmup=0.0))
    branch, plain = learned(StableBranch(), recipe)[-1], learned(chain(), recipe)[-1]
    assert near(dict(branch.weights), dict(plain.weights))


def test_the_trunk_is_what_training_without_the_decay_had_come_to() -> None:
    # Six steps, of which three decay: the trunk is where three steps at the full rate lead.
    trunk = learned(StableBranch(), experiences=(FIRST,))[1].memory[0]["trunk"]
    visited: list[dict[str, Tensor]] = []
    learner, model = Learner("toy", chain(), replace(RECIPE, schedule=Schedule("constant", warmup=0.0))), toy_model()

    def note(row: dict[str, Any]) -> None:
        visited.append({n: p.detach().clone() for n, p in model.trainable().items()})

    learn(learner, model, learner.start(model), FIRST, Watch(log=note))
    assert len(visited) == 6
    assert near(trunk, visited[2])


def test_a_trunk_with_an_average_of_its_branch_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    method = chain(LoRA(rank=2), StableBranch(), EMA(decay=1.0, annealing=True))
    learner = Learner("toy", method, RECIPE)
    first, straight = learned(method)[1:]
    for stop_after in (1, 2, 3):
        asked = iter([False] * (stop_after - 1) + [True])
        watch = Watch(tmp_path / str(stop_after), stop=lambda asked=asked: next(asked))  # type: ignore[misc]
        with pytest.raises(Interrupted):
            learn(learner, learner.restore(toy_model(), first), first, SECOND, watch)
        model = learner.restore(toy_model(), first)
        resumed = learn(learner, model, first, SECOND, Watch(tmp_path / str(stop_after)))
        assert equal(dict(straight.weights), dict(resumed.weights))
        assert equal(straight.memory[1]["trunk"], resumed.memory[1]["trunk"])


def test_where_the_rate_is_not_told_a_method_that_goes_by_it_is_refused() -> None:
    ctx = Context(toy_model(), FIRST)
    for method in (StableBranch(), EMA(annealing=True)):
        with pytest.raises(MethodError, match="goes by the learning rate"):
            method.step(method.begin(method.init(ctx.model), ctx), {}, {}, ctx)
