"""Win rates: both orders, ties, and what cannot be scored."""

from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from everlearn.errors import DataError
from everlearn.examples import Example, Message
from everlearn.rewards.judge import PairJudge
from everlearn.rewards.reward import Answer
from everlearn.rewards.win_rate import WinRate, win_rate
from everlearn.testing.toys import question

ITEMS = [question(p, "x") for p in "abcd"]


@dataclass(frozen=True)
class Length:
    """Longer is better; nobody can tell of what was cut."""

    def score(self, example: Example, replies: Sequence[Answer]) -> list[float | None]:
        return [len(r.text) if r.finished else None for r in replies]


def answers(*texts: str) -> list[Answer]:
    """Those that end with a question mark were cut."""
    return [Answer(text, finished=not text.endswith("?")) for text in texts]


def test_wins_ties_and_losses() -> None:
    found = win_rate(Length(), ITEMS, answers("long", "b", "cc", "d"), answers("no", "bbb", "dd", "d"))
    assert found == WinRate((1.0, 0.0, 0.5, 0.5))
    assert found.share == 0.5
    assert found.interval[0] < 0.5 < found.interval[1]


def test_a_judge_is_asked_once_in_each_order_and_one_that_prefers_what_stands_first_decides_nothing() -> None:
    asked: list[str] = []

    def first(messages: Sequence[Message]) -> str:
        asked.append(messages[0].content)
        return "Verdict: A"

    found = win_rate(PairJudge(first), ITEMS, answers(*"abcd"), answers("xx", "yy", "zz", "ww"))
    assert found.scores == (0.5,) * 4
    assert len(asked) == len(set(asked)) == 2 * 4


def test_an_answer_that_cannot_be_scored_loses_to_one_that_can_be() -> None:
    found = win_rate(Length(), ITEMS, answers("long", "?", "c", "long?"), answers("no", "b", "long?", "dd"))
    assert found == WinRate((1.0, 0.0, 1.0, 0.0))
    assert win_rate(Length(), ITEMS[:1], answers("d"), [Answer("d", finished=False)]) == WinRate((1.0,))


def test_items_of_which_neither_answer_can_be_scored_are_left_out_and_counted() -> None:
    found = win_rate(Length(), ITEMS, answers("long", "a?", "b?", "c?"), answers("no", "?", "?", "?"))
    assert found == WinRate((1.0,), dropped=3)
    assert str(found).endswith("of 1, 3 unscorable")
    with pytest.raises(DataError, match="none of 2 held-out items"):
        win_rate(Length(), ITEMS[:2], answers("a?", "b?"), answers("?", "?"))
