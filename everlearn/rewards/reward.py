"""What a reward is: all completions of one prompt in, a number or None for each out; and how several make one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from everlearn.errors import ConfigError
from everlearn.examples import Example, Message
from everlearn.types import Metric, Reply

Scores = list[float | None]
"""A score for each completion of a prompt; None where it cannot be scored, and is left out of learning."""


@dataclass(frozen=True)
class Answer:
    """One completion of a prompt, as rewards see it.

    Args:
        text: without special tokens.
        finished: whether it ended by itself, rather than at a limit.
        tokens: its length, the end token counted; of an attempt in turns, that of all its answers.
    """

    text: str
    finished: bool = True
    tokens: int = 0


@runtime_checkable
class Reward(Protocol):
    """How completions are scored for learning. Frozen data.

    The completions of one prompt (a *group*) come together, since votes and comparing judges need them all. A
    member's score does not depend on the order of the group unless a reward says so, and is the same each time.
    """

    def score(self, example: Example, replies: Sequence[Answer]) -> Scores:
        """One score for each reply, higher is better; None where it cannot be scored, which is never 0."""


@runtime_checkable
class Noting(Protocol):
    """A reward that has more to say about a group than its scores."""

    def notes(self, example: Example, replies: Sequence[Answer]) -> Mapping[str, float]:
        """Numbers by name for people; a step keeps each one's mean over the prompts that have it."""


def notes_of(reward: Reward, example: Example, replies: Sequence[Answer]) -> Mapping[str, float]:
    """What a reward notes; nothing where it notes nothing."""
    return reward.notes(example, replies) if isinstance(reward, Noting) else {}


def require_reward(reward: Reward | None, name: str = "reward") -> None:
    """Refuse a metric where a reward is needed: it scores one reply, and not all completions of a prompt.

    Args:
        reward: what was given; None passes.
        name: of the argument.

    Raises:
        ConfigError: if it is a metric; says how it becomes a reward.
    """
    if isinstance(reward, Metric):
        raise ConfigError(
            f"{name}={reward}: a metric is no reward; one of generated text becomes one as Scored({reward})."
        )


def question(example: Example) -> tuple[Message, ...]:
    """The turns that the model is asked to go on from: all, but for an assistant's at the end."""
    return example.messages[:-1] if _is_answered(example) else example.messages


def right_answer(example: Example) -> str | None:
    """The assistant's turn at the end of an example; None where there is none, or it is blank: nobody knows it."""
    return example.response if _is_answered(example) and example.response.strip() else None


def _is_answered(example: Example) -> bool:
    return bool(example.messages) and example.messages[-1].role == "assistant"


@dataclass(frozen=True)
class Scored:
    """The score that a metric of text gives each completion by itself, in [0, 1]; None where no answer is known.

    Args:
        metric: one that reads generated text, such as `RougeL()`.
    """

    metric: Metric

    def __post_init__(self) -> None:
        """Refuse a metric that judges by likelihood."""
        if self.metric.question != "generate":
            raise ConfigError(
                f"Scored: {self.metric} judges by likelihood, and a completion has text alone; "
                "use a metric of generated text, such as ExactMatch."
            )

    def score(self, example: Example, replies: Sequence[Answer]) -> Scores:
        """See `Reward`."""
        if right_answer(example) is None:
            return [None] * len(replies)
        return [self.metric.score(example, Reply(reply.text)) for reply in replies]


@dataclass(frozen=True)
class IfFinished:
    """Another reward for what ended by itself, and what is declared here for what was cut off at the limit.

    Args:
        reward: of a finished completion. Cut ones are shown to it too, so that votes and comparisons see the group.
        otherwise: of a cut one; None leaves it out of learning (arXiv:2503.14476, "overlong filtering").
    """

    reward: Reward
    otherwise: float | None = None

    def __post_init__(self) -> None:
        """Refuse a metric."""
        require_reward(self.reward)

    def score(self, example: Example, replies: Sequence[Answer]) -> Scores:
        """See `Reward`."""
        scores = self.reward.score(example, replies)
        return [s if reply.finished else self.otherwise for s, reply in zip(scores, replies, strict=True)]

    def notes(self, example: Example, replies: Sequence[Answer]) -> Mapping[str, float]:
        """See `Noting`: the other reward's."""
        return notes_of(self.reward, example, replies)


@dataclass(frozen=True)
class Part:
    """One reward among several.

    Args:
        reward: what scores.
        weight: its score is multiplied by it.
        required: whether a completion that it cannot score cannot be scored at all.
    """

    reward: Reward
    weight: float = 1.0
    required: bool = False

    def __post_init__(self) -> None:
        """Refuse a metric."""
        require_reward(self.reward)


@dataclass(frozen=True)
class Weighted:
    """The weighted sum of several rewards over those that could score, as TRL sums them (`nansum`).

    Unlike TRL's, which is 0 then, the sum over no score at all is None. Weights are not made to sum to 1 again where a
    part is None: a completion that misses a part has less to win; mark as `required` what it may not miss.

    Args:
        parts: the rewards, each with its weight.
    """

    parts: tuple[Part, ...]

    def __post_init__(self) -> None:
        """Refuse a sum of nothing."""
        if not self.parts:
            raise ConfigError("Weighted: there are no parts; give it one at least, as in Weighted((Part(Exact()),)).")

    def score(self, example: Example, replies: Sequence[Answer]) -> Scores:
        """See `Reward`."""
        columns = [part.reward.score(example, replies) for part in self.parts]
        return [self._sum(scores) for scores in zip(*columns, strict=True)]

    def notes(self, example: Example, replies: Sequence[Answer]) -> Mapping[str, float]:
        """See `Noting`: those of all parts; of parts that note the same, the last one's."""
        return {name: n for part in self.parts for name, n in notes_of(part.reward, example, replies).items()}

    def _sum(self, scores: Sequence[float | None]) -> float | None:
        if any(s is None and part.required for s, part in zip(scores, self.parts, strict=True)):
            return None
        found = [part.weight * s for s, part in zip(scores, self.parts, strict=True) if s is not None]
        return sum(found) if found else None
