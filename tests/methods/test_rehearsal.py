"""What a toy writes of its past is read, counted and rehearsed; what cannot be read is counted too."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from everlearn.errors import ConfigError
from everlearn.examples import Example, Message, Plan
from everlearn.learner import Learner, learn
from everlearn.method import Context
from everlearn.methods.rehearsal import LAMOL, SSR
from everlearn.models.generate import generate
from everlearn.models.language_model import LanguageModel
from everlearn.models.optim import AdamW, Recipe
from everlearn.testing.toys import question, toy_model, toy_stream
from everlearn.types import Experience, State

LETTERS, CATS, DIGITS = toy_stream()
RECIPE = Recipe(AdamW(learning_rate=1e-2), batch_size=12, length=128, tokens=2048, epochs=50)
WRITER = LAMOL(ratio=1.0, modelling=1.0, temperature=0.5, limit=64)


def context(model: LanguageModel, experience: Experience, seen: int = 0) -> Context:
    return Context(model, experience, Plan(12, 2048, 128), seen=seen)


@pytest.fixture(scope="module")
def writing() -> tuple[LanguageModel, State]:
    """A toy that has learned the letters, and to write them."""
    learner, model = Learner("toy", WRITER, RECIPE), toy_model()
    return model, learn(learner, model, learner.start(model), LETTERS)


def test_the_past_is_written_before_the_next_experience(writing: tuple[LanguageModel, State]) -> None:
    model, state = writing
    memory = WRITER.begin(state.memory[0], context(model, DIGITS, 1))
    asked, kept = memory["counts"]["letters"].values()
    assert asked == 12 == len(DIGITS.train)
    assert len(memory["rows"]) == kept >= 6
    examples = WRITER.data(memory, DIGITS.train, context(model, DIGITS, 1))
    assert list(examples)[:12] == list(DIGITS.train)
    own = {e.prompt for e in LETTERS.train}
    assert all(e.origin == "letters" and e.response for e in list(examples)[12:])
    assert sum(e.prompt in own for e in list(examples)[12:]) >= 6
    assert WRITER.begin(state.memory[0], context(model, DIGITS, 1)) == memory
    assert WRITER.begin(state.memory[0], replace(context(model, DIGITS, 1), seed=1))["rows"] != memory["rows"]
    assert WRITER.end(memory, context(model, DIGITS, 1))["rows"] == []


def test_what_cannot_be_read_is_left_out_and_counted(writing: tuple[LanguageModel, State]) -> None:
    model, state = writing
    untrained = context(toy_model(), DIGITS, 1)
    memory = WRITER.begin(state.memory[0], untrained)
    assert memory["counts"] == {"letters": {"asked": 12, "kept": 0}}
    assert WRITER.data(memory, DIGITS.train, untrained) is DIGITS.train
    again = WRITER.begin(memory, replace(untrained, model=model))
    assert again["counts"]["letters"]["asked"] == 24
    labelled = {**state.memory[0], "known": {"letters": {"document": False, "labels": ["z"]}}}
    assert WRITER.begin(labelled, context(model, DIGITS, 1))["counts"]["letters"]["kept"] == 0
    short = replace(WRITER, limit=20).begin(state.memory[0], context(model, DIGITS, 1))
    assert short["counts"]["letters"] == {"asked": 12, "kept": 0}  # none ends within 20 characters


def test_as_many_are_asked_for_of_each_earlier_experience() -> None:
    known = {name: {"document": False, "labels": []} for name in ("a", "b", "c")}
    memory = {"known": known, "rows": [], "counts": {}}
    found = LAMOL(ratio=0.5, limit=2).begin(memory, context(toy_model(), DIGITS, 3))
    assert [counts["asked"] for counts in found["counts"].values()] == [2, 2, 2]  # 0.5 * 12 / 3


def test_the_loss_of_writing_by_hand() -> None:
    ctx, method = context(toy_model(), LETTERS), LAMOL(modelling=0.5)
    (batch,) = ctx.batches(LETTERS.train[:3], 99)
    lessons = [
        question("write: letters", f"user: {e.messages[0].content}\nassistant: {e.response}") for e in LETTERS.train[:3]
    ]
    (expected,) = ctx.batches(lessons, 99)
    with torch.no_grad():
        term = method.loss(method.init(ctx.model), batch, ctx)
        assert float(term) == pytest.approx(0.5 * float(ctx.loss(expected)), rel=1e-9)


def test_what_was_written_of_an_experience_is_asked_for_by_its_name() -> None:
    ctx, method = context(toy_model(), DIGITS, 1), LAMOL(modelling=1.0)
    memory = {"known": {"letters": {}}, "rows": [], "counts": {}}
    (batch,) = ctx.batches(LETTERS.train[:1])
    (expected,) = ctx.batches([question("write: letters", f"user: after a?\nassistant: {LETTERS.train[0].response}")])
    with torch.no_grad():
        assert float(method.loss(memory, batch, ctx)) == pytest.approx(float(ctx.loss(expected)))


def test_what_would_be_read_otherwise_is_not_learned_to_be_written() -> None:
    ctx, method = context(toy_model(), LETTERS), LAMOL(modelling=1.0)
    (batch,) = ctx.batches([question("a\nuser: b", "c")])
    assert method.loss(method.init(ctx.model), batch, ctx) == 0.0
    assert LAMOL(modelling=0.0).loss(method.init(ctx.model), next(ctx.batches(LETTERS.train)), ctx) == 0.0


@pytest.fixture(scope="module")
def continuing() -> LanguageModel:
    """A toy that goes on with a list of examples about letters."""
    rng = torch.Generator().manual_seed(0)
    texts = [f"user: after {e.messages[0].content[6:]}\nassistant: {e.response}" for e in LETTERS.train]
    lists = ["\n\n".join(texts[i] for i in torch.randperm(12, generator=rng)[:3].tolist()) for _ in range(36)]
    base = replace(LETTERS, name="lists", train=[Example(text=text) for text in lists])
    learner, model = Learner("toy", recipe=replace(RECIPE, epochs=24)), toy_model()
    learn(learner, model, learner.start(model), base)
    return model


def synthesised(model: LanguageModel, method: SSR, experience: Experience = LETTERS) -> tuple[LanguageModel, Any]:
    """A model of the same weights that has learned the letters, and what it remembers."""
    here = toy_model()
    here.assign(model.parameters())
    learner = Learner("toy", method, replace(RECIPE, epochs=20))
    return here, learn(learner, here, learner.start(here), experience).memory[0]


def test_instances_are_written_by_the_base_and_answered_by_the_new_version(continuing: LanguageModel) -> None:
    method = SSR(fraction=0.5, capacity=5, pool=30, demonstrations=4, clusters=3, temperature=0.7, top_p=0.95, limit=64)
    model, memory = synthesised(continuing, method)
    counts = memory["counts"]["letters"]
    assert counts["asked"] == 30 > counts["readable"] >= counts["chosen"] == 5 >= counts["kept"] >= 1
    assert len(memory["rows"]) == counts["kept"]
    for row in memory["rows"]:
        example = Example.from_row(row)
        (answer,) = generate(model, [model.encode_prompt(example.prompt)], 64)
        assert example.response == answer.strip()
        assert example.origin == "letters"
    assert len({row["messages"][0]["content"] for row in memory["rows"]}) == len(memory["rows"])
    assert all(torch.equal(memory["start"][n], p) for n, p in continuing.parameters().items())
    assert synthesised(continuing, method)[1]["rows"] == memory["rows"]
    second = context(model, DIGITS, 1)
    mixed = list(method.data(memory, DIGITS.train, second))
    assert len(mixed) == 24
    assert {e.origin for e in mixed[12:]} == {"letters"}


def test_an_answer_that_is_no_label_is_left_out_and_counted(continuing: LanguageModel) -> None:
    method = SSR(pool=10, demonstrations=4, temperature=0.7, top_p=0.95, limit=64)
    _, memory = synthesised(continuing, method, replace(LETTERS, labels=("no such answer",)))
    counts = memory["counts"]["letters"]
    assert counts["chosen"] >= 1
    assert counts["kept"] == len(memory["rows"]) == 0


def test_a_base_that_cannot_go_on_is_counted_too() -> None:
    method = SSR(pool=5, demonstrations=4, limit=30)
    ctx = context(toy_model(), LETTERS)
    memory = method.end(method.begin(method.init(ctx.model), ctx), ctx)
    assert memory["counts"] == {"letters": {"asked": 5, "readable": 0, "chosen": 0, "kept": 0}}
    assert method.data(memory, DIGITS.train, context(ctx.model, DIGITS, 1)) is DIGITS.train


def test_the_room_for_instances_is_bounded_and_shared_alike(continuing: LanguageModel) -> None:
    method = SSR(capacity=6, pool=30, demonstrations=6, clusters=3, temperature=0.7, top_p=None, limit=64)
    model, memory = synthesised(continuing, method)
    for number in range(1, 4):
        memory = method.end(memory, context(model, replace(LETTERS, name=f"e{number}"), number))
        assert len(memory["rows"]) == len(memory["groups"]) <= 6
    assert max(memory["groups"].count(name) for name in memory["groups"]) <= 2
    assert len(set(memory["groups"])) >= 3


def test_without_demonstrations_nothing_is_asked_for() -> None:
    long = [question("a" * 200, "b")]
    ctx = context(toy_model(), replace(LETTERS, train=long))
    memory = SSR().end(SSR().begin(SSR().init(ctx.model), ctx), ctx)
    assert memory["counts"]["letters"]["asked"] == 0


def test_documents_are_rehearsed_as_they_were_written(continuing: LanguageModel) -> None:
    method = SSR(pool=6, demonstrations=3, limit=100)
    ctx = context(continuing, replace(CATS, train=[Example(text="user: after a?\nassistant: b")] * 3))
    memory = method.end(method.begin(method.init(continuing), ctx), ctx)
    assert memory["counts"]["cats"]["kept"] == memory["counts"]["cats"]["readable"] >= 1
    assert all(set(row) >= {"text"} for row in memory["rows"])


def test_numbers_without_a_meaning_are_refused() -> None:
    with pytest.raises(ConfigError, match="ratio and modelling"):
        LAMOL(ratio=-1.0)
    with pytest.raises(ConfigError, match="top_p"):
        LAMOL(top_p=2.0)
    with pytest.raises(ConfigError, match="fraction is in"):
        SSR(fraction=1.0)
    with pytest.raises(ConfigError, match="limit"):
        SSR(limit=0)


def test_a_request_names_the_experience() -> None:
    assert (
        Message("user", "write: letters")
        == LAMOL()
        ._taught(  # type: ignore[union-attr]
            LETTERS.train[0], LAMOL().init(toy_model()), context(toy_model(), LETTERS)
        )
        .messages[0]
    )
