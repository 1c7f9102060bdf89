"""A lesson in a plain loop of torch's ends where `learn` ends: same hooks, same order, same inputs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import peft
import pytest
import torch
from torch import Tensor

from everlearn.data.mixes import Mix, Phase
from everlearn.data.preferences import pair
from everlearn.errors import ConfigError, MethodError, ModelError
from everlearn.examples import Batch, Example, Plan
from everlearn.integrations.lesson import Lesson
from everlearn.learner import Learner, learn
from everlearn.method import Context, Method, Tensors, chain
from everlearn.methods.adapters import LoRA
from everlearn.methods.anchors import EWC
from everlearn.methods.distillation import LwF
from everlearn.methods.importance import SI
from everlearn.methods.projection import AGEM
from everlearn.methods.prompts import L2P
from everlearn.methods.replay import Replay
from everlearn.methods.subspaces import OGD
from everlearn.methods.task_vectors import MagMax
from everlearn.metrics.likelihood import Choice
from everlearn.models.language_model import LanguageModel
from everlearn.models.optim import AdamW, Recipe
from everlearn.models.schedules import Schedule
from everlearn.objectives.next_token import NextToken
from everlearn.objectives.preference import Preference
from everlearn.randomness import seed_of
from everlearn.testing.toys import toy_folder, toy_model, toy_stream
from everlearn.types import Experience, Memory, State

RATE = 3e-3
RECIPE = Recipe(AdamW(RATE), Schedule("constant", warmup=0), batch_size=4, length=64, tokens=64)
EXPERIENCES = toy_stream().experiences[:2]


def by_hand(learner: Learner, model: LanguageModel, state: State, experience: Experience) -> State:
    """What somebody writes who has a loop of his own: the batches that `learn` makes, torch's AdamW, clipping."""
    lesson = Lesson(learner, model, state, experience)
    optimiser = torch.optim.AdamW(lesson.parameters.values(), RATE, weight_decay=0.0)
    seed = replace(lesson.context.plan, seed=epoch_seed(learner, state, experience))
    for step in experience.objective.steps(model, lesson.examples, seed):
        model.module.train()
        for batch in step.batches:
            (experience.objective.loss(model, batch) * (batch.weight / step.weight)).backward()
            lesson.saw(batch)
        lesson.collect()
        clip(lesson.parameters)
        lesson.before_move()
        optimiser.step()
        lesson.after_move()
        optimiser.zero_grad()
    return lesson.finish()


def clip(parameters: Mapping[str, Tensor]) -> None:
    """To norm 1; torch's own function divides by the norm and 1e-6, which Adam makes visible."""
    found = [p.grad for p in parameters.values() if p.grad is not None]
    norm = float(torch.nn.utils.get_total_norm(found))
    for grad in found if norm > 1 else ():
        grad /= norm


def epoch_seed(learner: Learner, state: State, experience: Experience) -> int:
    return seed_of(seed_of(learner.seed, len(state.seen), experience.name), "epoch", 0)


CHAINS = {
    "plain": chain(),
    "data, loss": chain(Replay(fraction=0.5), EWC(strength=1000.0)),
    "begin, loss of the batch": LwF(),
    "step, update": chain(SI(strength=10.0), OGD()),
    "grad": AGEM(),
    "params": chain(LoRA(rank=2), Replay(fraction=0.5), EWC(strength=10.0)),
    "start, merge": MagMax(),
    "all": chain(Replay(fraction=0.5), EWC(strength=1000.0), LwF(), SI(), AGEM(), OGD(), MagMax()),
}


@pytest.mark.parametrize("method", CHAINS.values(), ids=CHAINS)
def test_it_ends_where_our_own_loop_ends(method: Method) -> None:
    learner, ends = Learner("toy", method, RECIPE), []
    for way in (learn, by_hand):
        model = toy_model()
        state = learner.start(model)
        for experience in EXPERIENCES:
            state = way(learner, model, state, experience)
        assert state.seen == ("letters", "cats")
        assert all(torch.equal(w, dict(model.module.named_parameters())[n]) for n, w in state.weights.items())
        ends.append(state.weights)
    ours, theirs = ends
    assert set(ours) == set(theirs)
    for name, weight in ours.items():
        torch.testing.assert_close(theirs[name], weight, rtol=0.0, atol=1e-7)


