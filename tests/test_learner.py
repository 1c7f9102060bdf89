"""Trajectories that must agree, early stopping, and work that is interrupted or goes wrong."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from everlearn.data.mixes import Mix, Phase
from everlearn.errors import ConfigError, Interrupted, ModelError
from everlearn.examples import Batch
from everlearn.learner import Learner, learn
from everlearn.method import Context, Method, Tensors, chain
from everlearn.methods.adapters import LoRA
from everlearn.models.optim import AdamW, Recipe
from everlearn.models.schedules import Schedule
from everlearn.testing.toys import toy_model, toy_stream
from everlearn.types import Experience, Memory, Model, State
from everlearn.watch import Watch
from everlearn.weights import equal

RECIPE = Recipe(AdamW(learning_rate=1e-2), batch_size=4, length=64, tokens=4096, epochs=4)
LETTERS = toy_stream().experiences[0]


def trajectory(
    recipe: Recipe, method: Method | None = None, dtype: torch.dtype = torch.float64
) -> list[dict[str, Any]]:
    rows: list[Any] = []
    model = toy_model(dtype=dtype)
    learner = Learner("toy", method or chain(), recipe)
    learn(learner, model, learner.start(model), LETTERS, Watch(log=rows.append))
    return rows


def numbers(rows: list[dict[str, Any]]) -> list[tuple[float, float]]:
    return [(r["loss"], r["norm"]) for r in rows]


def flat(rows: list[dict[str, Any]]) -> list[float]:
    return [x for pair in numbers(rows) for x in pair]


def test_a_step_of_one_pass_equals_a_step_of_many() -> None:
    one, many = trajectory(RECIPE), trajectory(replace(RECIPE, tokens=1))
    assert len(one) == len(many) == 12
    assert flat(one) == pytest.approx(flat(many), rel=1e-9)


def test_it_learns() -> None:
    rows = trajectory(replace(RECIPE, epochs=10))
    assert rows[-1]["loss"] < 0.6 * rows[0]["loss"]


def test_the_rate_warms_up_and_falls() -> None:
    rates = [r["rate"] for r in trajectory(RECIPE)]
    assert rates[0] < rates[1] <= 1e-2
    assert rates[-1] < rates[-2] < rates[2]


def test_a_model_in_half_precision_learns_through_masters() -> None:
    full, half = trajectory(RECIPE), trajectory(RECIPE, dtype=torch.bfloat16)
    assert half[-1]["loss"] == pytest.approx(full[-1]["loss"], rel=0.05)


@dataclass(frozen=True)
class Spy(Method):
    """Keeps what it sees of the last step."""

    def step(self, memory: Memory, grads: Tensors, update: Tensors, ctx: Context) -> Memory:
        return {"grads": dict(grads), "update": dict(update)}


@dataclass(frozen=True)
class Heavy(Method):
    """Adds a large penalty."""

    def loss(self, memory: Memory, batch: Batch, ctx: Context) -> Tensor:
        return 100 * torch.stack([(p**2).sum() for p in ctx.trainable().values()]).sum()


def last_seen(method: Method, tokens: int = 4096) -> dict[str, Tensor]:
    recipe = replace(RECIPE, epochs=1, batch_size=12, tokens=tokens, optimiser=AdamW(1e-2, clip=None))
    model = toy_model()
    learner = Learner("toy", method, recipe)
    state = learn(learner, model, learner.start(model), LETTERS)
    seen: dict[str, Tensor] = state.memory[0]["grads"]
    return seen


def test_step_sees_the_objectives_gradient_without_penalties() -> None:
    plain, heavy = last_seen(Spy()), last_seen(chain(Spy(), Heavy()))
    assert all(torch.equal(plain[n], heavy[n]) for n in plain)


def test_penalties_do_not_depend_on_how_a_step_is_cut() -> None:
    def end(tokens: int) -> State:
        model = toy_model()
        learner = Learner("toy", Heavy(), replace(RECIPE, tokens=tokens, epochs=1))
        return learn(learner, model, learner.start(model), LETTERS)

    one, many = end(4096).weights, end(1).weights
    for name, weight in one.items():
        torch.testing.assert_close(weight, many[name], rtol=1e-7, atol=1e-10)


@dataclass(frozen=True)
class Halved(Method):
    """Halves each proposed update."""

    def update(self, memory: Memory, update: Tensors, ctx: Context) -> Tensors:
        return {n: u / 2 for n, u in update.items()}


@dataclass(frozen=True)
class Back(Method):
    """Keeps the middle of old and new weights."""

    def merge(self, memory: Memory, before: Tensors, after: Tensors, ctx: Context) -> Tensors:
        return {n: (before[n] + after[n]) / 2 for n in after}


def one_step(method: Method) -> tuple[Tensors, Tensors]:
    model = toy_model()
    before = {n: p.detach().clone() for n, p in model.trainable().items()}
    learner = Learner("toy", method, replace(RECIPE, epochs=1, batch_size=12))
    state = learn(learner, model, learner.start(model), LETTERS)
    assert equal(dict(state.weights), {n: p.detach() for n, p in model.trainable().items()})
    return before, state.weights


@pytest.mark.parametrize("method", [Halved(), Back()], ids=["update", "merge"])
def test_a_side_that_halves_the_way_ends_half_way(method: Method) -> None:
    before, plain = one_step(chain())
    _, half = one_step(method)
    for name in before:
        torch.testing.assert_close(half[name], (before[name] + plain[name]) / 2, rtol=1e-9, atol=1e-12)


def test_early_stopping_keeps_the_best_weights() -> None:
    rows: list[Any] = []
    hot = Recipe(AdamW(0.05), Schedule("constant", warmup=0.0), epochs=30, batch_size=4, patience=2, validations=1)
    model = toy_model()
    learner = Learner("toy", chain(), hot)
    learn(learner, model, learner.start(model), LETTERS, Watch(log=rows.append))
    losses = [r["validation"] for r in rows if "validation" in r]
    assert len(losses) < 30
    assert min(losses) == losses[-3]
    ctx = Context(model, LETTERS)
    with torch.no_grad():
        batches = list(ctx.batches(LETTERS.validation))
        loss = sum(float(ctx.loss(b)) * b.weight for b in batches) / sum(b.weight for b in batches)
    assert loss == pytest.approx(min(losses), rel=1e-9)


def test_interrupted_work_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    method = chain(Spy(), Halved())

    def start() -> tuple[Learner, Any, State]:
        learner = Learner("toy", method, RECIPE)
        model = toy_model()
        return learner, model, learner.start(model)

    straight = learn(*start(), LETTERS)
    for stop_after in (1, 5, 11, 12):
        folder = tmp_path / str(stop_after)
        asked = iter([False] * (stop_after - 1) + [True])
        with pytest.raises(Interrupted):
            learn(*start(), LETTERS, Watch(folder, stop=lambda asked=asked: next(asked)))  # type: ignore[misc]
        resumed = learn(*start(), LETTERS, Watch(folder))
        assert equal(dict(straight.weights), dict(resumed.weights))


def test_a_checkpoint_of_another_experience_is_not_used(tmp_path: Path) -> None:
    learner, model = Learner("toy", chain(), RECIPE), toy_model()
    with pytest.raises(Interrupted):
        learn(learner, model, learner.start(model), LETTERS, Watch(tmp_path / "c", stop=lambda: True))
    other = toy_stream().experiences[1]
    fresh, again = toy_model(), toy_model()
    expected = learn(learner, fresh, learner.start(fresh), other)
    found = learn(learner, again, learner.start(again), other, Watch(tmp_path / "c"))
    assert equal(dict(expected.weights), dict(found.weights))


@dataclass(frozen=True)
class Broken:
    """An objective whose loss is not a number."""

    references: ClassVar[dict[str, float]] = {}

    def steps(self, model: Model, examples: Any, plan: Any) -> Any:
        return LETTERS.objective.steps(model, examples, plan)

    def loss(self, model: Model, batch: Batch) -> Tensor:
        return LETTERS.objective.loss(model, batch) * float("nan")


def test_a_loss_that_is_not_a_number_stops_and_leaves_the_state() -> None:
    model, learner = toy_model(), Learner("toy", chain(), RECIPE)
    state = learner.start(model)
    broken: Experience = replace(LETTERS, objective=Broken())
    with pytest.raises(ModelError, match="letters, step 1: loss nan"):
        learn(learner, model, state, broken)
    assert state == learner.start(toy_model())


@dataclass(frozen=True)
class Frozen(Method):
    """Freezes everything."""

    def params(self, memory: Memory, model: Any) -> Any:
        for p in model.module.parameters():
            p.requires_grad_(False)
        return model


def test_nothing_to_learn_with_is_said() -> None:
    model, learner = toy_model(), Learner("toy", Frozen(), RECIPE)
    with pytest.raises(ModelError, match="no parameter of toy trainable"):
        learn(learner, model, learner.start(model), LETTERS)


def test_a_recipe_without_steps_is_refused() -> None:
    with pytest.raises(ConfigError, match="epochs"):
        Recipe(epochs=0)


@dataclass(frozen=True)
class Counting(Method):
    """A penalty that counts how often it is asked for; class attributes stand in for a memory that outlives the run."""

    reads_batch: ClassVar[bool] = False
    asked: ClassVar[list[int]] = []

    def loss(self, memory: Memory, batch: Batch, ctx: Context) -> Tensor:
        self.asked.append(ctx.step)
        return 0.1 * torch.stack([(p**2).sum() for p in ctx.trainable().values()]).sum()


@dataclass(frozen=True)
class Reading(Method):
    """The same penalty, said to depend on the batch."""

    def loss(self, memory: Memory, batch: Batch, ctx: Context) -> Tensor:
        return 0.1 * torch.stack([(p**2).sum() for p in ctx.trainable().values()]).sum()


def test_a_term_that_reads_no_batch_is_computed_once_a_step_and_comes_to_the_same() -> None:
    Counting.asked.clear()
    many = replace(RECIPE, tokens=1)
    once, each = trajectory(many, Counting()), trajectory(many, Reading())
    assert Counting.asked == list(range(12))
    assert flat(once) == pytest.approx(flat(each), rel=1e-9)
    both = trajectory(many, chain(Counting(), Reading()))
    assert flat(both) != pytest.approx(flat(each), rel=1e-3)


@dataclass(frozen=True)
class Looking(Method):
    """Keeps what the model's weights are while a movement is proposed, and the movement."""

    seen: ClassVar[list[tuple[Tensors, Tensors]]] = []

    def update(self, memory: Memory, update: Tensors, ctx: Context) -> Tensors:
        self.seen.append(({n: p.detach().double().clone() for n, p in ctx.trainable().items()}, update))
        return update


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_a_movement_is_judged_at_the_weights_where_it_begins(dtype: torch.dtype) -> None:
    Looking.seen.clear()
    start = {n: p.detach().double().clone() for n, p in toy_model(dtype=dtype).trainable().items()}
    trajectory(RECIPE, Looking(), dtype)
    for weights, update in Looking.seen[:2]:
        assert all(torch.allclose(weights[n], start[n], atol=1e-12 if dtype == torch.float64 else 1e-2) for n in start)
        if dtype == torch.bfloat16:
            break  # what the model holds of two steps is rounded
        start = {n: w + update[n] for n, w in weights.items()}
    assert any(float(u.abs().max()) > 1e-4 for u in Looking.seen[1][1].values())


