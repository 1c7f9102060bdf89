"""The general suite: sound items, and a user's own file read with care."""

import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest

from everlearn.errors import ConfigError, DataError
from everlearn.metrics.suites import general_suite

ITEM = {"ability": "colours", "prompt": "Which colour is snow?", "choices": ["white", "green"], "answer": 0}


def write(path: Path, rows: Iterable[object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def computed(prompt: str) -> int:
    """The result of an arithmetic item, worked out from its words."""
    a, b = map(int, re.findall(r"\d+", prompt))
    if "plus" in prompt or "gets" in prompt:
        return a + b
    if "minus" in prompt or "gives away" in prompt:
        return a - b
    if "times" in prompt or "in each" in prompt:
        return a * b
    assert "divided" in prompt or "shared equally" in prompt
    assert a % b == 0
    return a // b


def test_the_shipped_suite_has_200_items_over_five_abilities_at_least():
    counts = Counter(item.metadata["ability"] for item in general_suite())
    assert sum(counts.values()) >= 200
    assert len(counts) >= 5
    assert min(counts.values()) >= 30


def test_no_shipped_question_stands_twice():
    prompts = Counter(item.prompt[0].content.casefold() for item in general_suite())
    assert [p for p, n in prompts.items() if n > 1] == []


def test_right_answers_stand_equally_often_at_each_position():
    positions = Counter((i.metadata["ability"], i.choices.index(i.response)) for i in general_suite())
    assert set(positions.values()) == {8}
    assert len(positions) == 7 * 4


def test_the_right_answer_is_not_given_away_by_its_length():
    longest = sum(len(i.response) > max(len(c) for c in i.choices if c != i.response) for i in general_suite())
    shortest = sum(len(i.response) < min(len(c) for c in i.choices if c != i.response) for i in general_suite())
    assert longest < 0.35 * len(general_suite())
    assert shortest < 0.35 * len(general_suite())


def test_arithmetic_items_are_right():
    items = [i for i in general_suite() if i.metadata["ability"] == "arithmetic"]
    assert [int(i.response) for i in items] == [computed(i.prompt[0].content) for i in items]
    assert len(items) == 32


def test_a_reading_item_quotes_one_passage():
    reading = [i for i in general_suite() if i.metadata["ability"] == "reading"]
    assert all(i.prompt[0].content.count('"') == 2 for i in reading)


def test_a_grammar_item_leaves_one_sentence_unfinished():
    grammar = [i for i in general_suite() if i.metadata["ability"] == "grammar"]
    assert all(i.prompt[0].content.count("...") == 1 for i in grammar)


def test_questions_and_choices_are_short():
    items = general_suite()
    assert max(len(i.prompt[0].content.split()) for i in items) <= 30
    assert max(len(c.split()) for i in items for c in i.choices) <= 8


def test_a_quick_look_takes_as_many_of_each_ability_and_the_same_each_time():
    quick = general_suite(per_ability=5)
    assert set(Counter(i.metadata["ability"] for i in quick).values()) == {5}
    assert [i.key for i in quick] == [i.key for i in general_suite(per_ability=5)]
    assert [i.key for i in quick] == [i.key for i in general_suite()[: len(quick)]]


def test_an_item_is_a_question_with_its_right_choice_as_the_reply(tmp_path):
    (item,) = general_suite(write(tmp_path / "mine.jsonl", [ITEM | {"answer": 1}]))
    assert [m.role for m in item.messages] == ["user", "assistant"]
    assert item.response == "green"
    assert item.choices == ("white", "green")
    assert item.metadata == {"ability": "colours"}
    assert item.source == "mine.jsonl:1"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"ability": ""}, "'ability' is ''"),
        ({"prompt": 3}, "'prompt' is 3"),
        ({"choices": ["white"]}, "'choices'"),
        ({"choices": ["white", "white"]}, "different texts"),
        ({"choices": ["white", " "]}, "'choices'"),
        ({"choices": "white"}, "'choices'"),
        ({"answer": 2}, "'answer' is 2, not an index from 0 to 1"),
        ({"answer": -1}, "'answer' is -1"),
        ({"answer": "white"}, "'answer' is 'white'"),
        ({"answer": True}, "'answer' is True"),
    ],
)
def test_a_bad_row_is_reported_with_file_and_line(tmp_path, change, reason):
    path = write(tmp_path / "mine.jsonl", [ITEM, ITEM | {"prompt": "Which colour is grass?"} | change])
    with pytest.raises(DataError, match=rf"mine\.jsonl:2: .*{re.escape(reason)}"):
        general_suite(path)


def test_a_row_that_is_no_object_is_reported(tmp_path):
    with pytest.raises(DataError, match=r"mine\.jsonl:1: not a JSON object"):
        general_suite(write(tmp_path / "mine.jsonl", [["white"]]))


def test_an_item_that_stands_twice_is_reported_with_both_lines(tmp_path):
    with pytest.raises(DataError, match=r"mine\.jsonl:3: the same item as in line 1"):
        general_suite(write(tmp_path / "mine.jsonl", [ITEM, ITEM | {"prompt": "Another?"}, ITEM]))


def test_an_empty_suite_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"mine\.jsonl: holds no items"):
        general_suite(write(tmp_path / "mine.jsonl", []))


def test_a_quick_look_of_nothing_is_refused():
    with pytest.raises(ConfigError, match="per_ability=0"):
        general_suite(per_ability=0)