PAIRS = [pair(e.prompt, e.response, "z", {}) for e in EXPERIENCES[0].train]


@dataclass(frozen=True)
class Measuring(Method):
    """Writes down at the end what the objective finds of the last version, and notes it."""

    def end(self, memory: Memory, ctx: Context) -> Memory:
        losses = [float(ctx.loss(batch).detach()) for batch in ctx.batches(PAIRS)]
        ctx.note({"loss": sum(losses)})
        return [*(memory or []), losses]


@pytest.mark.parametrize("reference", ["start", "base", "ema"])
def test_an_objectives_references_are_those_of_our_own_loop(
    reference: Literal["start", "base", "ema"], tmp_path: Path
) -> None:
    method, folder = chain(EWC(strength=10.0, samples=4), Measuring()), toy_folder(tmp_path / "toy")
    learner, ends = Learner(str(folder), method, RECIPE, dtype="float64", device="cpu"), []
    objective = Preference(reference=reference, decay=0.5)
    for way in (learn, by_hand):
        model = learner.open()
        state = learner.start(model)
        for name in ("first", "second"):
            state = way(learner, model, state, Experience(name, PAIRS, PAIRS, objective, Choice()))
        ends.append(state)
    ours, theirs = ends
    for name, weight in ours.weights.items():
        torch.testing.assert_close(theirs.weights[name], weight, rtol=0.0, atol=1e-7)
    assert theirs.memory[1] == [pytest.approx(losses, abs=1e-6) for losses in ours.memory[1]]
    # Against the live model itself every loss would be log 2.
    assert all(abs(loss - math.log(2)) > 1e-3 for losses in theirs.memory[1] for loss in losses)


def test_what_methods_note_is_kept_for_whoever_shows_it() -> None:
    model = toy_model()
    lesson = Lesson(Learner("toy", Measuring(), RECIPE), model, State(memory=[None]), EXPERIENCES[0])
    assert lesson.notes == []
    (losses,) = lesson.finish().memory[0]
    assert lesson.notes == [{"loss": sum(losses)}]


@dataclass(frozen=True)
class Asked(Method):
    """Notes how often it is asked for examples, and whether weights stand then as training begins."""

    def start(self, memory: Memory, weights: Tensors, ctx: Context) -> Tensors:
        return {name: torch.zeros_like(p) for name, p in ctx.trainable().items()}

    def data(self, memory: Memory, examples: Sequence[Example], ctx: Context) -> Sequence[Example]:
        ctx.note({"largest": max(float(p.detach().abs().max()) for p in ctx.trainable().values())})
        return examples


def test_data_is_asked_once_at_the_weights_that_training_starts_from() -> None:
    model = toy_model()
    lesson = Lesson(Learner("toy", Asked(), RECIPE), model, State(memory=[None]), EXPERIENCES[0])
    assert lesson.notes == [{"largest": 0.0}]


@dataclass(frozen=True)
class Seen(Method):
    """Writes down the numbers that each hook gets on a model of one weight."""

    def grad(self, memory: Memory, grads: Tensors, ctx: Context) -> Tensors:
        assert not ctx.model.module.training
        return {n: g / 4 for n, g in grads.items()}

    def loss(self, memory: Memory, batch: Batch, ctx: Context) -> Tensor:
        assert ctx.model.module.training
        return sum((10.0 * p.sum() for p in ctx.trainable().values()), start=torch.zeros(()))

    def update(self, memory: Memory, update: Tensors, ctx: Context) -> Tensors:
        return {n: u / 2 for n, u in update.items()}

    def step(self, memory: Memory, grads: Tensors, update: Tensors, ctx: Context) -> Memory:
        here = {n: p.detach().clone() for n, p in ctx.trainable().items()}
        return {"grads": dict(grads), "update": dict(update), "weights": here, "step": ctx.step}


