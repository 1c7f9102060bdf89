"""Importances by hand: a path integral, a sensitivity, a score; and what they hold in place."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from everlearn.errors import ConfigError
from everlearn.learner import Learner, learn
from everlearn.method import Context, Method, Tensors, chain
from everlearn.methods.adapters import LoRA
from everlearn.methods.importance import MAS, SI, RWalk
from everlearn.testing.laws import RECIPE, learned
from everlearn.testing.toys import toy_model, toy_stream
from everlearn.types import Memory, State
from tests.methods.late import Late
from tests.methods.plane import Plane, at, descend, penalty, plane


def numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def walk(method: Method, model: Plane, steps: list[tuple[Tensor, Tensor]]) -> Memory:
    """The memory after an experience of the given gradients and updates."""
    memory = method.begin(None, at(model))
    for number, (grad, update) in enumerate(steps):
        model.move(*update.tolist())
        memory = method.step(memory, {"w": grad}, {"w": update}, at(model, step=number))
    return method.end(memory, at(model, step=len(steps)))


STEPS = [(numbers(2, 1), numbers(-1, 0.5)), (numbers(1, 1), numbers(-0.5, 0.5))]
"""Down 1/2 w^2 from 2 to 1/2 at rate 1/2; and up a slope of 1 by 1."""


def test_a_path_integral_by_hand() -> None:
    # omega = 2 * 1 + 1 * 0.5 = 2.5 over Delta = -1.5, and -1 * 0.5 - 1 * 0.5 = -1 over Delta = 1; xi = 0.25:
    # 2.5 / (2.25 + 0.25) = 1 and -1 / (1 + 0.25) = -0.8.
    paper = walk(SI(damping=0.25, scaled=False), plane(2, 0), STEPS)
    assert paper["importance"]["w"].tolist() == pytest.approx([1.0, -0.8])
    repo = walk(SI(damping=0.25, scaled=False, formula="repo"), plane(2, 0), STEPS)
    assert repo["importance"]["w"].tolist() == pytest.approx([1.0, 0.0])


def test_scaled_damping_is_in_units_of_the_mean_square_movement() -> None:
    # The mean of 2.25 and 1 is 1.625: xi = 0.8 * 1.625 = 1.3.
    found = walk(SI(damping=0.8), plane(2, 0), STEPS)["importance"]["w"]
    assert found.tolist() == pytest.approx([2.5 / 3.55, -1 / 2.3])
    thousandth = [(1000 * g, u / 1000) for g, u in STEPS]  # another unit of length: Omega is in nats per its square
    small = walk(SI(damping=0.8), plane(2e-3, 0), thousandth)["importance"]["w"]
    assert small.tolist() == pytest.approx([1e6 * t for t in found.tolist()])


def test_the_path_integral_of_small_steps_is_the_loss_saved() -> None:
    curvature, model, steps = numbers(4, 1), plane(1, -2), []
    where = model.weight.detach().clone()
    for _ in range(2000):
        grad = curvature * where
        steps.append((grad, -1e-3 * grad))
        where = where - 1e-3 * grad
    memory = walk(SI(strength=1.0, damping=1e-9), model, steps)
    saved = (curvature * (numbers(1, -2) ** 2 - where**2)).sum() / 2
    model.move(*(numbers(1, -2) - where).tolist())  # back to where the experience began
    begun = SI().begin(memory, at(plane(*where.tolist()), seen=1))
    value, _ = penalty(SI(), begun, model)
    assert value == pytest.approx(float(saved), rel=3e-3)


def test_si_reaches_the_optimum_of_task_and_penalty() -> None:
    # 1/2 (1, 3) (w - (-1, 5))^2 + 2 Omega (w - (1, 1))^2 with Omega = (1, 0.25): curvatures 1 and 4, then 3 and 1.
    model, memory = plane(1, 1), {"anchor": {"w": numbers(1, 1)}, "importance": {"w": numbers(1, 0.25)}}
    descend(model, SI(strength=2.0), memory, numbers(1, 3), numbers(-1, 5))
    assert model.weight.tolist() == pytest.approx([(-1 + 4) / 5, (15 + 1) / 4], abs=1e-6)


def test_mas_reaches_the_optimum_of_task_and_penalty() -> None:
    # As above; the mean over two weights halves the penalty, so that twice the strength is the same.
    model, memory = plane(1, 1), {"anchor": {"w": numbers(1, 1)}, "importance": {"w": numbers(1, 0.25)}}
    descend(model, MAS(strength=4.0), memory, numbers(1, 3), numbers(-1, 5))
    assert model.weight.tolist() == pytest.approx([(-1 + 4) / 5, (15 + 1) / 4], abs=1e-6)
    assert penalty(MAS(strength=3.0, scaled=False), memory, plane(2, 3)) == (3 * (1 + 0.25 * 4), [6.0, 3.0])


def test_mas_is_the_mean_absolute_gradient_of_the_squared_length_of_centred_logits() -> None:
    ctx = Context(toy_model(), toy_stream().experiences[0])
    found = MAS(samples=100, scaled=False).end(MAS().begin(None, ctx), ctx)["importance"]
    by_hand = {n: torch.zeros_like(p) for n, p in ctx.trainable().items()}
    for example in ctx.experience.train:
        (batch,) = ctx.batches([example])
        logits = ctx.model.module(input_ids=batch.tokens).logits[:, :-1][batch.supervised[:, 1:]]
        length = ((logits - logits.mean(-1, keepdim=True)) ** 2).sum()
        for name, grad in ctx.grads(length).items():
            by_hand[name] += grad.abs() / len(ctx.experience.train)
    for name, value in found.items():
        torch.testing.assert_close(value, by_hand[name], rtol=1e-9, atol=1e-12)


def test_mas_scaled_has_mean_one_in_each_experience() -> None:
    first, second, _ = (Context(toy_model(), e, seen=i) for i, e in enumerate(toy_stream()))
    memory = MAS(samples=3).begin(None, first)
    for number, ctx in enumerate((first, second), 1):
        memory = MAS(samples=3).end(memory, ctx)
        kept = memory["importance"].values()
        assert float(sum(t.sum() for t in kept)) / sum(t.numel() for t in kept) == pytest.approx(number)


def test_a_walks_fisher_and_score_by_hand() -> None:
    # F: 4 and 1, then 1/2 * 1 + 1/2 * 4 = 2.5 and 1/2 * 1 + 1/2 * 1 = 1.
    # One interval of two steps: 2.5 / (2.5 * 2.25 / 2 + 0.5) and -1, which counts as 0.
    # To [0, 1] by the largest: F to (1, 0.4), s to (1, 0).
    method = RWalk(alpha=0.5, interval=2, damping=0.5, scaled=False)
    memory = walk(method, plane(2, 0), STEPS)
    assert memory["fisher"]["w"].tolist() == pytest.approx([2.5, 1.0])
    assert memory["score"]["w"].tolist() == pytest.approx([2.5 / 3.3125, 0.0])
    assert memory["importance"]["w"].tolist() == pytest.approx([2.0, 0.4])


@pytest.mark.parametrize(("interval", "score"), [(1, 2 / 2.5 + 0.5 / 0.8125), (2, 2.5 / 3.3125), (5, 2.5 / 3.3125)])
def test_a_walk_is_scored_by_interval_and_its_rest_counts(interval: int, score: float) -> None:
    # One by one: 2 / (4 / 2 + 0.5) + 0.5 / (2.5 * 0.25 / 2 + 0.5); together as above, full or not.
    found = walk(RWalk(alpha=0.5, interval=interval, damping=0.5, scaled=False), plane(2, 0), STEPS)
    assert found["score"]["w"].tolist() == pytest.approx([score, 0.0])


def test_a_walk_averages_its_scores_and_its_fisher_goes_on() -> None:
    method, model = RWalk(alpha=0.5, interval=2, damping=0.5, scaled=False), plane(2, 0)
    first = walk(method, model, STEPS)
    memory = method.begin(first, at(model, seen=1))
    memory = method.step(memory, {"w": numbers(1, 3)}, {"w": numbers(-1, -1)}, at(model, seen=1))
    second = method.end(memory, at(model, seen=1, step=1))
    # F: 1/2 * 1 + 1/2 * 2.5 = 1.75 and 1/2 * 9 + 1/2 * 1 = 5; scores 1 / (0.875 + 0.5) and 3 / (2.5 + 0.5).
    assert second["fisher"]["w"].tolist() == pytest.approx([1.75, 5.0])
    assert second["score"]["w"].tolist() == pytest.approx([(2.5 / 3.3125 + 1 / 1.375) / 2, (0 + 1) / 2])


def test_a_scaled_walk_gives_fisher_and_score_the_same_weight() -> None:
    weight = walk(RWalk(interval=1), plane(2, 0), STEPS)["importance"]["w"]
    assert float(weight.mean()) == pytest.approx(2.0)


METHODS: list[Any] = [SI(formula="repo"), MAS(samples=4), RWalk(interval=2)]


def between(method: Method) -> tuple[Context, Memory]:
    """At the beginning of a second experience."""
    learner, stream, model = Learner("toy", method, RECIPE, 0), toy_stream(), toy_model()
    state = learn(learner, model, learner.start(model), stream.experiences[0])
    ctx = Context(model, stream.experiences[1], seen=1)
    return ctx, chain(method).begin(state.memory, ctx)


@pytest.mark.parametrize("adapters", [(), (LoRA(rank=2),)], ids=["full", "LoRA"])
@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_the_penalty_is_zero_at_the_anchor(method: Method, adapters: tuple[Method, ...]) -> None:
    ctx, memory = between(chain(*adapters, method))
    assert memory[-1]["importance"].keys() == ctx.trainable().keys()
    assert any(t.any() for t in memory[-1]["importance"].values())
    term = method.loss(memory[-1], next(ctx.batches(ctx.experience.train)), ctx)
    assert isinstance(term, Tensor)
    assert float(term.detach()) == 0
    assert not any(g.any() for g in ctx.grads(term).values())


def movement(method: Method, adapters: tuple[Method, ...], weight: Tensors) -> float:
    """The weighted drift of the second experience, learned for long enough that the penalty is felt."""
    learner, stream, model = Learner("toy", chain(*adapters, method), RECIPE, 0), toy_stream(), toy_model()
    first = learn(learner, model, learner.start(model), stream.experiences[0])
    second = learn(replace(learner, recipe=replace(RECIPE, epochs=6)), model, first, stream.experiences[1])
    return float(sum((weight[n] * (second.weights[n] - w) ** 2).sum() for n, w in first.weights.items()))


@pytest.mark.parametrize("adapters", [(), (LoRA(rank=2),)], ids=["full", "LoRA"])
@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_what_is_important_moves_less(method: Any, adapters: tuple[Method, ...]) -> None:
    _, memory = between(chain(*adapters, method))
    weight = memory[-1]["importance"]
    free, held = (movement(replace(method, strength=s), adapters, weight) for s in (0.0, 1e3 * method.strength))
    assert held < 0.5 * free


@pytest.mark.parametrize(
    ("method", "kept", "during"), [(SI(), 2, 3), (MAS(samples=2), 2, 2), (RWalk(), 4, 7)], ids=["SI", "MAS", "RWalk"]
)
def test_memory_is_what_the_docstring_says(method: Method, kept: int, during: int) -> None:
    learner, stream, model = Learner("toy", method, RECIPE, 0), toy_stream(), toy_model()
    state: State = learner.start(model)
    for experience in stream:
        state = learn(learner, model, state, experience)
        size = sum(p.nbytes for p in model.trainable().values())
        assert bytes_of(state.memory) == kept * size
    ctx = Context(model, stream.experiences[0], seen=3)
    memory = method.begin(state.memory[0], ctx)
    here = {n: p.detach() for n, p in ctx.trainable().items()}
    for step in range(12):
        memory = method.step(memory, here, here, replace(ctx, step=step))
    assert bytes_of(memory) <= during * size


def bytes_of(memory: Any) -> int:
    if isinstance(memory, Tensor):
        return memory.nbytes
    parts = memory.values() if isinstance(memory, dict) else memory if isinstance(memory, list) else ()
    return sum(bytes_of(part) for part in parts)


@pytest.mark.parametrize(
    ("kind", "arguments", "says"),
    [
        (SI, {"strength": -1.0}, "strength is 0 or more"),
        (SI, {"damping": 0.0}, "damping is more than 0"),
        (MAS, {"samples": 0}, "samples is 1 or more"),
        (RWalk, {"alpha": 0.0}, r"alpha is in \(0, 1\]"),
        (RWalk, {"interval": 0}, "interval 1 or more"),
        (RWalk, {"damping": -0.1}, "damping is more than 0"),
    ],
)
def test_numbers_without_a_meaning_are_refused(kind: Any, arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        kind(**arguments)


@pytest.mark.parametrize("method", [*METHODS, SI(), RWalk(interval=100)], ids=str)
def test_parameters_may_join_after_the_experience_began(method: Any) -> None:
    state = learned(chain(Late(), method))
    assert all(name.endswith((".A", ".B")) for name in state.weights)
    assert all(w.isfinite().all() for w in state.weights.values())
