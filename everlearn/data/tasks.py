"""Tasks of reasoning-gym by name, whose answers its own verifiers score (arXiv:2505.24760)."""

import json
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from itertools import islice
from typing import Any

import reasoning_gym  # type: ignore[import-untyped, import-not-found, unused-ignore]
from reasoning_gym.factory import DATASETS  # type: ignore[import-untyped, import-not-found, unused-ignore]

from everlearn.errors import ConfigError, DataError
from everlearn.examples import Example, Message

DRAWS = 20
"""Questions drawn for each that is wanted, before a task is said to have too few different ones."""
PATIENCE = 20
"""Questions without an answer, after which a task is said to have none at all."""


def reasoning_gym_examples(
    task: str, size: int, seed: int = 0, parameters: Mapping[str, Any] | None = None
) -> tuple[Example, ...]:
    """Questions of a task, all different, each with the answer, and with what its verifier reads in the metadata.

    The questions are those of `reasoning_gym.create_dataset(task, seed=seed, ...)` in their order, but for
    repetitions and for questions to which it gives no answer. That package draws question i from seed + i, so that
    two seeds closer to each other than `size` share questions: for training and test rows, draw once and cut in two.

    Args:
        task: reasoning-gym's name, such as "chain_sum".
        size: number of questions.
        seed: draws them.
        parameters: the task's own settings, such as `{"min_digits": 2}`.

    Raises:
        ConfigError: if there is no such task, or it refuses its parameters.
        DataError: if the task has no right answer to learn, or fewer different questions than are wanted.
    """
    if task not in DATASETS:
        near = get_close_matches(task, DATASETS, n=3) or sorted(DATASETS)
        raise ConfigError(f"reasoning-gym has no task {task!r}; use one of {near}.")
    settings = {**(parameters or {}), "size": size * DRAWS, "seed": seed}
    try:
        dataset = reasoning_gym.create_dataset(task, **settings)
    except (TypeError, ValueError, AssertionError) as error:
        raise ConfigError(f"reasoning-gym's {task}: {error}; its parameters are set in {parameters}.") from error
    examples = tuple(islice(_distinct(task, dataset), size))
    if len(examples) < size:
        found = f"has {len(examples)} different questions with an answer to learn"
        raise DataError(f"reasoning-gym's {task} with {parameters or {}} {found}, not {size}; ask for fewer.")
    return examples


def _distinct(task: str, dataset: Any) -> Iterator[Example]:
    seen: set[str] = set()
    for number in range(len(dataset)):
        entry = dataset[number]
        # Some questions have no answer; some tasks accept many answers and name none.
        if isinstance(entry["answer"], str) and entry["answer"].strip() and entry["question"] not in seen:
            seen.add(entry["question"])
            metadata = {"task": task, "entry": _plain(entry, dataset, f"{task}:{number + 1}")}
            turns = (Message("user", entry["question"]), Message("assistant", entry["answer"]))
            yield Example(messages=turns, metadata=metadata, source=f"{task}:{number + 1}")
        if number == PATIENCE and not seen:
            return


def _plain(entry: Mapping[str, Any], dataset: Any, source: str) -> Mapping[str, Any]:
    """The entry as plain data; the task's verifier has to judge by it as it judges by the entry."""
    plain: Mapping[str, Any] = json.loads(json.dumps(entry, default=str))
    if dataset.score_answer(entry["answer"], plain) != dataset.score_answer(entry["answer"], entry):
        raise DataError(f"reasoning-gym's {source}: its verifier cannot read plain data; use another task.")
    return plain
