"""Win rates: both orders, ties, and what cannot be scored."""

from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from everlearn.errors import DataError
from everlearn.examples import Example
from everlearn.rewards.reward import Answer
from everlearn.rewards.win_rate import WinRate, win_rate
from everlearn.testing.toys import question

ITEMS = [question(p, "x") for p in "abcd"]


@dataclass(frozen=True)
class Length:
    """Longer is better; of those that tie, `bias` for the first."""

    bias: float = 0.0

    def score(self, example: Example, replies: Sequence[Answer]) -> list[float | None]:
        return [None if r.text == "?" else len(r.text) + self.bias * (i == 0) for i, r in enumerate(replies)]


def answers(*texts: str) -> list[Answer]:
    return [Answer(text) for text in texts]


def test_wins_ties_and_losses() -> None:
    found = win_rate(Length(), ITEMS, answers("long", "b", "cc", "d"), answers("no", "bbb", "dd", "d"))
    assert found == WinRate((1.0, 0.0, 0.5, 0.5))
    assert found.share == 0.5
    assert found.interval[0] < 0.5 < found.interval[1]


def test_a_judge_that_prefers_what_stands_first_decides_nothing() -> None:
    biased = win_rate(Length(bias=9.0), ITEMS, answers(*"abcd"), answers("xx", "yy", "zz", "ww"))
    assert biased.scores == (0.5,) * 4
    assert win_rate(Length(), ITEMS, answers(*"abcd"), answers("xx", "yy", "zz", "ww")).share == 0.0


def test_what_cannot_be_scored_is_dropped_and_counted() -> None:
    found = win_rate(Length(), ITEMS, answers("long", "?", "c", "?"), answers("no", "b", "?", "dd"))
    assert found == WinRate((1.0,), dropped=3)
    assert str(found).endswith("of 1, 3 unscorable")
    with pytest.raises(DataError, match="none of 2 held-out items"):
        win_rate(Length(), ITEMS[:2], answers("?", "?"), answers("a", "b"))
