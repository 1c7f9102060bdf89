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
    """Compare two answers to each example: the one with the higher score wins.

    A judge is asked once, since scores do not depend on the order of what is scored (`Reward`): one that favours a
    place has to be asked in both orders by the reward itself, as `PairJudge` does.

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
    mine, other = judge.score(example, [ours, theirs])
    if mine is None or other is None:
        return None if mine is other else float(other is None)
    return 0.5 if mine == other else float(mine > other)
