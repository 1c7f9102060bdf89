"""What is said on new inputs, and on old ones: two different anchors, both exact."""

import copy
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from everlearn.errors import ConfigError, MethodError
from everlearn.examples import Batch, Example, Plan
from everlearn.learner import Learner, learn
from everlearn.method import Context, Method, chain
from everlearn.methods.adapters import LoRA
from everlearn.methods.distillation import LwF, NewInputsKL, OldInputsKL
from everlearn.models.language_model import LanguageModel
from everlearn.testing.laws import RECIPE, learned
from everlearn.testing.toys import toy_model, toy_stream
from everlearn.types import Memory
from tests.methods.late import Late


def moved(model: LanguageModel, by: float = 0.1) -> None:
    rng = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in model.trainable().values():
            p += by * torch.randn(p.shape, generator=rng, dtype=p.dtype)


def distance(
    teacher: LanguageModel, student: LanguageModel, batch: Batch, temperature: float = 1.0, forward: bool = True
) -> Tensor:
    """The mean divergence, from both models' own logits."""
    where = torch.roll(batch.supervised, -1, dims=1)
    logq, logp = ((m._logits(batch)[where] / temperature).log_softmax(-1) for m in (teacher, student))
    first, second = (logq, logp) if forward else (logp, logq)
    return (first.exp() * (first - second)).sum(-1).mean()


NEW: list[tuple[Any, float, bool, float]] = [  # method, temperature, whether forward, factor of the divergence
    (LwF(strength=3.0), 2.0, True, 3 * 2.0**2),
    (LwF(temperature=1.0), 1.0, True, 1.0),
    (NewInputsKL(strength=0.5), 1.0, True, 0.5),
    (NewInputsKL(direction="reverse"), 1.0, False, 1.0),
]


