"""Three one-digit tasks of reasoning-gym, one after another; the embedded model solves some of each, and not all."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from everlearn.data.sequences import with_origin
from everlearn.examples import Example
from everlearn.fold import Settings, run
from everlearn.learner import Learner
from everlearn.merge_folders import merge_folders
from everlearn.methods.adapters import LoRA
from everlearn.methods.averaging import Soup
from everlearn.metrics.text import NumericMatch
from everlearn.models.optim import AdamW, Recipe
from everlearn.names import optional
from everlearn.objectives.next_token import NextToken
from everlearn.randomness import permutation
from everlearn.types import Experience, Objective, Progress, Stream

DIGIT = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}
TASKS: Mapping[str, Mapping[str, int]] = {
    "products": DIGIT,
    "chain_sum": DIGIT,
    "gcd": {"min_value": 1, "max_value": 12},
}
"""Their settings, in the order that they are learned. All answers are whole numbers."""
FORM = Recipe(AdamW(learning_rate=3e-4), epochs=4, batch_size=8)
"""How the model that all begin with has learned to answer."""
POOL = 100
"""Questions of each task: the one-digit products are no more."""


@dataclass(frozen=True)
class Counts:
    """Rows of each task.

    Args:
        train: drawn by the seed from what is none of the others.
        tests: the same for all seeds.
        validation: the same for all seeds; the learning rates are chosen by them.
        form: the same for all seeds; from their answers the model that all begin with learns how to answer.
    """

    train: int = 32
    tests: int = 36
    validation: int = 16
    form: int = 8

    @property
    def apart(self) -> int:
        """Rows that are never trained on in a task's turn."""
        return self.tests + self.validation + self.form


def form(counts: Counts, tasks: int = 3) -> Stream:
    """A few answers of all tasks at once: a number alone, as the answers of SFT are.

    Args:
        counts: of rows.
        tasks: how many of the three.

    Raises:
        ConfigError: if reasoning-gym is not installed.
    """
    rows = [
        row for name, of in _pools(tasks) for row in with_origin(of[counts.apart - counts.form : counts.apart], name)
    ]
    return Stream((Experience("form", tuple(rows), tuple(rows[:1]), NextToken(), NumericMatch()),), name="rft-form")


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
    found = []
    for name, rows in _pools(tasks):
        tests, validation = rows[: counts.tests], rows[counts.tests : counts.tests + counts.validation]
        rest = rows[counts.apart :]
        train = [rest[i] for i in permutation(len(rest), seed, "train", name)[: counts.train]]
        judged = tuple(with_origin(validation if validating else tests, name))
        found.append(Experience(name, with_origin(train, name), judged, objective, NumericMatch()))
    return Stream(tuple(found), name=f"rft-{tasks}")


def form_model(folder: Path, counts: Counts, tasks: int, progress: Progress) -> None:
    """Make the model that all ways begin with, where it is not there: the embedded one after `form`.

    Args:
        folder: of the model; the run that made it lies beside it.
        counts: of rows.
        tasks: how many of the three.
        progress: who wants to know how far it is.
    """
    if not folder.exists():
        taught = folder.with_name(f"{folder.name}-run")
        run(Learner("embedded", LoRA(rank=8), FORM), form(counts, tasks), taught, Settings(suite=()), progress)
        merge_folders(folder, "embedded", [str(taught)], Soup(), progress=progress)


def _pools(tasks: int) -> Iterator[tuple[str, tuple[Example, ...]]]:
    """Each task's questions, always the same."""
    draw = optional("everlearn.data.tasks:reasoning_gym_examples", "rl")
    yield from ((name, draw(name, POOL, 0, settings)) for name, settings in list(TASKS.items())[:tasks])
