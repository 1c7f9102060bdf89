"""What was made, and its card."""

import json

from everlearn.examples import Example
from everlearn.synthesis.answers import Answers
from everlearn.synthesis.documents import made


def test_a_card_counts_what_was_asked_lost_and_kept(tmp_path) -> None:  # type: ignore[no-untyped-def]
    answers = Answers(lambda messages: "yes", tmp_path, "writer")
    judge = Answers(lambda messages: "no", tmp_path, "judge")
    for one in (answers, judge):
        one.ask("asking", ["a", "b"], lambda text: None if text == "no" else text)
    texts = ("one \u00e9 two", "one \u00e9 two", "three four", "a b c")
    documents = [Example(text=text, metadata={"kind": kind}) for text, kind in zip(texts, "xxyy", strict=True)]
    card = made("Recipe()", documents, 0.9, answers, judge).card
    assert card.kinds == {"x": (1, 10), "y": (2, 15)}
    assert card.stages == {
        "asking": {"asked": 2, "failed": 0, "unread": 0},
        "asking (judge)": {"asked": 2, "failed": 0, "unread": 2},
        "documents": {"written": 4, "near an earlier one": 1},
    }
    page = card.markdown()
    assert "Written by writer, judged by judge." in page
    assert "- asking (judge): 2 asked, 2 unread" in page
    assert "| y | 2 | 15 |" in page
    assert "- one \u00e9 two" in page
    assert json.loads(card.json())["kinds"]["y"] == [2, 15]
    assert len(made("Recipe()", documents, None, answers).documents) == 4
    assert made("Recipe()", [], 0.9, answers).documents == ()
