"""Next-token prediction: continual pre-training on documents, fine-tuning on demonstrations."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from everlearn.data.feeds import feed, steps_of
from everlearn.data.mixes import Mix
from everlearn.data.packing import Row, collate, pack, split_by_tokens, windows
from everlearn.errors import DataError
from everlearn.examples import Batch, Encoded, Example, Plan, Step
from everlearn.randomness import permutation
from everlearn.types import Model

WINDOW = 4096
"""Examples in memory at a time, so that a file larger than memory can be learned from."""

Group = tuple[list[Row], float, Mapping[str, float]]
"""The rows of an optimiser step, the progress after it, and its notes."""


@dataclass(frozen=True)
class NextToken:
    """Mean negative log-likelihood of the supervised tokens, in nats per token.

    Every token of a document is a target but its first; of a conversation, the assistant's turns. Documents are cut
    into windows and packed into rows with no attention across documents; a conversation gets a row of its own.
    A `Mix` is drawn as its phases say, and so is everything under a recipe's ramp: in order, document by document.

    Args:
        packed: whether documents share rows. A model that mixes tokens otherwise than by attention never shares.
    """

    counts_tokens: ClassVar[bool] = True

    packed: bool = True

    @property
    def references(self) -> Mapping[str, float]:
        """None."""
        return {}

    def steps(self, model: Model, examples: Sequence[Example], plan: Plan) -> Iterator[Step]:
        """One pass over the examples; a step has `plan.batch_size` rows.

        Raises:
            DataError: if a conversation is longer than `plan.length`.
        """
        drawn = isinstance(examples, Mix) or plan.ramp
        found = self._drawn(model, examples, plan) if drawn else self._groups(model, examples, plan)
        for number, (rows, progress, notes) in enumerate(found):
            if number >= plan.start:
                groups = split_by_tokens(rows, plan.tokens)
                yield Step(tuple(collate([rows[i] for i in group]) for group in groups), progress, notes)

    def loss(self, model: Model, batch: Batch) -> Tensor:
        """Mean over the batch's supervised tokens, a scalar."""
        return -model.token_logprobs(batch).mean()

    def _drawn(self, model: Model, examples: Sequence[Example], plan: Plan) -> Iterator[Group]:
        """The rows of each optimiser step as a mix or a ramp has them."""
        drawn = feed(model.encode, examples, plan)
        for rows in steps_of(drawn, plan, self.packed and model.packs):
            yield rows, drawn.progress(), drawn.notes()

    def _groups(self, model: Model, examples: Sequence[Example], plan: Plan) -> Iterator[Group]:
        """The rows of each optimiser step."""
        count = len(examples)
        order = range(count) if plan.seed is None else permutation(count, plan.seed, "examples")
        waiting: list[Row] = []
        for start in range(0, count, WINDOW):
            window = order[start : start + WINDOW]
            rows = self._rows(model, [examples[i] for i in window], plan)
            if plan.seed is not None:
                rows = [rows[i] for i in permutation(len(rows), plan.seed, "rows", start)]
            waiting += rows
            done, last = start + len(window), start + len(window) == count
            while len(waiting) >= plan.batch_size or (last and waiting):
                group, waiting = waiting[: plan.batch_size], waiting[plan.batch_size :]
                yield group, max(start, done - len(window) * len(waiting) / len(rows)) / count, {}

    def _rows(self, model: Model, examples: Sequence[Example], plan: Plan) -> list[Row]:
        documents: list[tuple[Encoded, Example]] = []
        rows: list[Row] = []
        for example in examples:
            encoded = model.encode(example)
            if example.text:
                documents += [(w, example) for w in windows(encoded, plan.length) if len(w.tokens) > 1]
                continue
            if len(encoded.tokens) > plan.length:
                size = f"{len(encoded.tokens)} tokens, more than length={plan.length}"
                raise DataError(
                    f"{example.source or example.key} has {size}; raise the recipe's length or drop the row."
                )
            rows.append(Row((encoded,), (example,)))
        if self.packed and model.packs:
            return rows + pack(documents, plan.length)
        return rows + [Row((piece,), (example,)) for piece, example in documents]
