"""Planning and reasoning, by a chat model that is a function."""

from dataclasses import replace
from pathlib import Path

import pytest

from everlearn.data.sources import read
from everlearn.errors import ConfigError
from everlearn.synthesis.answers import Answers
from everlearn.synthesis.first_order import STYLES, FirstOrder
from tests.synthesis.scripted import DOCUMENTS, scripted

TWO = FirstOrder(styles=STYLES[:2], entities=1, near=None)


def test_each_question_gives_a_plan_and_a_reasoned_answer_where_the_judge_accepts(tmp_path: Path) -> None:
    answers = Answers(scripted, tmp_path, "m")
    made = TWO.make(DOCUMENTS, answers)
    # Three entities, two styles.
    assert made.card.kinds["planning"][0] == made.card.kinds["reasoning"][0] == 6
    plan = made.documents[0]
    assert plan.text == (
        "Question: What fact is there of Elna Varg?\n\nAnalysis: I look it up: What fact is there of Elna Varg?\n"
        'Action: {"name": "search", "arguments": {"query": "it"}}'
    )
    reason = made.documents[6]
    assert reason.text.endswith("Elna Varg?\n\nWhat fact is there of Elna Varg? It opened then, so 1936.")
    about = plan.metadata
    assert (about["kind"], about["style"], about["entities"], about["sources"]) == (
        "planning",
        "fact",
        ["Elna Varg"],
        ["notes:1"],
    )
    assert (about["model"], about["judge"]) == ("m", "m")
    kept = {file.stem for file in tmp_path.rglob("*.json")}
    assert {*about["answers"], *reason.metadata["answers"]} <= kept
    assert (len(about["answers"]), len(reason.metadata["answers"])) == (2, 3)


def test_what_a_judge_rejects_or_nobody_can_read_is_left_out_and_counted(tmp_path: Path) -> None:
    def strict(messages):  # type: ignore[no-untyped-def]
        text = messages[0].content
        if "[Step]" in text:
            return "I cannot tell." if "Fram" in text else "Verdict: reject" if "number" in text else "Verdict: accept"
        return "Verdict: reject"

    answers, judge = Answers(scripted, tmp_path / "a", "m"), Answers(strict, tmp_path / "b", "judge")
    made = TWO.make(DOCUMENTS, answers, judge)
    assert [d.metadata["style"] for d in made.documents] == ["fact"] * len(made.documents)
    assert set(made.card.kinds) == {"planning"}
    stages = made.card.stages
    assert stages["judging reasoning"] == {"asked": 6, "failed": 0, "unread": 0, "rejected": 6}
    planned = stages["judging planning"]
    assert planned["asked"] == 6
    assert planned["unread"] + planned["rejected"] + len(made.documents) == 6
    assert made.card.judge == "judge"
    assert made.documents[0].metadata["judge"] == "judge"


def test_a_plan_is_an_analysis_and_a_call_of_a_tool_that_there_is() -> None:
    call = '{"name": "visit", "arguments": {"url": "x"}}'
    kind = FirstOrder()
    assert kind._plan(f"**Analysis:** see it\n\n**Action:** ```{call}```") == f"Analysis: see it\nAction: {call}"
    for text in (
        call,
        "Analysis: see\nAction: none",
        f"Analysis:\nAction: {call}",
        f"Analysis: see\nAction: {call.replace('visit', 'shout')}",
        f"Analysis: see\nAction: {call.replace('arguments', 'args')}",
    ):
        assert kind._plan(text) is None, text


def test_a_second_start_asks_nothing_and_makes_the_same(tmp_path: Path) -> None:
    first = TWO.make(DOCUMENTS, Answers(scripted, tmp_path, "m"))
    again = Answers(scripted, tmp_path, "m", at_once=1)
    assert TWO.make(DOCUMENTS, again) == first
    assert again.sent == 0
    more = Answers(scripted, tmp_path, "m")
    replace(TWO, styles=STYLES[:3]).make(DOCUMENTS, more)
    assert 0 < more.sent < sum(counts["asked"] for counts in more.counts.values())


def test_near_documents_are_left_out(tmp_path: Path) -> None:
    answers = Answers(scripted, tmp_path, "m")
    every = TWO.make(DOCUMENTS, answers)
    few = replace(TWO, near=0.2).make(DOCUMENTS, Answers(scripted, tmp_path, "m"))
    assert len(few.documents) < len(every.documents) == 12
    assert few.card.stages["documents"] == {"written": 12, "near an earlier one": 12 - len(few.documents)}


def test_documents_are_read_back_with_their_provenance(tmp_path: Path) -> None:
    made = TWO.make(DOCUMENTS, Answers(scripted, tmp_path / "answers", "m"))
    page = made.write(tmp_path / "actions.jsonl")
    back = read(tmp_path / "actions.jsonl").examples
    assert [(e.text, e.metadata) for e in back] == [(e.text, e.metadata) for e in made.documents]
    assert "| planning | 6 |" in page.read_text(encoding="utf-8")
    assert (tmp_path / "actions.card.json").exists()


def test_nothing_to_ask_for_is_refused() -> None:
    for wrong in ({"styles": ()}, {"tools": ()}, {"entities": 0}, {"statements": 0}):
        with pytest.raises(ConfigError, match="at least"):
            FirstOrder(**wrong)  # type: ignore[arg-type]
