"""The score that a task's own verifier gives."""

from collections.abc import Sequence
from dataclasses import dataclass

from everlearn.examples import Example
from everlearn.metrics.text import ReasoningGym
from everlearn.rewards.reward import Answer, Scores
from everlearn.types import Reply


@dataclass(frozen=True)
class TaskScore:
    """The score that reasoning-gym's verifier of the example's task gives (arXiv:2505.24760), in [0, 1].

    One reward for a mixture of tasks: each example's metadata names its own. Some tasks give a little for any answer
    at all, and part of the score for a near miss.

    Args:
        task: reasoning-gym's name of it, for examples whose metadata names none.

    Raises:
        ConfigError: if reasoning-gym is not installed, or has no such task.
    """

    task: str = ""

    def score(self, example: Example, replies: Sequence[Answer]) -> Scores:
        """See `Reward`; None where an example names no task, or has no entry for its verifier."""
        task = example.metadata.get("task", self.task)
        if not task or "entry" not in example.metadata:
            return [None] * len(replies)
        return [ReasoningGym(task).score(example, Reply(reply.text)) for reply in replies]
