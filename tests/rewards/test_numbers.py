"""Numbers however they are written."""

from fractions import Fraction

import pytest

from everlearn.errors import ConfigError
from everlearn.examples import Example, Message
from everlearn.rewards.extraction import Boxed, Marked
from everlearn.rewards.numbers import NumericEqual, SameNumber, number
from everlearn.rewards.reward import Answer


def score(reward, target, text):
    asked = Example(messages=(Message("user", "?"), Message("assistant", target)))
    return reward.score(asked, [Answer(text)])[0]


@pytest.mark.parametrize(
    ("reward", "target", "text", "expected"),
    [
        (NumericEqual(), "so 3 + 4 = 7\n#### 7", "I get 7.", 1),
        (NumericEqual(), "7", "7, since 3 + 4", 0),
        (NumericEqual("first"), "7", "7, since 3 + 4", 1),
        (NumericEqual(), "1234.5", "$1,234.50", 1),
        (NumericEqual(), "1/2", "0.5", 1),
        (NumericEqual(), "1/2", "it is 2/4", 1),
        (NumericEqual(), "2", "1/2", 0),
        (NumericEqual(), "0.003", "so it is 3/1,000", 1),
        (NumericEqual(), "3/1,000", "3", 0),
        (NumericEqual(), "7", "7" * 5000, 0),
        (NumericEqual(), "7", "seven", 0),
        (NumericEqual(), "7", "", 0),
        (NumericEqual(), "seven", "7", None),
        (NumericEqual(extract=Marked()), "7", "#### 7", 1),
        (NumericEqual(extract=Marked()), "7", "7", 0),
        (NumericEqual(extract=Marked()), "7", "#### 8\n7 is wrong", 0),
        (NumericEqual(extract=Boxed()), "7", "\\boxed{7}, not 8", 1),
        (NumericEqual("first", Marked()), "7", "3 + 4\n#### 7, not 8", 1),
        (NumericEqual(), "0.33", "1/3", 0),
        (NumericEqual(tolerance=0.01), "0.33", "1/3", 1),
        (NumericEqual(tolerance=0.3), "1", "1.3", 1),
        (NumericEqual(tolerance=0.3), "1", "1.31", 0),
        (NumericEqual(), "9007199254740993", "9007199254740992", 0),
    ],
)
def test_scores_by_hand(reward, target, text, expected):
    assert score(reward, target, text) == expected


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1/2", Fraction(1, 2)),
        (" .5 ", Fraction(1, 2)),
        ("-1,000", -1000),
        ("3/1,000", Fraction(3, 1000)),
        ("1,000 / 2,000", Fraction(1, 2)),
        ("3/-4", Fraction(-3, 4)),
        ("1" * 5000, None),
        ("1/0", None),
        ("7 apples", None),
        ("", None),
    ],
)
def test_a_text_is_a_number_or_none(text, value):
    assert number(text) == value


def test_what_is_no_number_is_compared_as_text():
    assert SameNumber().same("Paris", " Paris")
    assert not SameNumber().same("Paris", "7")
    assert not SameNumber().same("1/0", "2/0")
    assert SameNumber().same("1/0", "1/0")


def test_settings_without_sense_are_refused():
    with pytest.raises(ConfigError, match="'middle'"):
        NumericEqual("middle")
    with pytest.raises(ConfigError, match="tolerance is -1"):
        NumericEqual(tolerance=-1)
