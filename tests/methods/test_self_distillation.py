"""Demonstrations in the model's own words: which rewrites take their place."""

from typing import Any

import pytest

from everlearn.errors import ConfigError
from everlearn.examples import Example, Message, Plan
from everlearn.method import Context
from everlearn.methods.self_distillation import FATES, SDFT
from everlearn.metrics.text import ExactMatch
from everlearn.models.sampling import Completion
from everlearn.objectives.next_token import NextToken
from everlearn.rewards.extraction import Marked, Number
from everlearn.rewards.numbers import SameNumber
from everlearn.testing.toys import question, toy_model
from everlearn.types import Experience

SHORT = "{question} {demonstration}"
ROWS = [question(f"say {w}", w) for w in "abcdefgh"]


def written(text: str, finished: bool = True) -> Completion:
    return Completion((1,), (0.0,), text, finished)


def context(rows: Any = ROWS, length: int = 64) -> tuple[Context, list[Any]]:
    noted: list[Any] = []
    experience = Experience("say", rows, rows, NextToken(), ExactMatch())
    return Context(toy_model(), experience, Plan(length=length), note=noted.append), noted


def test_a_rewrite_stays_if_it_is_whole_and_does_not_give_itself_away() -> None:
    demonstration = question("how are you?", "well")
    for text, finished, fate in (
        ("Fine, thanks.", True, "rewritten"),
        ("Fine, tha", False, "unfinished"),
        ("  ", True, "empty"),
        ("As the Reference Answer says, well.", True, "meta"),
    ):
        assert SDFT().fate(demonstration, written(text, finished)) == fate


def test_a_rewrite_has_to_come_to_the_same_final_answer() -> None:
    sdft = SDFT(Number(), SameNumber())
    sum_ = question("1 / 4 + 1 / 4?", "a quarter twice is 1/2")
    for text, fate in (("2 / 4, so 0.5", "rewritten"), ("it is 2", "changed"), ("a half", "changed")):
        assert sdft.fate(sum_, written(text)) == fate
    assert sdft.fate(question("how?", "so"), written("thus")) == "rewritten", "there is no final answer to keep"
    assert SDFT(Marked()).fate(question("2?", "#### 2"), written("it is 2")) == "changed", "it has to be found"


def test_the_request_holds_question_and_answer_after_the_turns_before_them() -> None:
    turns = (Message("system", "be brief"), Message("user", "what is {demonstration}?"), Message("assistant", "a word"))
    found = SDFT(template="Q {question} A {demonstration}").request(Example(messages=turns))
    assert found == (turns[0], Message("user", "Q what is {demonstration}? A a word"))
    assert "write your own response" in SDFT().request(Example(messages=turns))[1].content


def test_rewrites_take_their_answers_place_while_the_experience_is_learned() -> None:
    ctx, noted = context()
    sdft = SDFT(limit=30, template=SHORT)
    memory = sdft.begin(sdft.init(ctx.model), ctx)
    rows = list(sdft.data(memory, ROWS, ctx))
    assert [e.prompt for e in rows] == [e.prompt for e in ROWS]
    changed = [new for old, new in zip(ROWS, rows, strict=True) if new.response != old.response]
    assert 0 < len(changed) == noted[0]["rewritten"] < len(ROWS)
    assert sum(noted[0][fate] for fate in FATES) == len(ROWS)
    assert noted[0]["rewritten rate"] == len(changed) / len(ROWS)
    assert all(e.origin == "toy" for e in rows)
    after = sdft.end(memory, ctx)
    assert sdft.data(after, ROWS, ctx) is ROWS
    assert after["counts"]["say"]["rewritten"] == len(changed)


def test_a_rewrite_longer_than_a_row_is_left_out() -> None:
    ctx, _ = context()
    sdft = SDFT(limit=30, template=SHORT)
    kept = list(sdft.begin(sdft.init(ctx.model), ctx)["written"].values())
    size = max(len(ctx.model.encode(question("say a", text)).tokens) for text in kept)
    brief, noted = context(length=size - 1)
    found = sdft.begin(sdft.init(ctx.model), brief)["written"]
    assert noted[0]["long"] >= 1
    assert len(found) == len(kept) - noted[0]["long"]


def test_documents_and_rows_without_an_answer_stay() -> None:
    turns = (Message("user", "say a"),), (Message("assistant", "a"),), (Message("system", "s"), Message("user", "b"))
    rows = [Example(text="a cat"), question("say a", ""), *(Example(messages=m) for m in turns)]
    ctx, noted = context(rows)
    sdft = SDFT(limit=4, template=SHORT)
    assert sdft.data(sdft.begin(sdft.init(ctx.model), ctx), rows, ctx) is rows
    assert noted[0]["rewritten rate"] == 0


def test_a_template_without_its_marks_is_refused() -> None:
    with pytest.raises(ConfigError, match="has to hold"):
        SDFT(template="{question}")
