"""What a policy acts in: something that is reset once, and then answers what the policy says."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Any, Protocol, runtime_checkable

from everlearn.errors import DataError
from everlearn.examples import Example, Message


@dataclass(frozen=True)
class Observation:
    """What an environment says, at first and after each answer.

    Args:
        said: a text, for one turn of the user's, or several turns. The first observation is the whole prompt, and
            nothing stands for the example's own; later ones follow the answer.
        reward: of the answer; None where it has none. An attempt no answer of which has one cannot be scored.
        done: whether the attempt is over; what is said then is for people alone.
        info: numbers that are added up over the attempt and kept beside its traces.
        tools: JSON schemas of functions that the chat template tells the model of; read from the first observation.
    """

    said: str | tuple[Message, ...] = ""
    reward: float | None = None
    done: bool = False
    info: Mapping[str, float] = field(default_factory=dict)
    tools: tuple[Mapping[str, Any], ...] = ()

    def __post_init__(self) -> None:
        """Refuse what cannot be said or counted."""
        turns = isinstance(self.said, tuple) and all(isinstance(turn, Message) for turn in self.said)
        if not (turns or isinstance(self.said, str)):
            raise DataError(f"an environment said {self.said!r}: it says a text, or a tuple of messages.")
        if self.reward is not None and not isfinite(self.reward):
            raise DataError(
                f"an environment gave the reward {self.reward}: give a number, or None where there is none."
            )

    @property
    def messages(self) -> tuple[Message, ...]:
        """What is said, in turns; "?" for the halves of characters (surrogates) that no tokenizer reads."""
        turns = self.said if isinstance(self.said, tuple) else (Message("user", self.said),) if self.said else ()
        return tuple(replace(turn, content=turn.content.encode("utf-8", "replace").decode()) for turn in turns)


class Env(Protocol):
    """What one attempt happens in. A fresh one is made for each attempt, and is reset once.

    What it says, a text alone or with more, hangs on the example, the seed and the answers and on nothing else, so that
    an attempt is the same alone and among others, and in a run that was stopped and goes on.
    """

    def reset(self, example: Example, seed: int) -> Observation | str:
        """Begin.

        Args:
            example: the task.
            seed: decides all randomness; the same for all attempts at a task, so that they are compared in the same
                world.
        """

    def step(self, text: str) -> Observation | str:
        """Answer what the policy said, which is without special tokens."""


@runtime_checkable
class Scoring(Protocol):
    """An environment that also scores an attempt as a whole."""

    def score(self) -> float | None:
        """How good the attempt was; asked once, when it is over, whatever ended it. It counts to the last answer."""
