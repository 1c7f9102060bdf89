"""Tasks of reasoning-gym as experiences (arXiv:2505.24760); they need it: pip install 'everlearn[rl]'."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from everlearn.metrics.text import ReasoningGym
from everlearn.names import optional
from everlearn.types import Experience, Objective


def reasoning_gym_task(
    task: str,
    objective: Objective,
    size: int = 500,
    test: int = 100,
    seed: int = 0,
    parameters: Mapping[str, Any] | None = None,
) -> Experience:
    """A task by reasoning-gym's name, with rows that its own verifier scores.

    Training and test rows are different questions, and test rows the same ones however many train. A stream of tasks is
    `Stream(tuple(reasoning_gym_task(name, objective) for name in names))`; the same task at another difficulty needs
    another name: `dataclasses.replace(experience, name="chain_sum-hard")`.

    Args:
        task: such as "chain_sum".
        objective: how it is learned: from its answers, or from rewards.
        size: training rows.
        test: test rows.
        seed: draws the questions.
        parameters: the task's own settings of difficulty, such as `{"max_digits": 1}`.

    Raises:
        ConfigError: if reasoning-gym is not installed, has no such task, or it refuses its parameters.
        DataError: if the task has fewer different questions with an answer.
    """
    draw = optional("everlearn.data.tasks:reasoning_gym_examples", "rl")
    rows = tuple(replace(row, origin=task) for row in draw(task, size + test, seed, parameters))
    return Experience(task, rows[test:], rows[:test], objective, ReasoningGym(task))
