"""The batches of one optimiser step, divided among processes so that each has about as many tokens."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

from everlearn.examples import Batch

EVEN = 1.1
"""Shares are even enough when the longest has at most so many times the mean: every split makes passes smaller."""


def shares(batches: Sequence[Batch], count: int) -> list[list[Batch]]:
    """Each process's batches; together they hold every supervised row once.

    The longest batch goes to the process that has least so far. While that leaves the shares uneven, the longest batch
    of the longest share is split by rows. So a batch's loss has to be the mean over its rows, weighted by what they
    count for.

    Args:
        batches: of one step.
        count: of processes; some get none where there are fewer rows.
    """
    trials = [_dealt(batches, count)]
    enough = EVEN * _tokens(batches) / count
    while _tokens(longest := max(trials[-1], key=_tokens)) > enough:
        widest = max(longest, key=lambda batch: batch.tokens.numel())
        if len(widest.tokens) <= widest.tied:
            break
        rest = [batch for share in trials[-1] for batch in share if batch is not widest]
        trials.append(_dealt([*rest, *halves(widest)], count))
    return min(trials, key=lambda dealt: max(map(_tokens, dealt)))


def halves(batch: Batch) -> list[Batch]:
    """A batch as two, each padded to its own longest row; without rows that supervise nothing.

    Rows that are tied stay together.
    """
    rows = batch.supervised.any(1).nonzero()[:, 0].tolist()
    middle = -(-len(rows) // (2 * batch.tied)) * batch.tied
    return [_rows(batch, part) for part in (rows[:middle], rows[middle:]) if part]


def _rows(batch: Batch, rows: Sequence[int]) -> Batch:
    segments = batch.segments[rows]
    width = int((segments > 0).sum(1).max())
    examples, ends = batch.examples, list(accumulate(batch.owned))
    if ends:
        examples = tuple(x for row in rows for x in examples[ends[row] - batch.owned[row] : ends[row]])
    return replace(
        batch,
        tokens=batch.tokens[rows, :width],
        positions=batch.positions[rows, :width],
        segments=segments[:, :width],
        supervised=batch.supervised[rows, :width],
        examples=examples,
        owned=tuple(batch.owned[row] for row in rows) if ends else (),
        tasks=tuple(batch.tasks[row] for row in rows) if batch.tasks else (),
        values={name: numbers[rows, :width] for name, numbers in batch.values.items()},
        counts=None if batch.counts is None else batch.counts[rows],
        teacher=batch.teacher and replace(batch.teacher, batch=_rows(batch.teacher.batch, rows)),
    )


def _dealt(batches: Sequence[Batch], count: int) -> list[list[Batch]]:
    dealt: list[list[Batch]] = [[] for _ in range(count)]
    for batch in sorted(batches, key=lambda b: b.tokens.numel(), reverse=True):
        min(dealt, key=_tokens).append(batch)
    return dealt


def _tokens(share: Sequence[Batch]) -> int:
    """What a share costs: its tokens, padding counted."""
    return sum(batch.tokens.numel() for batch in share)