def only_norm() -> LanguageModel:
    """A toy of which nothing learns but the last norm's weights, all of them 1."""
    model = toy_model()
    model.module.requires_grad_(False)
    model.module.get_parameter("model.norm.weight").requires_grad_(True)
    return model


def batches() -> list[Batch]:
    model = toy_model()
    plan = Plan(batch_size=2, length=64)
    return [b for s in NextToken().steps(model, EXPERIENCES[0].train[:4], plan) for b in s.batches]


def test_each_hook_gets_its_own_numbers() -> None:
    model = only_norm()
    learner = Learner("toy", Seen(), RECIPE)
    lesson = Lesson(learner, model, learner.start(model), EXPERIENCES[0])
    ((name, weight),) = lesson.parameters.items()
    model.module.train()
    for batch in batches():
        (2.0 * weight.sum()).backward()  # the loop's own gradient: 2 for each of two passes, 4 in all
        lesson.saw(batch)
    lesson.collect()
    assert weight.grad is not None
    assert weight.grad.unique().tolist() == [3.5]  # (4 + the mean over tokens of 10) / 4
    assert model.module.training
    lesson.before_move()
    with torch.no_grad():
        weight -= weight.grad  # 1 - 3.5
    lesson.after_move()
    seen = lesson.memory[0]
    assert seen["grads"][name].unique().tolist() == [4.0]
    assert seen["update"][name].unique().tolist() == [-1.75]
    assert seen["weights"][name].unique().tolist() == [-0.75]  # 1 - 1.75
    assert (seen["step"], lesson.step) == (0, 1)


@dataclass(frozen=True)
class Once(Method):
    """A term that reads no batch."""

    reads_batch = False

    def loss(self, memory: Memory, batch: Batch, ctx: Context) -> Tensor:
        return sum((3.0 * p.sum() for p in ctx.trainable().values()), start=torch.zeros(()))


def test_a_term_of_no_batch_counts_once_in_a_step_of_many_passes() -> None:
    model = only_norm()
    lesson = Lesson(Learner("toy", Once()), model, State(memory=[None]), EXPERIENCES[0])
    for batch in batches():
        lesson.saw(batch)
    lesson.collect()
    (weight,) = lesson.parameters.values()
    assert weight.grad is not None
    assert weight.grad.unique().tolist() == [3.0]


@dataclass(frozen=True)
class Tokens(Method):
    """A term whose gradient is the number of rows in the batch."""

    def loss(self, memory: Memory, batch: Batch, ctx: Context) -> Tensor:
        return sum((len(batch.tokens) * p.sum() for p in ctx.trainable().values()), start=torch.zeros(()))


def test_terms_are_weighted_by_supervised_tokens() -> None:
    model, (first, second) = only_norm(), batches()
    cut = replace(first, tokens=first.tokens[:1], supervised=first.supervised[:1])
    lesson = Lesson(Learner("toy", Tokens()), model, State(memory=[None]), EXPERIENCES[0])
    for batch in (cut, second):
        lesson.saw(batch)
    lesson.collect()
    (weight,) = lesson.parameters.values()
    assert weight.grad is not None
    # Each row has 2 targets, its letter and the end: (2 of 6) x 1 row + (4 of 6) x 2 rows = 5/3.
    assert (cut.weight, second.weight) == (2, 4)
    assert weight.grad.unique().tolist() == pytest.approx([5 / 3])


def test_a_batch_without_targets_is_left_out() -> None:
    model, (first, second) = only_norm(), batches()
    empty = replace(first, supervised=torch.zeros_like(first.supervised))
    lesson = Lesson(Learner("toy", Tokens()), model, State(memory=[None]), EXPERIENCES[0])
    for batch in (empty, second):
        lesson.saw(batch)
    lesson.collect()
    (weight,) = lesson.parameters.values()
    assert weight.grad is not None
    assert weight.grad.unique().tolist() == [2.0]


def test_a_gradient_that_is_not_finite_stops_the_lesson() -> None:
    model = only_norm()
    lesson = Lesson(Learner("toy"), model, State(memory=[]), EXPERIENCES[0])
    (weight,) = lesson.parameters.values()
    (weight.sum() * float("nan")).backward()
    with pytest.raises(ModelError, match="letters, step 1: gradient norm nan"):
        lesson.collect()


