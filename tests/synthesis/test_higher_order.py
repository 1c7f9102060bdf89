"""Choices among alternatives, by a chat model that is a function."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from everlearn.errors import ConfigError
from everlearn.examples import Message
from everlearn.synthesis.answers import Answers
from everlearn.synthesis.higher_order import HigherOrder
from everlearn.synthesis.trajectories import Action, Trajectory

RIGHT = Trajectory("How old?", (Action("search it", "born 1912"), Action("It is 24.")), True, "t:1")
WRONG = Trajectory("How far?", (Action("guess"),), False, "t:2")


def others(messages: Sequence[Message]) -> str:
    """Four ways to go on, one of them the one that was taken, in other case."""
    said = messages[0].content.partition("[One way to go on]\n")[2].partition("\n[End")[0]
    return f"Well: {json.dumps([said.upper(), f'not {said}', f'rather than {said}', 'too many'])}"


def test_the_step_taken_stands_among_alternatives_and_the_outcome_at_the_end(tmp_path: Path) -> None:
    made = HigherOrder().make([RIGHT, WRONG], Answers(others, tmp_path, "m"))
    right, wrong = made.documents
    first, second = right.metadata["chosen"]
    options = {
        1: ["not search it", "rather than search it", "too many"],
        2: ["not It is 24.", "rather than It is 24.", "too many"],
    }
    expected = ["Task: How old?"]
    for step, (place, action) in enumerate(zip((first, second), RIGHT.actions, strict=True), start=1):
        shown = [*options[step][: place - 1], action.said, *options[step][place - 1 :]]
        expected += [f"Step {step}", *(f"Option {i}: {text}" for i, text in enumerate(shown, start=1))]
        expected += [f"I will choose option {place}."] + ([f"Observation: {action.seen}"] if action.seen else [])
    assert right.text == "\n\n".join([*expected, "My decision is Correct."])
    assert wrong.text.endswith("My decision is Incorrect.")
    assert (wrong.metadata["success"], wrong.metadata["source"], wrong.metadata["model"]) == (False, "t:2", "m")
    assert len(right.metadata["answers"]) == 2
    assert made.card.stages["alternatives"]["alternatives kept"] == 9


def test_places_differ_by_seed_and_are_all_taken(tmp_path: Path) -> None:
    answers = Answers(others, tmp_path, "m")
    made = [HigherOrder(seed=seed).make([WRONG], answers).documents[0] for seed in range(30)]
    drawn = {document.metadata["chosen"][0] for document in made}
    assert drawn == {1, 2, 3, 4}
    assert answers.sent == 1, "places are no matter of what is asked"


def test_the_steps_before_are_shown_and_what_comes_after_is_not(tmp_path: Path) -> None:
    first, second = HigherOrder()._prompts(RIGHT)
    assert "[So far]\nNothing yet.\n[End of so far]" in first
    assert "born" not in first
    assert "[So far]\nsearch it\n\nObservation: born 1912\n" in second


def test_a_trajectory_with_a_step_that_has_no_alternative_is_left_out_and_counted(tmp_path: Path) -> None:
    def broken(messages: Sequence[Message]) -> str:
        return (
            "no" if "How old?" in messages[0].content and "Nothing yet" not in messages[0].content else others(messages)
        )

    answers = Answers(broken, tmp_path, "m")
    made = HigherOrder(alternatives=1).make([RIGHT, WRONG], answers)
    (kept,) = made.documents
    assert kept.metadata["source"] == "t:2"
    assert made.card.stages["alternatives"] == {
        "asked": 3,
        "failed": 0,
        "unread": 1,
        "alternatives kept": 1,
        "incomplete trajectories": 1,
    }
    alike = Answers(lambda messages: '["GUESS!"]', tmp_path, "alike")  # says what was said
    assert HigherOrder().make([WRONG], alike).documents == ()
    assert alike.counts["alternatives"]["incomplete trajectories"] == 1


def test_a_prompt_without_its_places_and_no_alternatives_are_refused() -> None:
    with pytest.raises(ConfigError, match="one at least"):
        HigherOrder(alternatives=0)
    with pytest.raises(ConfigError, match="no place"):
        HigherOrder(prompt="{task} {count} {said}")
