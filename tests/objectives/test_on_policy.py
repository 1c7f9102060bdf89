"""Passes over prompts: the order, where they begin, and what is refused."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from everlearn.errors import DataError, ModelError
from everlearn.examples import Example, Plan
from everlearn.models.language_model import LanguageModel
from everlearn.objectives.on_policy import Lesson, passed
from everlearn.testing.toys import question, toy_model

PROMPTS = [question(f"say {w}", w) for w in "abcde"]


@dataclass
class Told:
    """Notes which prompts were attempted, and by which seeds."""

    prompts: list[str]
    seeds: list[int]

    def __call__(self, model: LanguageModel, chosen: Sequence[Example], seed: int) -> Lesson:
        self.prompts.append("".join(e.response for e in chosen))
        self.seeds.append(seed)
        return Lesson((), {"first": float(len(self.seeds))})


def walk(**fields: Any) -> tuple[Told, list[Any]]:
    told = Told([], [])
    iterations = fields.pop("iterations", 1)
    return told, list(passed(toy_model(), PROMPTS, Plan(**({"batch_size": 2} | fields)), told, iterations))


def test_every_prompt_is_met_once_in_order_or_shuffled() -> None:
    told, steps = walk()
    assert told.prompts == ["ab", "cd", "e"]
    assert [step.progress for step in steps] == [0.4, 0.8, 1.0]
    shuffled, _ = walk(seed=1)
    assert sorted("".join(shuffled.prompts)) == list("abcde")
    assert shuffled.prompts != told.prompts
    assert len(set(told.seeds)) == 3
    assert set(told.seeds) != set(shuffled.seeds)


def test_a_pass_that_goes_on_draws_what_it_would_have_drawn() -> None:
    whole, _ = walk(seed=1, iterations=2)
    rest, steps = walk(seed=1, iterations=2, start=2)
    assert (rest.prompts, rest.seeds) == (whole.prompts[1:], whole.seeds[1:])
    assert [step.pausable for step in steps] == [False, True] * 2
    assert [dict(step.notes) for step in steps] == [{"first": 1.0}, {}, {"first": 2.0}, {}]


def test_what_cannot_be_attempted_is_refused() -> None:
    with pytest.raises(DataError, match="cats is a document"):
        list(passed(toy_model(), [Example(text="a cat", source="cats")], Plan(), Told([], [])))
    with pytest.raises(ModelError, match="object cannot be sampled from"):
        list(passed(object(), PROMPTS, Plan(), Told([], [])))  # type: ignore[arg-type]
