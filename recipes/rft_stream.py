"""Three one-digit tasks of reasoning-gym, one after another; the embedded model solves some of each, and not all."""

from collections.abc import Mapping
from dataclasses import dataclass

from everlearn.data.sequences import with_origin
from everlearn.examples import Example
from everlearn.metrics.text import NumericMatch
from everlearn.names import optional
from everlearn.randomness import permutation
from everlearn.types import Experience, Objective, Stream

DIGIT = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}
TASKS: Mapping[str, Mapping[str, int]] = {
    "products": DIGIT,
    "chain_sum": DIGIT,
    "gcd": {"min_value": 1, "max_value": 12},
}
"""Their settings, in the order that they are learned. All answers are whole numbers."""
POOL = 100
"""Questions of each task: the one-digit products are no more."""


@dataclass(frozen=True)
class Counts:
    """Rows of each task.

    Args:
        train: drawn by the seed from what is neither test nor validation.
        tests: the same for all seeds.
        validation: the same for all seeds; the learning rates are chosen by them.
    """

    train: int = 40
    tests: int = 36
    validation: int = 16


def stream(counts: Counts, objective: Objective, seed: int, validating: bool, tasks: int = 3) -> Stream:
    """The tasks one after another.

    Prompts are the library's, and the last number of what the model says is its answer.

    Args:
        counts: of rows.
        objective: how all tasks are learned.
        seed: draws the training rows.
        validating: whether validation rows stand where test rows would.
        tasks: how many of the three.

    Raises:
        ConfigError: if reasoning-gym is not installed.
    """
    draw = optional("everlearn.data.tasks:reasoning_gym_examples", "rl")
    found = []
    for name, settings in list(TASKS.items())[:tasks]:
        rows: tuple[Example, ...] = draw(name, POOL, 0, settings)
        tests, validation = rows[: counts.tests], rows[counts.tests : counts.tests + counts.validation]
        rest = rows[counts.tests + counts.validation :]
        train = [rest[i] for i in permutation(len(rest), seed, "train", name)[: counts.train]]
        judged = tuple(with_origin(validation if validating else tests, name))
        found.append(Experience(name, with_origin(train, name), judged, objective, NumericMatch()))
    return Stream(tuple(found), name=f"rft-{tasks}")
