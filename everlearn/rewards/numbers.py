"""Numbers in completions: the right one is rewarded, and two ways of writing one are the same answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import inf
from typing import Literal

from everlearn.errors import ConfigError
from everlearn.examples import Example
from everlearn.rewards.extraction import FRACTION, Extractor, Number, WholeText
from everlearn.rewards.reward import Answer, Scores, right_answer


@dataclass(frozen=True)
class NumericEqual:
    """1 if a number in the completion equals the last one of the right answer, else 0; None where that holds none.

    "1/2" is one number, and equals "0.5".

    Args:
        position: which number counts, where the answer in the completion has several.
        extract: finds the answer in the completion, where not all of it is read: `Marked("####")`, say.
        tolerance: largest difference that still counts as equal.
    """

    position: Literal["first", "last"] = "last"
    extract: Extractor = WholeText()
    tolerance: float = 0.0

    def __post_init__(self) -> None:
        """Refuse a position or a tolerance that is none."""
        Number(self.position)
        SameNumber(self.tolerance)

    def score(self, example: Example, replies: Sequence[Answer]) -> Scores:
        """See `Reward`."""
        target = Number().find(right_answer(example) or "")
        if target is None:
            return [None] * len(replies)
        found = [Number(self.position).find(self.extract.find(reply.text) or "") for reply in replies]
        return [float(answer is not None and SameNumber(self.tolerance).same(target, answer)) for answer in found]


@dataclass(frozen=True)
class SameNumber:
    """Two answers are the same if they are the same number: "1/2", "0.5" and ".50" are.

    Where an answer is no number, it is the same as what is written like it.

    Args:
        tolerance: largest difference that still counts as equal.
    """

    tolerance: float = 0.0

    def __post_init__(self) -> None:
        """Refuse a tolerance below zero, and one that finds all numbers equal."""
        if not 0 <= self.tolerance < inf:
            raise ConfigError(f"SameNumber: tolerance is {self.tolerance}; give 0 or more.")

    def same(self, one: str, other: str) -> bool:
        """Whether they are."""
        a, b = number(one), number(other)
        if a is None or b is None:
            return one.strip() == other.strip()
        return abs(a - b) <= Fraction(str(self.tolerance))  # as it is written: the float 0.3 is a little less than 3/10


def number(text: str) -> Fraction | None:
    """What a text that is one number, or one over another, amounts to; None if it is anything else."""
    text = text.strip()
    if not FRACTION.fullmatch(text):
        return None
    top, _, bottom = text.replace(",", "").partition("/")
    try:
        above, below = Fraction(top.strip()), Fraction(bottom.strip() or "1")
    except ValueError:  # thousands of digits, which Python does not read, and nobody means
        return None
    return above / below if below else None
