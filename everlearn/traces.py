"""What a policy did on a task: the tokens it was shown and the tokens it drew, as they were, never encoded anew."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from everlearn.examples import Message


@dataclass(frozen=True)
class Trace:
    """One attempt of one policy at one task, or a part of it; what crosses from acting to learning.

    Args:
        prompt: tokens before the first drawn one; one at least.
        tokens: those after it: drawn by the policy, or put between by an environment.
        drawn: for each of them, whether the policy drew it.
        logprobs: in nats, at the temperature that they were drawn at; 0 where not drawn.
        text: the last answer, without special tokens.
        finished: whether the attempt ended by itself, rather than at a limit of tokens or turns.
        task: the key of the example that it is about.
        origin: the experience that the example belongs to.
        agent: who acted, where there are several.
        turn: the number of the policy's turn that this trace holds alone; 0 for a whole attempt.
        reward: how good it was; None where that could not be told.
        parts: of the reward, by name.
        attempt: its number among the attempts at the same task, from 0; traces of one attempt share it.
        error: what broke the attempt, and where; such a one is not scored.
        notes: numbers about the attempt, by name, at its last trace: turns, calls of tools.
        messages: what was said, for people; at the attempt's last trace.
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
    attempt: int = 0
    error: str = ""
    notes: Mapping[str, float] = field(default_factory=dict)
    messages: tuple[Message, ...] = ()

    @property
    def length(self) -> int:
        """Number of tokens that the policy drew."""
        return sum(self.drawn)

    def row(self, advantage: float | None = None) -> dict[str, Any]:
        """The trace as plain data, for people: without its tokens."""
        names = ("task", "origin", "agent", "attempt", "turn", "text", "finished", "length", "reward")
        found: dict[str, Any] = {name: getattr(self, name) for name in names}
        found |= {"parts": dict(self.parts), "advantage": advantage}
        said = [{"role": m.role, "content": m.content} for m in self.messages]
        more = {"error": self.error, "notes": dict(self.notes), "messages": said}
        return found | {name: value for name, value in more.items() if value}
