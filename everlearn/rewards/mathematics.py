r"""Mathematics in completions, compared as such: `\frac{1}{2}`, 1/2 and 0.5 are one answer. Needs `everlearn[rl]`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from everlearn.errors import ConfigError
from everlearn.examples import Example
from everlearn.names import optional
from everlearn.rewards.extraction import Extractor, WholeText
from everlearn.rewards.reward import Answer, Scores, right_answer


def _latex(name: str) -> Any:
    return optional(f"everlearn.rewards.latex:{name}", "rl")


@dataclass(frozen=True)
class MathEqual:
    r"""1 if the completion's mathematics is that of the right answer, else 0; None where the right one cannot be read.

    Compared by math-verify: numbers to six decimals, expressions by sympy, sets, intervals, equations, matrices. Text
    without `$`, `\boxed`, `\(` or `\[` is read as one expression where it has no word in it. A completion that cannot
    be read, or not in time, scores 0: it must not pay to be unreadable. Time is kept by an alarm, so that scoring has
    to be done in the main thread.

    Args:
        extract: finds the answer in the completion, where math-verify is not to look for it: its last box, else its
            last formula.
        seconds: for reading each, and for comparing them; whole ones.

    Raises:
        ConfigError: if math-verify is not installed, or this is not the main thread.
    """

    extract: Extractor = WholeText()
    seconds: int = 5

    def __post_init__(self) -> None:
        """Refuse to wait for less than a second."""
        _require_time("MathEqual", self.seconds)

    def score(self, example: Example, replies: Sequence[Answer]) -> Scores:
        """See `Reward`."""
        target = right_answer(example)
        if target is None or not _latex("is_readable")(target, self.seconds):
            return [None] * len(replies)
        answers = [self.extract.find(reply.text) for reply in replies]
        equal = _latex("is_equal")
        return [float(answer is not None and equal(target, answer, self.seconds)) for answer in answers]


@dataclass(frozen=True)
class SameMath:
    """Two answers are the same if math-verify finds either equal to the other, or they are written alike.

    Each two of a group's different answers are compared: 64 different numbers take about a second, 64 different
    polynomials a quarter of a minute, and 64 answers of three kinds 0.03 s.

    Args:
        seconds: for reading each, and for comparing them; whole ones.

    Raises:
        ConfigError: if math-verify is not installed, or this is not the main thread.
    """

    seconds: int = 5

    def __post_init__(self) -> None:
        """Refuse to wait for less than a second."""
        _require_time("SameMath", self.seconds)

    def same(self, one: str, other: str) -> bool:
        """Whether they are."""
        equal = _latex("is_equal")
        return one.strip() == other.strip() or equal(one, other, self.seconds) or equal(other, one, self.seconds)


def _require_time(name: str, seconds: int) -> None:
    if seconds < 1:
        raise ConfigError(f"{name}: seconds is {seconds}; give a whole second at least.")
