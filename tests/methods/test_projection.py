"""Projections by hand: GEM solves its quadratic programme exactly, and what moves obeys every constraint."""

from dataclasses import dataclass, replace
from itertools import product
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from everlearn.errors import ConfigError
from everlearn.learner import Learner, learn
from everlearn.method import Context, Method, Tensors, chain
from everlearn.methods.projection import AGEM, GEM, _dot, _gradient, nonnegative_minimum, without_rise
from everlearn.models.language_model import LanguageModel
from everlearn.models.optim import AdamW, Recipe
from everlearn.testing.toys import toy_model, toy_stream
from everlearn.types import Memory, State

RECIPE = Recipe(AdamW(learning_rate=1e-2, weight_decay=0.1), batch_size=4, length=64, tokens=4096, epochs=2)


def vector(*values: float) -> dict[str, Tensor]:
    return {"w": torch.tensor(values, dtype=torch.float64)}


def solved(method: GEM, g: Tensors, past: list[dict[str, Tensor]]) -> Tensor:
    return method._projected(g, past, [1.0] * len(past))["w"]


def test_one_violated_constraint_by_hand() -> None:
    # g = (1, 1), g_1 = (-2, 0): <g, g_1> = -2 < 0. v = 2 / 4 = 0.5, x = (1, 1) + 0.5 (-2, 0) = (0, 1).
    assert solved(GEM(), vector(1, 1), [vector(-2, 0)]).tolist() == pytest.approx([0, 1])


def test_two_violated_constraints_by_hand() -> None:
    # g = (-1, -1) against (1, 0) and (0, 1): v = (1, 1), x = (0, 0).
    assert solved(GEM(), vector(-1, -1), [vector(1, 0), vector(0, 1)]).tolist() == pytest.approx([0, 0])
    # Against (1, 0) and (1, 1): the second alone gives v = 2 / 2 = 1, x = (0, 0); the first then holds with equality.
    assert solved(GEM(), vector(-1, -1), [vector(1, 0), vector(1, 1)]).tolist() == pytest.approx([0, 0], abs=1e-15)


def test_a_constraint_that_another_makes_needless_gets_no_weight() -> None:
    # g = (-1, 2) against (1, 0) and (2, 1): the products are -1 and 0. v = (1, 0): x = (0, 2), <x, (2, 1)> = 2 >= 0.
    assert solved(GEM(), vector(-1, 2), [vector(1, 0), vector(2, 1)]).tolist() == pytest.approx([0, 2])


def test_a_constraint_that_holds_at_first_may_bind_in_the_solution() -> None:
    # g = (-1, 0.5) against a = (1, 0) and b = (1, -2), as <g, b> = -2; a alone: x = (0, 0.5), <x, b> = -1 < 0, so both
    # bind, and two constraints that are independent leave x = (0, 0).
    assert solved(GEM(), vector(-1, 0.5), [vector(1, 0), vector(1, -2)]).tolist() == pytest.approx([0, 0], abs=1e-15)


def test_the_papers_margin_is_added_and_the_repositorys_bounds() -> None:
    # g = (-1, 0), g_1 = (1, 0): v* = 1. Paper: v = 1 + 0.5, x = (0.5, 0). Repo: v >= 0.5 is met by 1, x = (0, 0).
    g, past = vector(-1, 0), [vector(1, 0)]
    assert solved(GEM(margin=0.5), g, past).tolist() == pytest.approx([0.5, 0])
    assert solved(GEM(margin=0.5, formula="repo"), g, past).tolist() == pytest.approx([0, 0])
    # With a second, (0, 1), of product 0: paper v = (1.5, 0.5), x = (0.5, 0.5); repo v = (1, 0.5), x = (0, 0.5).
    past = [vector(1, 0), vector(0, 1)]
    assert solved(GEM(margin=0.5), g, past).tolist() == pytest.approx([0.5, 0.5])
    assert solved(GEM(margin=0.5, formula="repo"), g, past).tolist() == pytest.approx([0, 0.5])


def test_nothing_changes_where_no_constraint_is_violated() -> None:
    g = vector(1, 2)
    assert GEM(margin=0.5)._projected(g, [vector(1, 0), vector(0, 1)], [1.0, 1.0]) is g


