"""The recipe of the flywheel: its hidden preference by hand, and what is asked."""

import pytest

from everlearn.rewards.reward import Answer
from recipes.plain_words import ASKED, THINGS, Plain, page, wheel


def test_plain_words_are_counted_and_cut_answers_cannot_be_told() -> None:
    asked = wheel(0, 9, ()).prompts[0]
    answers = [
        Answer("A lamp is a big, round electrical thing."),  # electrical is long, "round" and "thing." are not
        Answer("A lamp is a light"),  # five words are no sentence
        Answer("It illuminates everything around the garden nicely.", finished=False),
        Answer("Illuminating apparatus, frequently electrical, wonderful indeed."),
    ]
    assert Plain().score(asked, answers) == [7 / 8, 0.0, None, 0.0]
    assert Plain(wanted=False).score(asked, answers) == [1 / 8, 0.0, None, 1.0]


def test_rounds_and_comparisons_ask_about_different_things() -> None:
    kind = wheel(1, len(THINGS), ())
    learned, held_out = ({e.messages[0].content for e in part} for part in (kind.prompts, kind.held_out))
    assert len(set(THINGS)) == len(THINGS)
    assert (len(learned), len(held_out)) == (len(ASKED) * (len(THINGS) - len(THINGS) // 3), 3 * (len(THINGS) // 3))
    assert not _things(learned) & _things(held_out)
    assert wheel(1, 9, ()).prompts == wheel(1, 9, ()).prompts != wheel(2, 9, ()).prompts


def _things(texts: set[str]) -> set[str]:
    return {thing for thing in THINGS for text in texts if thing in text.replace("?", " ").split()}


def test_the_page_tells_of_every_round_with_its_reason() -> None:
    start = {"kept": True, "general": 0.5, "plain": 0.6}
    again = start | {"kept": False, "won": 0.25, "over": 0.75, "ends": [0.5, 1.0], "pairs": 8, "why": "Taken back: so."}
    text = page({0: [start, again], 1: [start, again | {"kept": True, "won": 0.75}]}, 9)
    assert "| start | 2 of 2 | - | - | - | 60.0" in text
    row = next(line for line in text.splitlines() if line.startswith("| 1 |"))
    assert row.startswith("| 1 | 1 of 2 | 8 | 50.0 [-267.7, 367.7] | 75.0")
    assert "- seed 0, round 1: 75.0 [50.0, 100.0]. Taken back: so." in text


@pytest.mark.parametrize("answer", ["", "   "])
def test_an_empty_answer_is_worth_nothing(answer: str) -> None:
    assert Plain().score(wheel(0, 9, ()).prompts[0], [Answer(answer)]) == [0.0]