@pytest.mark.parametrize("adapted", [False, True], ids=["full", "LoRA"])
@pytest.mark.parametrize(("method", "temperature", "forward", "factor"), NEW, ids=lambda x: str(x)[:12])
def test_on_new_inputs_it_is_the_divergence_from_the_old_logits(
    method: Method, temperature: float, forward: bool, factor: float, adapted: bool
) -> None:
    model = toy_model()
    if adapted:
        LoRA(rank=2).params(None, model)
        moved(model)
    teacher = LanguageModel(copy.deepcopy(model.module), model.tokenizer, "old")
    ctx = Context(model, toy_stream().experiences[0])
    memory = method.begin(None, ctx)
    moved(model)
    for batch in ctx.batches(ctx.experience.train):
        term = method.loss(memory, batch, ctx)
        expected = factor * distance(teacher, model, batch, temperature, forward)
        assert isinstance(term, Tensor)
        assert float(expected.detach()) > 0
        torch.testing.assert_close(term, expected, rtol=1e-9, atol=1e-12)
        for ours, theirs in zip(ctx.grads(term).values(), ctx.grads(expected).values(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-12)


METHODS = [LwF(), NewInputsKL(reference="previous", direction="reverse"), OldInputsKL()]


def second(method: Method, *others: Method) -> tuple[Context, Memory]:
    """At the beginning of a second experience."""
    learner, stream, model = Learner("toy", chain(*others, method), RECIPE, 0), toy_stream(), toy_model()
    state = learn(learner, model, learner.start(model), stream.experiences[0])
    ctx = Context(model, stream.experiences[1], seen=1)
    return ctx, chain(*others, method).begin(state.memory, ctx)[-1]


@pytest.mark.parametrize("others", [(), (LoRA(rank=2),)], ids=["full", "LoRA"])
@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_the_penalty_is_zero_at_the_reference(method: Method, others: tuple[Method, ...]) -> None:
    ctx, memory = second(method, *others)
    term = method.loss(memory, next(ctx.batches(ctx.experience.train)), ctx)
    assert isinstance(term, Tensor)
    assert abs(float(term.detach())) < 1e-12
    assert all(float(g.abs().max()) < 1e-12 for g in ctx.grads(term).values())


def test_the_base_of_an_adapter_is_the_base_model() -> None:
    method = NewInputsKL(reference="base")
    ctx, memory = second(method, LoRA(rank=2))
    (batch, *_) = ctx.batches(ctx.experience.train)
    expected = distance(toy_model(), ctx.model, batch)
    term = method.loss(memory, batch, ctx)
    assert isinstance(term, Tensor)
    assert float(expected.detach()) > 1e-4
    torch.testing.assert_close(term, expected, rtol=1e-9, atol=1e-12)
    last = NewInputsKL(reference="previous")
    with torch.no_grad():
        assert abs(float(last.loss(last.begin(memory, ctx), batch, ctx))) < 1e-12


def test_on_old_inputs_it_is_the_divergence_on_stored_examples_of_old_experiences() -> None:
    method = OldInputsKL(strength=2.0, batch_size=100)
    ctx, memory = second(method)
    teacher = LanguageModel(copy.deepcopy(ctx.model.module), ctx.model.tokenizer, "old")
    moved(ctx.model)
    stored = [Example.from_row(row) for row in memory["rows"]]
    assert {e.origin for e in stored} == {"letters"}
    assert len(stored) == len(toy_stream().experiences[0].train)
    (batch,) = ctx.batches(stored, batch_size=100)
    new = next(ctx.batches(ctx.experience.train))
    term = method.loss(memory, new, ctx)
    assert isinstance(term, Tensor)
    torch.testing.assert_close(term, 2 * distance(teacher, ctx.model, batch), rtol=1e-9, atol=1e-12)
    with torch.no_grad():
        assert not torch.allclose(term, 2 * distance(teacher, ctx.model, new))


def test_long_draws_are_cut_into_passes_and_weighted_by_tokens() -> None:
    method = OldInputsKL(batch_size=12)
    ctx, memory = second(method)
    moved(ctx.model)
    batch = next(ctx.batches(ctx.experience.train))
    short = replace(ctx, plan=replace(ctx.plan, tokens=70))
    assert len(method._drawn(memory["rows"], short).batches) > len(method._drawn(memory["rows"], ctx).batches) == 1
    with torch.no_grad():
        one, many = (method.loss(memory, batch, c) for c in (ctx, short))
    assert float(one) == pytest.approx(float(many), rel=1e-9)


def test_a_long_document_is_no_long_step() -> None:
    method = OldInputsKL(batch_size=3)
    ctx = replace(Context(toy_model(), toy_stream().experiences[1]), plan=Plan(length=8))
    rows = [Example(text="the cat sat. " * 50).row(), Example(text="a dog ran. " * 50).row()]
    step = method._drawn(rows, ctx)
    assert [b.tokens.shape for b in step.batches] == [(3, 8)]


def test_nothing_is_added_while_nothing_is_stored() -> None:
    ctx = Context(toy_model(), toy_stream().experiences[0])
    method = OldInputsKL()
    moved_on = method.begin(None, ctx)
    moved(ctx.model)
    assert method.loss(moved_on, next(ctx.batches(ctx.experience.train)), ctx) == 0.0


def test_other_steps_draw_other_examples_and_the_same_step_the_same() -> None:
    method = OldInputsKL(batch_size=2)
    ctx, memory = second(method)
    moved(ctx.model)
    batch = next(ctx.batches(ctx.experience.train))
    with torch.no_grad():
        values = [float(method.loss(memory, batch, replace(ctx, step=step))) for step in (0, 1, 0)]
    assert values[0] == values[2] != values[1]


@dataclass(frozen=True)
class Unreadable:
    """An objective that cannot make batches of texts."""

    def steps(self, model: Any, examples: Any, plan: Any) -> Any:
        raise AssertionError("old texts were read by the new objective")

    def loss(self, model: Any, batch: Batch) -> Tensor:
        raise NotImplementedError


def test_old_texts_are_read_as_texts_whatever_is_learned_now() -> None:
    method = OldInputsKL()
    ctx, memory = second(method)
    batch = next(ctx.batches(ctx.experience.train))
    other = replace(ctx, experience=replace(ctx.experience, objective=Unreadable()))
    with torch.no_grad():
        assert abs(float(method.loss(memory, batch, other))) < 1e-12


def drifted(method: Method, of: int) -> float:
    """How far a second experience carries the model from the first version, on the inputs of experience `of`."""
    learner, stream, model = Learner("toy", method, RECIPE, 0), toy_stream(), toy_model()
    first = learn(learner, model, learner.start(model), stream.experiences[0])
    teacher = LanguageModel(copy.deepcopy(model.module), model.tokenizer, "old")
    learn(replace(learner, recipe=replace(RECIPE, epochs=5)), model, first, stream.experiences[1])
    ctx = Context(model, stream.experiences[of])
    with torch.no_grad():
        return sum(float(distance(teacher, model, b)) for b in ctx.batches(ctx.experience.train))


@pytest.mark.parametrize(
    ("method", "of"),
    [(LwF(strength=10.0), 1), (NewInputsKL(strength=10.0, reference="previous"), 1), (OldInputsKL(strength=10.0), 0)],
    ids=["LwF", "NewInputsKL", "OldInputsKL"],
)
def test_what_is_held_drifts_less(method: Any, of: int) -> None:
    assert drifted(method, of) < 0.5 * drifted(replace(method, strength=0.0), of)


@pytest.mark.parametrize("method", [*METHODS, OldInputsKL(capacity=5, reference="base")], ids=str)
def test_memory_is_bounded(method: Any) -> None:
    learner, stream, model = Learner("toy", method, RECIPE, 0), toy_stream(), toy_model()
    state = learner.start(model)
    for experience in stream:
        state = learn(learner, model, state, experience)
    (memory,) = state.memory
    assert sum(w.nbytes for w in memory["weights"].values()) == sum(p.nbytes for p in model.trainable().values())
    if isinstance(method, OldInputsKL):
        assert len(memory["rows"]) == min(method.capacity, 36)
        assert len({row["origin"] for row in memory["rows"]}) == 3


@pytest.mark.parametrize("method", METHODS[:2], ids=lambda m: type(m).__name__)
def test_parameters_that_join_later_are_refused(method: Method) -> None:
    with pytest.raises(MethodError, match="has joined the model after the experience began"):
        learned(chain(Late(), method))


@pytest.mark.parametrize(
    ("kind", "arguments", "says"),
    [
        (LwF, {"strength": -1.0}, "strength is 0 or more"),
        (LwF, {"temperature": 0.0}, "temperature is more than 0"),
        (NewInputsKL, {"strength": float("nan")}, "strength is 0 or more"),
        (OldInputsKL, {"capacity": 0}, "capacity and batch_size are 1 or more"),
        (OldInputsKL, {"batch_size": 0}, "capacity and batch_size are 1 or more"),
    ],
)
def test_numbers_without_a_meaning_are_refused(kind: Any, arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        kind(**arguments)
