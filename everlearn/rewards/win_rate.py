"""How often one version's answers are judged better than another's."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from everlearn.errors import DataError
from everlearn.examples import Example
from everlearn.rewards.reward import Answer, Reward
from everlearn.statistics import mean_interval


@dataclass(frozen=True)
class WinRate:
    """The outcome of a comparison, item by item.

    Args:
        scores: 1 where the first answer won, 0 where the second did, 1/2 where neither.
        dropped: items of which neither answer could be scored; they are left out.
    """

    scores: tuple[float, ...]
    dropped: int = 0

    @property
    def share(self) -> float:
        """Of wins, ties counted as half of one."""
        return fmean(self.scores)

    @property
    def interval(self) -> tuple[float, float]:
        """Of the share, at 95 %."""
        return mean_interval(self.scores)

    def __str__(self) -> str:
        """In words, with numbers."""
        low, high = self.interval
        left = f", {self.dropped} unscorable" if self.dropped else ""
        return f"{self.share:.3f} [{low:.3f}, {high:.3f}] of {len(self.scores)}{left}"


def win_rate(judge: Reward, examples: Sequence[Example], ours: Sequence[Answer], theirs: Sequence[Answer]) -> WinRate:
    """Compare two answers to each example; each pair is judged in both orders, and tied where the orders disagree.

    The same answer ties, unasked. One that cannot be scored loses to one that can be: else a version that hardly ever
    comes to an end would be compared on the few items on which it does.

    Args:
        judge: scores both answers of an item together.
        examples: what was asked.
        ours: an answer to each.
        theirs: another one to each.

    Raises:
        DataError: if no item could be scored.
    """
    found = [_compared(judge, *item) for item in zip(examples, ours, theirs, strict=True)]
    scores = tuple(score for score in found if score is not None)
    if not scores:
        raise DataError(f"none of {len(examples)} held-out items could be scored by {judge}; give others.")
    return WinRate(scores, len(found) - len(scores))


def _compared(judge: Reward, example: Example, ours: Answer, theirs: Answer) -> float | None:
    if ours == theirs:
        return 0.5
    (a, b), (d, c) = judge.score(example, [ours, theirs]), judge.score(example, [theirs, ours])
    forth, back = _better(a, b), _better(c, d)
    return forth if forth is None or back is None or forth == back else 0.5


def _better(ours: float | None, theirs: float | None) -> float | None:
    """1 where our score is the higher one, 0 where theirs is, 1/2 where neither; no score is lower than any."""
    if ours is None or theirs is None:
        return None if ours is theirs else float(theirs is None)
    return 0.5 if ours == theirs else float(ours > theirs)
