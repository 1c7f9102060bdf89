"""Pairs and judged answers: how they are published, and what is wrong with a row that is none."""

import json
from pathlib import Path
from typing import Any

import pytest

from everlearn.data.layouts import Layout
from everlearn.data.preferences import pair, verdict, verdicts, weight_of
from everlearn.data.sources import read
from everlearn.errors import DataError
from everlearn.evaluate import Exam, sit
from everlearn.examples import Example, Message
from everlearn.metrics.likelihood import Choice
from everlearn.testing.toys import toy_model

ASKED = (Message("user", "hello"),)
BETTER = pair(ASKED, "hi", "go", {})


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def example(row: dict[str, Any]) -> Example:
    return Layout(Path("a.jsonl")).example(row, "a.jsonl:1")


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "hello", "chosen": "hi", "rejected": "go"},
        {
            "prompt": [turn("user", "hello")],
            "chosen": [turn("assistant", "hi")],
            "rejected": [turn("assistant", "go")],
        },
        {
            "chosen": [turn("user", "hello"), turn("assistant", "hi")],
            "rejected": [turn("user", "hello"), turn("assistant", "go")],
        },
        {  # as UltraFeedback is published: whole conversations beside the prompt, and the chosen one again
            "prompt": "hello",
            "chosen": [turn("user", "hello"), turn("assistant", "hi")],
            "rejected": [turn("user", "hello"), turn("assistant", "go")],
            "messages": [turn("user", "hello"), turn("assistant", "hi")],
            "score_chosen": 9.0,
        },
        {
            "conversations": [{"from": "human", "value": "hello"}],
            "chosen": {"from": "gpt", "value": "hi"},
            "rejected": {"from": "gpt", "value": "go"},
        },
    ],
    ids=["texts", "turns", "conversations", "ultrafeedback", "sharegpt"],
)
def test_all_layouts_of_a_pair_say_the_same(row: dict[str, Any]) -> None:
    found = example(row)
    assert (found.messages, found.choices) == (BETTER.messages, ("hi", "go"))
    assert verdicts(found) == (("hi", True), ("go", False))


@pytest.mark.parametrize("completion", ["hi", [turn("assistant", "hi")]])
def test_a_judged_answer_says_whether_it_is_good(completion: object) -> None:
    for label in (True, False, "false"):
        found = example({"prompt": "hello", "completion": completion, "label": label})
        assert found.messages == BETTER.messages
        assert verdicts(found) == (("hi", label is True),)


def test_bad_rows_cost_themselves_alone_and_are_named(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    rows = [
        {"prompt": "hello", "chosen": "hi", "rejected": "go"},
        {"prompt": "hello", "chosen": "hi", "rejected": " hi"},
        {"prompt": "hello", "chosen": "hi", "rejected": None},
        {
            "chosen": [turn("user", "a"), turn("assistant", "b")],
            "rejected": [turn("user", "c"), turn("assistant", "d")],
        },
        {"prompt": "hello", "completion": "hi", "label": "perhaps"},
        {"prompt": [turn("system", "s")], "chosen": "hi", "rejected": "go"},
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read(file, layout="auto")
    assert [(r.source.rpartition(":")[2], r.reason) for r in found.rejects] == [
        ("2", "the chosen and the rejected answer are the same"),
        ("3", "the field 'rejected' is null, not text"),
        ("4", "'chosen' and 'rejected' differ before their last turns; a preference has one prompt"),
        ("5", "the label is a text, not true or false"),
        ("6", "nothing is asked: no turn of the user's stands before the answer"),
    ]
    assert len(found.examples) == 1


def test_a_preference_comes_back_from_a_row() -> None:
    for kept in (BETTER, verdict(ASKED, "hi", False, {"weight": 2.0})):
        assert verdicts(Example.from_row(kept.row())) == verdicts(kept)


def test_pairs_of_one_chosen_answer_have_keys_of_their_own() -> None:
    assert BETTER.key != pair(ASKED, "hi", "no", {}).key


def test_what_is_no_preference_is_refused() -> None:
    plain = Example(messages=BETTER.messages, source="a.jsonl:7")
    three = Example(messages=BETTER.messages, choices=("hi", "go", "no"))
    for wrong in (plain, three, Example(text="a document")):
        with pytest.raises(DataError, match="is no preference"):
            verdicts(wrong)


def test_a_weight_is_a_positive_number() -> None:
    assert (weight_of(BETTER), weight_of(pair(ASKED, "a", "b", {"weight": 3}))) == (1.0, 3.0)
    for wrong in (0, -1.0, True, "2", float("inf")):
        with pytest.raises(DataError, match="its weight is"):
            weight_of(pair(ASKED, "a", "b", {"weight": wrong}))


def test_held_out_pairs_are_judged_by_which_answer_is_likelier() -> None:
    turned = pair(ASKED, "go", "hi", {})
    outcomes = sit(toy_model(), [Exam("pairs", (BETTER, turned), Choice())])[0]
    assert sorted(o.score for o in outcomes) == [0.0, 1.0]  # the same answer is likelier both times
