"""Rows of a padded batch laid end to end into fewer ones, so that hardly any padding is computed.

A row keeps its positions and sees itself alone, so that a model that can pack documents says the same of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from everlearn.examples import Batch

WORTH = 1 / 8
"""The share of the work that has to be saved; else a batch is left as it is."""
LENGTH = 512
"""Tokens that rows may have together, where the longest is shorter."""
SQUARE = 2048
"""Each token of a row so long costs twice what it costs alone, since it meets the keys before it."""
TRIES = 16
"""Numbers of rows that are tried at most."""


@dataclass(frozen=True)
class Dense:
    """A batch of B rows of T tokens in R rows of L.

    Args:
        batch: (R, L), without examples and targets.
        units: (R, L) which of the first rows each token is of, from 1; 0 is padding.
        source: (R, L) where in the first batch each token is, counted row by row; any place for padding.
        back: (B, T) where each token of the first batch is now, counted likewise; any place for padding.
    """

    batch: Batch
    units: Tensor
    source: Tensor
    back: Tensor

    def laid(self, values: Tensor) -> Tensor:
        """(R, L, ...) of numbers (B, T, ...), or (B, 1, ...) where all of a row have the same."""
        return _taken(values.expand(*self.back.shape, *values.shape[2:]), self.source)

    def own(self, values: Tensor) -> Tensor:
        """(B, T, ...) of numbers (R, L, ...); what stands at padding means nothing."""
        return _taken(values, self.back)


def dense(batch: Batch) -> Dense | None:
    """A batch in fewer rows; None where that is not worth it.

    Args:
        batch: padded on the right.
    """
    count, length = batch.segments.shape
    sizes = (batch.segments > 0).sum(1).tolist()
    rows = _chosen(sizes, length)
    new = max(sum(sizes[i] for i in row) for row in rows)
    if _work(len(rows), new) > (1 - WORTH) * _work(count, length):
        return None
    units, source = (torch.zeros(len(rows), new, dtype=torch.long) for _ in range(2))
    back = torch.zeros(count, length, dtype=torch.long)
    for place, row in enumerate(rows):
        start = 0
        for i in row:
            here, within = slice(start, start + sizes[i]), torch.arange(sizes[i])
            units[place, here] = i + 1
            source[place, here] = within + i * length
            back[i, : sizes[i]] = within + place * new + start
            start += sizes[i]
    return Dense(_moved(batch, units, source), units, source, back)


def _chosen(sizes: Sequence[int], length: int) -> list[list[int]]:
    """The rows that go into each new one, for the number of new ones that makes least work."""
    least = max(1, -(-sum(sizes) // max(length, LENGTH)))
    tried = [_spread(sizes, count) for count in range(least, min(len(sizes), least + TRIES - 1) + 1)]
    return min(tried, key=lambda rows: _work(len(rows), max(sum(sizes[i] for i in row) for row in rows)))


def _spread(sizes: Sequence[int], count: int) -> list[list[int]]:
    """Rows over a number of new ones, as evenly as they go: the longest first, each to the emptiest."""
    rows, used = [list[int]() for _ in range(count)], [0] * count
    for i in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        emptiest = used.index(min(used))
        rows[emptiest].append(i)
        used[emptiest] += sizes[i]
    return rows


def _work(rows: int, length: int) -> float:
    return rows * length * (1 + length / SQUARE)


def _taken(values: Tensor, places: Tensor) -> Tensor:
    found = values.flatten(0, 1).index_select(0, places.flatten().to(values.device))
    return found.view(*places.shape, *found.shape[1:])


def _moved(batch: Batch, units: Tensor, source: Tensor) -> Batch:
    tokens, positions, segments = (
        field.flatten()[source.to(field.device)] * (units > 0).to(field.device)
        for field in (batch.tokens, batch.positions, batch.segments)
    )
    return Batch(tokens, positions, segments, torch.zeros_like(units, dtype=torch.bool), shared=batch.shared)
