"""What a reward is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from everlearn.examples import Example


@dataclass(frozen=True)
class Answer:
    """What is judged.

    Args:
        text: without special tokens.
        finished: whether it ended by itself, rather than at a limit.
        tokens: its length; of an attempt in turns, that of all its answers.
    """

    text: str
    finished: bool = True
    tokens: int = 0


class Reward(Protocol):
    """Frozen data."""

    def score(self, example: Example, replies: Sequence[Answer]) -> list[float | None]:
        """How good each reply of a group is; None where that cannot be told."""
