"""COPR: its divergence by hand, its multiplier, and that earlier preferences outlast contrary ones."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from everlearn.data.preferences import pair
from everlearn.errors import ConfigError, Interrupted
from everlearn.examples import Example, Message, Plan
from everlearn.learner import Learner, learn
from everlearn.method import Context, chain
from everlearn.methods.optimal_policy import COPR
from everlearn.metrics.likelihood import Choice
from everlearn.models.language_model import LanguageModel
from everlearn.models.optim import AdamW, Recipe
from everlearn.objectives.criteria import DPO
from everlearn.objectives.next_token import NextToken
from everlearn.objectives.preference import Preference
from everlearn.testing.laws import memory_is_plain_data
from everlearn.testing.toys import question, toy_folder, toy_model
from everlearn.types import Experience, State
from everlearn.watch import Watch
from everlearn.weights import equal

RECIPE = Recipe(AdamW(learning_rate=3e-3), batch_size=4, length=64, tokens=256, epochs=3)


def pairs(word: str, chosen: str, rejected: str) -> list[Example]:
    return [pair((Message("user", f"{word} {w}"),), chosen, rejected, {}) for w in "abcdefgh"]


def lesson(name: str, rows: list[Example]) -> Experience:
    smoothing = 1 / (1 + math.e)  # sigmoid(-1), so that the fit ends at COPR's gap
    return Experience(name, rows, rows[:1], Preference(DPO(beta=0.5, smoothing=smoothing)), Choice())


def context(model: LanguageModel, experience: Experience) -> Context:
    return Context(model, experience, Plan(4, 256, 64))


def odds(model: LanguageModel, example: Example) -> float:
    said = []
    for answer in example.choices:
        before, after = model.encode_choice(example.prompt, answer)
        with torch.no_grad():
            rows = model.module(input_ids=torch.tensor([[*before, *after]])).logits.log_softmax(-1)[0]
        said.append(sum(float(rows[len(before) + i - 1, token]) for i, token in enumerate(after)))
    return said[0] - said[1]


def test_the_divergence_by_hand() -> None:
    method, rows, before, now = (
        COPR(beta=0.2, gap=1.0, rows=2),
        pairs("say", "yes", "no")[:2],
        toy_model(),
        toy_model(1),
    )
    ctx = context(before, lesson("one", rows))
    memory = method.end(method.begin(method.init(before), ctx), ctx)
    assert sorted(kept["odds"] for kept in memory["kept"]) == pytest.approx(sorted(odds(before, r) for r in rows))
    target, expected = 1 / (1 + math.exp(-1)), 0.0
    for row in rows:
        chance = 1 / (1 + math.exp(-0.2 * (odds(now, row) - odds(before, row))))
        expected += target * math.log(target / chance) + (1 - target) * math.log((1 - target) / (1 - chance))
    found = method.divergence(memory["kept"], replace(ctx, model=now))
    assert found.item() == pytest.approx(expected / 2, abs=1e-9)
    assert method.loss({**memory, "strength": 3.0}, None, replace(ctx, model=now)).item() == pytest.approx(  # type: ignore[union-attr, arg-type]
        1.5 * expected, abs=1e-9
    )


def test_it_is_0_at_the_optimum_and_that_is_where_smoothed_dpo_ends() -> None:
    gap, smoothing = 1.0, 1 / (1 + math.e)
    d = torch.tensor(gap, dtype=torch.float64, requires_grad=True)  # beta (odds - odds before)
    fit = -(1 - smoothing) * torch.nn.functional.logsigmoid(d) - smoothing * torch.nn.functional.logsigmoid(-d)
    assert torch.autograd.grad(fit, d)[0].item() == pytest.approx(0, abs=1e-12)
    method, model, row = COPR(beta=0.5, gap=gap), toy_model(), pairs("say", "yes", "no")[0]
    kept = {"row": row.row(), "odds": odds(model, row) - gap / 0.5}
    assert method.divergence([kept], context(model, lesson("one", [row]))).item() == pytest.approx(0, abs=1e-12)


def test_nothing_is_held_on_to_before_it_was_learned() -> None:
    method, model = COPR(), toy_model()
    ctx = context(model, lesson("one", pairs("say", "yes", "no")))
    memory = method.begin(method.init(model), ctx)
    assert method.loss(memory, None, ctx) == 0.0  # type: ignore[arg-type]
    assert method.step(memory, {}, {}, ctx) is memory
    assert len(method.end(memory, ctx)["kept"]) == 8


def test_the_multiplier_follows_the_bound() -> None:
    model, rows = toy_model(), pairs("say", "yes", "no")[:1]
    ctx = context(model, lesson("one", rows))
    for bound, method in ((0.0, COPR(bound=0.0, rate=0.5)), (9.0, COPR(bound=9.0, rate=0.5))):
        memory = method.end(method.begin(method.init(model), ctx), ctx)
        apart = method.divergence(memory["kept"], ctx).item()  # the model has not moved: KL(sigmoid(1) || 1/2)
        after = method.step(memory, {}, {}, ctx)["strength"]
        assert after == pytest.approx(math.exp(0.5 * (apart - bound)))
    assert method.step({**memory, "strength": 0.0}, {}, {}, ctx)["strength"] == 0.0


def test_experiences_share_the_room_and_those_without_pairs_pass() -> None:
    method, model = COPR(capacity=6), toy_model()
    memory = method.init(model)
    for name, rows in (
        ("one", pairs("say", "a", "b")),
        ("two", [question("x", "y")]),
        ("three", pairs("do", "c", "d")),
    ):
        ctx = context(model, lesson(name, rows))
        memory = method.end(method.begin(memory, ctx), ctx)
    assert sorted(kept["row"]["origin"] for kept in memory["kept"]) == ["one"] * 3 + ["three"] * 3


def test_demonstrations_with_two_choices_are_no_preferences() -> None:
    method, model, rows = COPR(), toy_model(), pairs("say", "yes", "no")
    ctx = context(model, replace(lesson("one", rows), objective=NextToken()))
    assert method.begin(method.init(model), ctx)["coming"] == []


def two_lessons(folder: Path, method: Any) -> tuple[State, LanguageModel, list[Example]]:
    """A preference, and then the contrary one about words that look alike."""
    learner = Learner(str(toy_folder(folder)), chain(method), RECIPE, 0, dtype="float64")
    model = learner.open()
    state, first = learner.start(model), pairs("say", "yes", "no")
    for name, rows in (("one", first), ("two", pairs("sad", "no", "yes"))):
        state = learn(learner, model, state, lesson(name, rows))
    return state, model, first


def test_earlier_preferences_outlast_contrary_ones(tmp_path: Path) -> None:
    kept = {}
    for strength in (0.0, 5.0):
        _, model, first = two_lessons(tmp_path, COPR(strength=strength, beta=0.5))
        base = Learner(str(tmp_path), dtype="float64").open()
        kept[strength] = sum(odds(model, row) - odds(base, row) for row in first) / len(first)
    assert kept[0.0] < 0 < kept[5.0]


def test_a_stopped_lesson_ends_in_the_same_bits(tmp_path: Path) -> None:
    straight, _, first = two_lessons(tmp_path / "toy", COPR(beta=0.5))
    learner = Learner(str(tmp_path / "toy"), chain(COPR(beta=0.5)), RECIPE, 0, dtype="float64")
    model = learner.open()
    state = learn(learner, model, learner.start(model), lesson("one", first))
    second, often = lesson("two", pairs("sad", "no", "yes")), iter((False, True))
    with pytest.raises(Interrupted):
        learn(learner, model, state, second, Watch(tmp_path / "at", stop=lambda: next(often, False)))
    fresh = learner.restore(learner.open(), state)
    again = learn(learner, fresh, state, second, Watch(tmp_path / "at"))
    assert equal(straight.weights, again.weights)
    assert straight.memory == again.memory


def test_its_memory_is_plain_data() -> None:
    memory_is_plain_data(COPR())


def test_numbers_without_a_meaning_are_refused() -> None:
    for fields in ({"strength": -1.0}, {"beta": 0.0}, {"rows": 0}):
        with pytest.raises(ConfigError, match="COPR"):
            COPR(**fields)  # type: ignore[arg-type]
