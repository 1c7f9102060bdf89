"""GDumb learns from its buffer alone, from the start, whatever the order inside an experience."""

from collections import Counter
from dataclasses import replace

import pytest

from everlearn.errors import ConfigError
from everlearn.examples import Example
from everlearn.learner import Learner, learn
from everlearn.method import Context, Method, chain
from everlearn.methods.adapters import LoRA
from everlearn.methods.gdumb import GDumb
from everlearn.models.language_model import LanguageModel
from everlearn.models.optim import AdamW, Recipe
from everlearn.testing.toys import question, toy_model, toy_stream
from everlearn.types import Experience, State
from everlearn.weights import equal

RECIPE = Recipe(AdamW(learning_rate=1e-2), batch_size=4, length=64, tokens=128, epochs=2)


def learned(method: Method, *experiences: Experience) -> tuple[State, LanguageModel]:
    learner, model = Learner("toy", method, RECIPE), toy_model()
    state = learner.start(model)
    for experience in experiences:
        state = learn(learner, model, state, experience)
    return state, model


@pytest.mark.parametrize("method", [GDumb(capacity=9), chain(LoRA(rank=2), GDumb(capacity=9))], ids=str)
def test_a_version_is_what_its_buffer_alone_teaches_the_base_model(method: Method) -> None:
    letters, cats, _ = toy_stream()
    state, _ = learned(method, letters, cats)
    rows = [Example.from_row(kept["row"]) for kept in state.memory[-1]["kept"]]
    assert Counter(e.origin for e in rows) == {"letters": 4, "cats": 5}
    others = chain(*(m for m in chain(method).methods if not isinstance(m, GDumb)))
    learner, model = Learner("toy", others, RECIPE), toy_model()
    start = learner.start(model)
    if others.methods:  # adapters are drawn at random in the first experience
        learn(learner, model, start, letters)
        start = replace(start, weights=dict(state.memory[-1]["start"]))
    alone = learn(learner, model, replace(start, seen=("letters",)), replace(cats, train=rows))
    assert equal(alone.weights, state.weights)


def test_the_order_inside_an_experience_does_not_matter() -> None:
    letters, cats, _ = toy_stream()
    states = [
        learned(
            GDumb(capacity=7), replace(letters, train=letters.train[::step]), replace(cats, train=cats.train[::step])
        )
        for step in (1, -1)
    ]
    assert equal(states[0][0].weights, states[1][0].weights)
    assert states[0][0].memory[0]["kept"] == states[1][0].memory[0]["kept"]


def labelled(name: str, **counts: int) -> Experience:
    rows = [question(f"{name} {label} {i}?", label, name) for label, n in counts.items() for i in range(n)]
    return replace(toy_stream().experiences[0], name=name, train=rows, labels=tuple(counts))


def test_the_buffer_is_balanced_bounded_and_has_the_new_examples_at_once() -> None:
    model = toy_model()
    for selection, expected in {
        "classes": {"one: no": 2, "one: yes": 4, "two: cat": 4},
        "balanced": {"one": 5, "two": 5},
    }.items():
        method = GDumb(capacity=10, selection=selection)  # type: ignore[arg-type]
        memory = method.begin(method.init(model), Context(model, labelled("one", yes=30, no=2)))
        assert len(memory["kept"]) == 10
        memory = method.begin(memory, Context(model, labelled("two", cat=30), seen=1))
        assert Counter(kept["group"] for kept in memory["kept"]) == expected


def test_the_memory_is_bounded_after_many_experiences() -> None:
    model, method = toy_model(), GDumb(capacity=5)
    memory = method.init(model)
    for number in range(12):
        memory = method.begin(memory, Context(model, labelled(f"e{number}", a=9, b=4), seen=number))
        assert len(memory["kept"]) == 5
    assert equal(memory["start"], model.trainable())


def test_another_seed_keeps_other_examples() -> None:
    model, method = toy_model(), GDumb(capacity=5)
    kept = [
        method.begin(method.init(model), Context(model, toy_stream().experiences[0], seed=seed))["kept"]
        for seed in (0, 1)
    ]
    assert kept[0] != kept[1]


def test_a_saved_version_is_rebuilt_as_it_was_learned() -> None:
    letters, cats, _ = toy_stream()
    state, model = learned(GDumb(capacity=7), letters, cats)
    again = Learner("toy", GDumb(capacity=7), RECIPE).restore(toy_model(), state)
    assert equal(again.parameters(), model.parameters())


def test_numbers_without_a_meaning_are_refused() -> None:
    with pytest.raises(ConfigError, match="capacity is 1 or more"):
        GDumb(capacity=0)
    with pytest.raises(ConfigError, match="classes or balanced"):
        GDumb(selection="reservoir")  # type: ignore[arg-type]
