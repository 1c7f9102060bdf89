"""Answers are found where they stand, and nothing is found where none stands."""

import pytest

from everlearn.errors import ConfigError
from everlearn.rewards.extraction import Boxed, Marked, Number, Tagged, WholeText


@pytest.mark.parametrize(
    ("extract", "text", "found"),
    [
        (WholeText(), " a b \n", "a b"),
        (WholeText(), " \n", None),
        (Marked(), "3 + 4\n#### 7 \nDone.", "7"),
        (Marked(), "#### 6\n#### 7", "7"),
        (Marked("Answer:"), "Answer: 7", "7"),
        (Marked("Answer:"), "Answer:\n7", None),
        (Marked(), "#### 6\n####\n7", None),
        (Marked(), "7", None),
        (Marked(), "####", None),
        (Marked(), "#### \n", None),
        (Tagged(), "<answer>6</answer> no, <answer> 7 </answer>!", "7"),
        (Tagged(), "<answer>7", None),
        (Tagged(), "7</answer>", None),
        (Tagged(), "<answer> </answer>", None),
        (Tagged("solution"), "<solution>a\nb</solution>", "a\nb"),
        (Boxed(), r"so \boxed{6}, or \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (Boxed(), r"\boxed{7} and \boxed{8", "7"),
        (Boxed(), r"\fbox{7}", None),
        (Boxed(), r"\boxed{}", None),
        (Boxed(), "7", None),
        (Number(), "3 + 4 = 7.", "7"),
        (Number("first"), "-3 + 4 = 7.", "-3"),
        (Number(), "it is 1,234.50 now", "1,234.50"),
        (Number(), "one half, 1/2.", "1/2"),
        (Number(), "it is 3/1,000.", "3/1,000"),
        (Number(), "1,234.5 / 2,000.25", "1,234.5 / 2,000.25"),
        (Number(), "3/.5", "3/.5"),
        (Number(), "3/-4", "3/-4"),
        (Number(), "x is -.5", "-.5"),
        (Number(), "5-3", "3"),
        (Number(), "seven", None),
    ],
)
def test_answers_by_hand(extract, text, found):
    assert extract.find(text) == found


def test_settings_that_find_nothing_are_refused():
    with pytest.raises(ConfigError, match="mark is empty"):
        Marked("")
    with pytest.raises(ConfigError, match="tag is empty"):
        Tagged("")
    with pytest.raises(ConfigError, match="'middle'; use 'first' or 'last'"):
        Number("middle")