@dataclass(frozen=True)
class Restart(Method):
    """Merges into zeros, remembers what was trained, and trains on from there."""

    def begin(self, memory: Memory, ctx: Context) -> Memory:
        return memory or {"last": {}}

    def start(self, memory: Memory, weights: Tensors, ctx: Context) -> Tensors:
        return {**weights, **memory["last"]}

    def end(self, memory: Memory, ctx: Context) -> Memory:
        return {"last": dict(ctx.after), "before": dict(ctx.before)}

    def merge(self, memory: Memory, before: Tensors, after: Tensors, ctx: Context) -> Tensors:
        return {name: w * 0 for name, w in after.items()}


def test_training_starts_where_the_method_says_and_not_at_the_version() -> None:
    learner, model = Learner("toy", Restart(), RECIPE), toy_model()
    first = learn(learner, model, learner.start(model), LETTERS)
    assert all(not w.any() for w in first.weights.values())
    second = learn(learner, model, first, replace(LETTERS, name="again"))
    assert equal(second.memory[0]["before"], first.memory[0]["last"])
    assert all(not p.any() for p in model.trainable().values())


def test_half_precision_hides_nothing_of_what_was_trained_from_the_end_of_an_experience() -> None:
    learner, model = Learner("toy", Restart(), RECIPE), toy_model(dtype=torch.bfloat16)
    state = learn(learner, model, learner.start(model), LETTERS)
    assert {w.dtype for w in state.memory[0]["last"].values()} == {torch.float32}
    assert any(not torch.equal(w, w.bfloat16().float()) for w in state.memory[0]["last"].values())


