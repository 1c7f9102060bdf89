"""Answers that are asked for once."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from everlearn.errors import ConfigError, ModelError
from everlearn.examples import Message
from everlearn.synthesis.answers import IN_A_ROW, Answers, json_in


def shouted(messages: Sequence[Message]) -> str:
    (message,) = messages
    assert message.role == "user"
    if "fail" in message.content:
        raise ModelError("the line is dead.")
    return message.content.upper()


def test_what_was_asked_is_not_asked_again(tmp_path: Path) -> None:
    first = Answers(shouted, tmp_path, "m")
    assert first.ask("echo", ["a", "b", "a"], str) == ["A", "B", "A"]
    assert first.sent == 2
    again = Answers(shouted, tmp_path, "m", at_once=1)
    assert again.ask("echo", ["b", "c"], str) == ["B", "C"]
    assert again.sent == 1
    other = Answers(shouted, tmp_path, "another")
    assert other.ask("echo", ["a"], str) == ["A"]
    assert other.sent == 1, "another model has not been asked"
    assert len(list(tmp_path.rglob("*.json"))) == 4


def test_what_failed_is_counted_and_asked_again_and_what_cannot_be_read_is_counted(tmp_path: Path) -> None:
    answers = Answers(shouted, tmp_path, "m")
    found = answers.ask("echo", ["a", "fail", "b"], lambda text: None if text == "B" else text)
    assert found == ["A", None, None]
    assert answers.counts == {"echo": {"asked": 3, "failed": 1, "unread": 1}}
    again = Answers(lambda messages: "now it works", tmp_path, "m")
    assert again.ask("echo", ["a", "fail", "b"], str) == ["A", "now it works", "B"]
    assert again.sent == 1


def test_many_failures_in_a_row_stop_the_work_and_other_errors_are_raised(tmp_path: Path) -> None:
    answers = Answers(shouted, tmp_path, "m", at_once=1)
    prompts = ["a", *(f"fail {i}" for i in range(2 * IN_A_ROW))]
    with pytest.raises(ModelError, match=f"{IN_A_ROW} asks in a row have failed, the last one so: the line is dead"):
        answers.ask("echo", prompts, str)
    assert answers.sent <= IN_A_ROW + 2
    assert len(list(tmp_path.rglob("*.json"))) == 1
    spared = Answers(shouted, tmp_path, "m", at_once=1)  # a success between them, and they are not in a row
    few = [f"fail {i}" for i in range(IN_A_ROW - 1)]
    assert spared.ask("echo", [*few, "b", *(f"fail again {i}" for i in range(IN_A_ROW - 1))], str).count(None) == 38
    with pytest.raises(ZeroDivisionError):
        Answers(lambda messages: str(1 / 0), tmp_path, "m").ask("echo", ["z"], str)


def test_somebody_has_to_be_asked(tmp_path: Path) -> None:
    for wrong in ({"at_once": 0}, {"model": ""}):
        with pytest.raises(ConfigError, match="say who answers"):
            Answers(**({"chat": shouted, "folder": tmp_path, "model": "m"} | wrong))  # type: ignore[arg-type]


def test_json_is_found_in_what_stands_around_it() -> None:
    assert json_in('Sure [1]: ```json\n[{"a": 1}]\n``` there.', dict) == {"a": 1}
    assert json_in('Here [as asked]: [{"a": [2]}, 3] and [4]', list) == [{"a": [2]}, 3]
    assert json_in("none {here", dict) is None
    assert json_in('{"a": 1}', list) is None
