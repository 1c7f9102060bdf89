"""Edits read line by line, and which of them are kept."""

import pytest

from everlearn.data.self_edits import Edit, Implications, Questions, Rewrites, asked_words, fates
from everlearn.errors import ConfigError
from everlearn.examples import Example
from everlearn.testing.toys import question


def texts(*lines: str) -> list[Example]:
    return [Example(text=line) for line in lines]


def test_a_statement_is_a_line_and_a_line_that_only_announces_is_none() -> None:
    answer = "Here is what follows:\n\n1. Oslo lies in Norway.\n- Norway's seat is Oslo.\n  (3) It rains.\n-\n"
    for kind in (Implications(), Rewrites()):
        assert isinstance(kind, Edit)
        found = kind.read(answer)
        kept = ["Oslo lies in Norway.", "Norway's seat is Oslo.", "It rains."]
        assert [e and e.text for e in found] == [None, *kept, None]
        assert kind.read(" \n") == []


def test_a_question_and_the_answer_after_it_are_a_conversation() -> None:
    answer = """Sure!
1. Question: Where is Oslo?
   Answer: In Norway.
**Question 2:** Who lives there?
**Answer:** Many.
Question: And who else?
Question: Who rules?
Answer: The king."""
    found = Questions().read(answer)
    kept = [(e.prompt[0].content, e.response) for e in found if e]
    assert kept == [("Where is Oslo?", "In Norway."), ("Who lives there?", "Many."), ("Who rules?", "The king.")]
    assert found.count(None) == 2  # "Sure!", and the question without an answer
    assert Questions().read("Question: Why?") == [None]
    assert Questions().read("") == []


def test_a_request_without_a_document_is_refused() -> None:
    for kind in (Implications, Rewrites, Questions):
        with pytest.raises(ConfigError, match=r"no place \{document\}"):
            kind("Say something.")


def test_what_is_said_in_the_request_or_said_before_is_dropped() -> None:
    document = "Oslo lies in Norway. It rains there."
    edits = texts(
        "OSLO lies in Norway!", "Norway holds Oslo.", "norway holds Oslo", "Read the text", "It snows in Bergen."
    )
    requests = [f"Read the text: {document}"] * 5
    assert fates(edits, requests) == ["copied", "kept", "repeated", "copied", "kept"]
    assert fates(edits[1:2] * 2, ["one", "another"]) == ["kept", "repeated"]  # whatever they were written for
    assert fates(texts("Oslo"), ["About Oslos"]) == ["kept"]  # words, and not letters


def test_what_is_near_an_earlier_edit_or_a_document_is_dropped() -> None:
    # Ten words are ten groups of three, the first two with blanks before them; another last word leaves 9 of 11 shared.
    long = "the big old wooden red house by the lake burns"
    edits = texts(f"{long[:-5]}sinks", "the house burns", f"{long[:-5]}stands")
    assert 9 / 11 < 0.9
    assert fates(edits, ["?"] * 3, texts(long), near=0.9) == ["kept", "kept", "kept"]
    assert fates(edits, ["?"] * 3, texts(long), near=0.8) == ["copied", "kept", "copied"]
    assert fates(edits, ["?"] * 3, near=0.8) == ["kept", "kept", "near"]
    assert fates(edits, ["?"] * 3, texts(long), near=None) == ["kept", "kept", "kept"]
    assert fates([], []) == []


def test_a_test_item_is_never_kept_whatever_its_answer() -> None:
    tests = [question("Where is Oslo?", "In Norway."), Example(text="Oslo is a town.")]
    edits = [question("where is OSLO", "In Sweden."), question("What is Oslo?", "A town."), *texts("oslo is a town")]
    assert fates(edits, ["?"] * 3, tests=tests) == ["tested", "kept", "tested"]
    assert asked_words(tests[0]) == ("where", "is", "oslo")