@pytest.mark.parametrize("formula", ["paper", "repo"])
@pytest.mark.parametrize("count", [3, 8, 30])
def test_random_constraints_all_hold(count: int, formula: Any) -> None:
    rng = torch.Generator().manual_seed(count)
    for _ in range(20):
        g, *past = ({"w": torch.randn(40, dtype=torch.float64, generator=rng)} for _ in range(count + 1))
        found = solved(GEM(formula=formula, margin=0.5 if formula == "repo" else 0.0), g, past)
        assert min(float(found @ p["w"]) for p in past) >= -1e-12


def test_more_constraints_than_dimensions_and_repeated_ones_all_hold() -> None:
    rng = torch.Generator().manual_seed(0)
    for count in (5, 12):
        past = [{"w": torch.randn(4, dtype=torch.float64, generator=rng) + 0.5} for _ in range(count)]
        near = [{"w": p["w"] * 3 + 1e-12 * torch.randn(4, dtype=torch.float64, generator=rng)} for p in past]
        g = {"w": torch.randn(4, dtype=torch.float64, generator=rng) - 1}
        found = solved(GEM(), g, [*past, *past, *near])
        assert min(float(found @ p["w"]) for p in past) >= -1e-11


def by_enumeration(gram: Tensor, slopes: Tensor) -> Tensor:
    """The least value over every choice of weights that may be positive: slow and certain."""
    best, least = torch.zeros_like(slopes), 0.0
    for chosen in product([False, True], repeat=len(slopes)):
        free = torch.tensor(chosen)
        if free.any():
            v = torch.zeros_like(slopes)
            v[free] = torch.linalg.solve(gram[free][:, free], -slopes[free])
            value = float(v @ gram @ v / 2 + slopes @ v)
            if (v >= 0).all() and value < least:
                best, least = v, value
    return best