def test_a_restored_version_answers_as_the_live_one_though_its_adapters_drop() -> None:
    model, learner = toy_model(), Learner("toy", LoRA(rank=2, dropout=0.5), replace(RECIPE, epochs=1))
    state = learn(learner, model, learner.start(model), LETTERS)
    restored, tokens = learner.restore(toy_model(), state), torch.arange(6, 18)[None]
    with torch.no_grad():
        assert torch.equal(restored.module(tokens).logits, model.module(tokens).logits)


def test_a_mix_under_a_ramp_that_is_stopped_in_any_place_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    cats = toy_stream().experiences[1]
    phases = (Phase(300, {"cats": 1}), Phase(200, {"cats": 1, "names": 1}))
    mix = Mix({"cats": cats.train[:5], "names": [replace(e, text=e.text * 3) for e in cats.train[5:]]}, phases)
    experience = replace(cats, train=mix)
    recipe = Recipe(AdamW(1e-2), Schedule("infinite", floor=0.1), batch_size=2, length=32, ramp=((128, 3, 48),))

    def start() -> tuple[Learner, Any, State]:
        model, learner = toy_model(), Learner("toy", chain(), recipe)
        return learner, model, learner.start(model)

    rows: list[Any] = []
    straight = learn(*start(), experience, Watch(log=rows.append))
    assert sum(row["tokens"] for row in rows) == 500
    assert {name: rows[-1]["notes"][f"tokens of {name}"] for name in mix.sources} == {"cats": 400, "names": 100}
    for stop_after in range(1, len(rows)):
        asked = iter([False] * (stop_after - 1) + [True])
        with pytest.raises(Interrupted):
            learn(*start(), experience, Watch(tmp_path / str(stop_after), stop=lambda asked=asked: next(asked)))  # type: ignore[misc]
        resumed = learn(*start(), experience, Watch(tmp_path / str(stop_after)))
        assert equal(dict(straight.weights), dict(resumed.weights))


def test_the_second_experience_is_rewarmed_or_goes_on() -> None:
    def rates(rewarm: bool) -> list[float]:
        recipe = replace(RECIPE, schedule=Schedule("wsd", warmup=0.5, decay=0.25, floor=0.1, rewarm=rewarm))
        learner, model, rows = Learner("toy", chain(), recipe), toy_model(), list[Any]()
        state = learn(learner, model, learner.start(model), LETTERS)
        learn(learner, model, state, toy_stream().experiences[2], Watch(log=rows.append))
        return [row["rate"] for row in rows]

    assert rates(True)[0] < 0.1 * 1e-2
    assert rates(False)[:6] == [1e-2] * 6
