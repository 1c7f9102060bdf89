"""Passes over prompts that the live model attempts: what objectives that learn from their own draws share."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from everlearn.errors import DataError, ModelError
from everlearn.examples import Batch, Example, Plan, Step
from everlearn.models.language_model import LanguageModel
from everlearn.randomness import permutation, seed_of
from everlearn.types import Model


@dataclass(frozen=True)
class Lesson:
    """What attempts at some prompts teach.

    Args:
        batches: to learn from; none where they teach nothing.
        notes: numbers about the attempts.
        traces: the attempts as plain data.
    """

    batches: tuple[Batch, ...]
    notes: Mapping[str, float] = field(default_factory=dict)
    traces: tuple[Mapping[str, Any], ...] = ()


Taught = Callable[[LanguageModel, Sequence[Example], int], Lesson]
"""What the model's attempts at prompts teach, by the seed of all that is drawn."""


def passed(
    model: Model, examples: Sequence[Example], plan: Plan, taught: Taught, iterations: int = 1
) -> Iterator[Step]:
    """One pass over the prompts, `plan.batch_size` of them at a time.

    Args:
        model: draws as it is when the step begins.
        examples: the prompts.
        plan: the order, and where to begin.
        taught: attempts them, and makes batches of that.
        iterations: steps that learn from the same attempts; work can be stopped after the last of them.

    Raises:
        DataError: if an example is a document, which asks for nothing.
        ModelError: if the model cannot be sampled from.
    """
    if not isinstance(model, LanguageModel):
        raise ModelError(f"{type(model).__name__} cannot be sampled from; learning from draws needs a LanguageModel.")
    count, seed = len(examples), plan.seed or 0
    order = range(count) if plan.seed is None else permutation(count, plan.seed, "examples")
    for number, first in enumerate(range(0, count, plan.batch_size)):
        if iterations * (number + 1) <= plan.start:
            continue
        chosen = [examples[i] for i in order[first : first + plan.batch_size]]
        require_prompts(chosen)
        lesson = taught(model, chosen, seed_of(seed, "rollout", number))
        progress = min(first + plan.batch_size, count) / count
        yield Step(lesson.batches, progress, lesson.notes, lesson.traces, iterations == 1)
        for again in range(1, iterations):
            yield Step(lesson.batches, progress, pausable=again == iterations - 1)


def require_prompts(examples: Sequence[Example]) -> None:
    """Refuse documents.

    Raises:
        DataError: naming the first of them.
    """
    documents = [example.source or example.key for example in examples if example.text]
    if documents:
        raise DataError(f"{documents[0]} is a document; learning from draws needs prompts to answer.")