@pytest.mark.parametrize("seed", range(10))
def test_the_solution_is_the_best_of_all_active_sets(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    rows = (
        torch.randn(6, 9, dtype=torch.float64, generator=rng) * torch.logspace(-3, 3, 6, dtype=torch.float64)[:, None]
    )
    slopes = rows @ torch.randn(9, dtype=torch.float64, generator=rng)
    found = nonnegative_minimum(rows @ rows.T, slopes)
    torch.testing.assert_close(found, by_enumeration(rows @ rows.T, slopes), rtol=1e-8, atol=1e-12)


def test_agems_sign_by_hand() -> None:
    # A gradient g = (1, 1) against r = (-2, 0): <g, r> = -2 < 0, g + 2/4 r = (0, 1).
    assert without_rise(vector(1, 1), vector(-2, 0), -1.0)["w"].tolist() == pytest.approx([0, 1])
    # A movement u = (-1, -1), which is that gradient's: <u, r> = 2 > 0, u - 2/4 r = (0, -1).
    assert without_rise(vector(-1, -1), vector(-2, 0), 1.0)["w"].tolist() == pytest.approx([0, -1])
    # What agrees is left alone.
    for proposal, sign in ((vector(-1, 1), -1.0), (vector(1, 1), 1.0)):
        assert without_rise(proposal, vector(-2, 0), sign) is proposal


def test_projecting_twice_is_projecting_once() -> None:
    rng = torch.Generator().manual_seed(1)
    g, *past = ({"w": torch.randn(12, dtype=torch.float64, generator=rng)} for _ in range(6))
    once = GEM()._projected(g, past, [1.0] * 5)
    torch.testing.assert_close(GEM()._projected(once, past, [1.0] * 5)["w"], once["w"], rtol=0, atol=1e-13)
    less = without_rise(g, past[0], -1.0)
    torch.testing.assert_close(without_rise(less, past[0], -1.0)["w"], less["w"], rtol=0, atol=1e-13)


def test_a_memory_gradient_is_that_of_the_mean_loss_over_tokens() -> None:
    first, second, _ = [Context(toy_model(), e) for e in toy_stream()]
    method = GEM(kept=100)
    both = method.end(method.end([], first), second)
    examples = [*first.experience.train, *second.experience.train]
    batches = [b for e in examples for b in first.batches([e])]
    expected = first.grads(torch.cat([-first.model.token_logprobs(b) for b in batches]).mean())
    found = _gradient(both, replace(second, model=first.model))
    assert len(both[0]["rows"]) == 12
    for name, grad in expected.items():
        torch.testing.assert_close(found[name], grad, rtol=1e-4, atol=1e-7)  # norms compute in float32


@dataclass(frozen=True)
class Spy(Method):
    """Notes how each movement that is left to it lies to the gradients of what is remembered."""

    past: ClassVar[list[Any]] = []
    found: ClassVar[list[tuple[float, float]]] = []

    def update(self, memory: Memory, update: Tensors, ctx: Context) -> Tensors:
        length = _dot(update, update) ** 0.5
        past = [_gradient([one], ctx) for one in self.past]
        along = max(_dot(g, update) / (_dot(g, g) ** 0.5 * length or 1.0) for g in past)
        self.found.append((along, length))
        return update


def learned_two(method: Method, model: LanguageModel) -> State:
    learner = Learner("toy", method, RECIPE)
    state = learner.start(model)
    for experience in toy_stream().experiences[:2]:
        state = learn(learner, model, state, experience)
    return state


def steps_of(method: Method, dtype: torch.dtype = torch.float64) -> list[tuple[float, float]]:
    """For each step of a third experience the largest <g_k, u> / (|g_k| |u|) of its movement u, and |u|."""
    model = toy_model(dtype=dtype)
    state = learned_two(method, model)
    Spy.past[:], Spy.found[:] = state.memory[0], []
    learner = Learner("toy", chain(method, Spy()), RECIPE)
    learn(learner, model, replace(state, memory=[*state.memory, None]), toy_stream().experiences[2])
    return list(Spy.found)


def test_no_movement_of_adamw_raises_a_remembered_loss() -> None:
    kept, papers = steps_of(GEM(kept=4)), steps_of(GEM(kept=4, side="grad"))
    assert len(kept) == 6
    assert max(along for along, _ in kept) <= 1e-9
    assert max(along for along, _ in papers) > 1e-3  # a projected gradient does not keep its promise under AdamW
    assert min(length for _, length in kept[1:]) > 0.01  # it moves
    assert max(along for along, _ in steps_of(GEM(kept=4, side="both"))) <= 1e-9


def test_no_movement_of_adamw_raises_the_mean_loss_on_what_agem_draws() -> None:
    method = AGEM(kept=4, drawn=100)  # all of both, so that the gradient is the same when it is asked again
    model = toy_model()
    state = learned_two(method, model)
    ctx = Context(model, toy_stream().experiences[2], seen=2)
    reference = _gradient(state.memory[0], ctx)
    uphill = {n: g + 0.1 * torch.ones_like(g) for n, g in reference.items()}
    left = method.update(state.memory[0], uphill, ctx)
    assert _dot(uphill, reference) > 0
    assert _dot(left, reference) == pytest.approx(0, abs=1e-12)


def test_agem_draws_other_examples_in_each_step() -> None:
    ctx = Context(toy_model(), toy_stream().experiences[1], seen=1)
    method = AGEM(kept=8, drawn=2)
    memory = method.end([], replace(ctx, experience=toy_stream().experiences[0]))
    first, second, again = (method._reference(memory, replace(ctx, step=s)) for s in (0, 1, 0))
    assert all(torch.equal(first[n], again[n]) for n in first)
    assert any(not torch.equal(first[n], second[n]) for n in first)


def test_gem_in_half_precision_keeps_its_promise_to_rounding() -> None:
    assert max(along for along, _ in steps_of(GEM(kept=4), torch.bfloat16)) <= 1e-3


def test_the_side_that_was_not_asked_for_changes_nothing() -> None:
    ctx = Context(toy_model(), toy_stream().experiences[1], seen=1)
    tensors = {n: torch.ones_like(p) for n, p in ctx.trainable().items()}
    for kind in (GEM, AGEM):
        memory = kind().end([], ctx)
        assert kind().grad(memory, tensors, ctx) is tensors
        assert kind(side="grad").update(memory, tensors, ctx) is tensors
        assert kind().update([], tensors, ctx) is tensors
        uphill = {n: -g for n, g in _gradient(memory, ctx).items()}
        assert kind(side="both").grad(memory, uphill, ctx) is not uphill


def test_numbers_without_a_meaning_are_refused() -> None:
    for wrong in (lambda: GEM(kept=0), lambda: GEM(margin=-1.0), lambda: AGEM(kept=0), lambda: AGEM(drawn=0)):
        with pytest.raises(ConfigError, match="1 or more"):
            wrong()
