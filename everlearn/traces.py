"""What a policy did on a task: the tokens it was shown and the tokens it drew, as they were, never encoded anew."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Trace:
    """One attempt of one policy at one task; what crosses from acting to learning.

    Args:
        prompt: tokens before the first drawn one; one at least.
        tokens: those after it: drawn by the policy, or put between by an environment.
        drawn: for each of them, whether the policy drew it.
        logprobs: in nats, at the temperature that they were drawn at; 0 where not drawn.
        text: the last answer, without special tokens.
        finished: whether the last answer ended by itself, rather than at a limit.
        task: the key of the example that it is about.
        origin: the experience that the example belongs to.
        agent: who acted, where there are several.
        turn: the number of the policy's turn that this trace holds alone; 0 for a whole attempt.
        reward: how good it was; None where that could not be told.
        parts: of the reward, by name.
    """

    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    drawn: tuple[bool, ...]
    logprobs: tuple[float, ...]
    text: str = ""
    finished: bool = True
    task: str = ""
    origin: str = ""
    agent: str = ""
    turn: int = 0
    reward: float | None = None
    parts: Mapping[str, float] = field(default_factory=dict)

    @property
    def length(self) -> int:
        """Number of tokens that the policy drew."""
        return sum(self.drawn)

    def row(self, advantage: float | None = None) -> dict[str, Any]:
        """The trace as plain data, for people: without its tokens."""
        names = ("task", "origin", "agent", "turn", "text", "finished", "length", "reward")
        found: dict[str, Any] = {name: getattr(self, name) for name in names}
        return found | {"parts": dict(self.parts), "advantage": advantage}