@pytest.mark.parametrize(
    ("method", "dtype", "error", "says"),
    [
        (L2P(), torch.float32, MethodError, "know no routes"),
        (chain(), torch.bfloat16, ModelError, "learns in torch.bfloat16"),
    ],
)
def test_what_cannot_be_served_raises_at_once(
    method: Method, dtype: torch.dtype, error: type[Exception], says: str
) -> None:
    model = toy_model(dtype=dtype)
    learner = Learner("toy", method)
    with pytest.raises(error, match=says):
        Lesson(learner, model, learner.start(model), EXPERIENCES[0])


def test_adapters_on_a_model_in_half_precision_learn() -> None:
    model = toy_model(dtype=torch.bfloat16)
    learner = Learner("toy", LoRA(rank=2))
    lesson = Lesson(learner, model, learner.start(model), EXPERIENCES[0])
    assert {p.dtype for p in lesson.parameters.values()} == {torch.float32}


def test_a_model_of_which_nothing_learns_is_refused() -> None:
    model = toy_model()
    model.module.requires_grad_(False)
    with pytest.raises(ModelError, match="nothing learns"):
        Lesson(Learner("toy"), model, State(memory=[]), EXPERIENCES[0])


def test_a_model_in_pefts_wrapper_is_refused_and_the_one_inside_is_served() -> None:
    base = toy_model()
    wrapped = peft.get_peft_model(base.module, peft.LoraConfig(r=2, target_modules=["q_proj"]))
    with pytest.raises(ModelError, match=r"get_base_model\(\)"):
        Lesson(Learner("toy"), LanguageModel(wrapped, base.tokenizer, "toy"), State(memory=[]), EXPERIENCES[0])
    inside = LanguageModel(wrapped.get_base_model(), base.tokenizer, "toy")
    learner = Learner("toy", chain(EWC(), AGEM()), RECIPE)
    state = learner.start(inside)
    for experience in EXPERIENCES:
        state = by_hand(learner, inside, state, experience)
    assert len(state.weights) == 4
    assert all(".lora_" in name for name in state.weights)


@dataclass(frozen=True)
class Resting(Method):
    """Refuses to begin while dropout would act."""

    def begin(self, memory: Memory, ctx: Context) -> Memory:
        assert not ctx.model.module.training
        return memory


def test_a_lesson_begins_in_evaluation_mode_though_a_trainer_was_given_up() -> None:
    model = toy_model()
    model.module.train()
    Lesson(Learner("toy", Resting()), model, State(memory=[None]), EXPERIENCES[0])


def test_a_lesson_is_finished_once() -> None:
    model = toy_model()
    lesson = Lesson(Learner("toy"), model, State(memory=[]), EXPERIENCES[0])
    assert lesson.finish().seen == ("letters",)
    with pytest.raises(MethodError, match="was finished"):
        lesson.finish()


@dataclass(frozen=True)
class Twice(Method):
    """Every example twice."""

    def data(self, memory: Memory, examples: Sequence[Example], ctx: Context) -> Sequence[Example]:
        return [*examples, *examples]


def test_the_examples_are_those_of_the_method() -> None:
    model = toy_model()
    lesson = Lesson(Learner("toy", Twice()), model, State(memory=[None]), EXPERIENCES[0])
    assert len(lesson.examples) == 2 * len(EXPERIENCES[0].train)


def test_a_mix_is_refused_since_the_loop_would_not_follow_its_phases() -> None:
    mix = Mix({"letters": EXPERIENCES[0].train}, (Phase(100, {"letters": 1}),))
    with pytest.raises(ConfigError, match="'letters': another library's loop"):
        Lesson(Learner("toy"), toy_model(), State(memory=[]), replace(EXPERIENCES[0], train=mix))


def test_a_ramp_is_refused_since_the_loop_would_not_follow_it() -> None:
    learner = Learner("toy", recipe=Recipe(ramp=((100, 4, 32),)))
    with pytest.raises(ConfigError, match="would not follow the recipe's ramp"):
        Lesson(learner, toy_model(), State(memory=[]), EXPERIENCES[0])
