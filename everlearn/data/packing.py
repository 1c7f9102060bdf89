"""From examples in tokens to padded rows, and from rows to batches, with no attention across documents."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from everlearn.examples import Batch, Encoded, Example


@dataclass(frozen=True)
class Row:
    """One row of a batch: documents laid end to end, with the examples they came from.

    Args:
        documents: in tokens.
        examples: one for each document, for all of them together, or for each that continues a prompt; or none.
        task: the experience that the model is told it belongs to, where the scenario tells.
        values: numbers by name and by token of all documents laid end to end.
        count: its weight in its step; None takes its supervised tokens.
    """

    documents: tuple[Encoded, ...]
    examples: tuple[Example, ...] = ()
    task: str = ""
    values: Mapping[str, Sequence[float]] = field(default_factory=dict)
    count: float | None = None

    def __len__(self) -> int:
        """Number of tokens."""
        return sum(len(d.tokens) for d in self.documents)


def windows(document: Encoded, length: int) -> list[Encoded]:
    """Cut a document into pieces of at most `length` tokens; each token is a target once.

    A piece begins with the last token of the piece before it, as context.
    """
    tokens, supervised = document.tokens, document.supervised
    starts = range(0, max(len(tokens) - 1, 1), length - 1)
    return [
        Encoded(tokens[i : i + length], (False, *supervised[i + 1 : i + length]) if i else supervised[:length])
        for i in starts
    ]


def pack(pieces: Iterable[tuple[Encoded, Example]], length: int) -> list[Row]:
    """Lay pieces into rows of at most `length` tokens: each into the fullest of the last rows that it fits."""
    closed: list[Row] = []
    pending: list[list[tuple[Encoded, Example]]] = []
    sizes: list[int] = []
    for piece in pieces:
        size = len(piece[0].tokens)
        fitting = [i for i, used in enumerate(sizes) if used + size <= length]
        if fitting:
            best = max(fitting, key=sizes.__getitem__)
            pending[best].append(piece)
            sizes[best] += size
            continue
        if len(pending) == 64:  # bounds the search; the oldest row is as full as it will get
            closed.append(_row(pending.pop(0)))
            sizes.pop(0)
        pending.append([piece])
        sizes.append(size)
    return closed + [_row(p) for p in pending]


def _row(pieces: Sequence[tuple[Encoded, Example]]) -> Row:
    return Row(tuple(e for e, _ in pieces), tuple(x for _, x in pieces))


def split_by_tokens(rows: Sequence[Row], tokens: int) -> list[list[int]]:
    """Indices of rows in groups of at most `tokens` tokens when padded, longest rows first; one row at least."""
    groups: list[list[int]] = []
    for index in sorted(range(len(rows)), key=lambda i: len(rows[i]), reverse=True):
        if groups and len(rows[groups[-1][0]]) * (len(groups[-1]) + 1) <= tokens:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def collate(rows: Sequence[Row], shared: bool = False) -> Batch:
    """Pad rows on the right to the longest.

    Args:
        rows: one at least.
        shared: whether the first document of each row is a prompt that its other documents continue.

    Returns:
        A batch on the CPU whose tensors are (B, T).
    """
    shape = (len(rows), max(len(row) for row in rows))
    tokens, positions, segments = (torch.zeros(shape, dtype=torch.long) for _ in range(3))
    supervised = torch.zeros(shape, dtype=torch.bool)
    for b, row in enumerate(rows):
        at = 0
        for number, document in enumerate(row.documents, start=1):
            end = at + len(document.tokens)
            tokens[b, at:end] = torch.tensor(document.tokens)
            positions[b, at:end] = torch.arange(end - at)
            if shared and number > 1:
                positions[b, at:end] += len(row.documents[0].tokens)
            segments[b, at:end] = number
            supervised[b, at:end] = torch.tensor(document.supervised)
            supervised[b, at] = False
            at = end
    examples = tuple(x for row in rows for x in row.examples)
    tasks = tuple(row.task for row in rows) if any(row.task for row in rows) else ()
    counts = [row.count for row in rows if row.count is not None]
    weights = torch.tensor(counts, dtype=torch.float64) if counts else None
    owned, values = tuple(len(row.examples) for row in rows), _values(rows, shape)
    return Batch(tokens, positions, segments, supervised, examples, shared, tasks, values, weights, owned=owned)


def _values(rows: Sequence[Row], shape: tuple[int, int]) -> dict[str, Tensor]:
    """(B, T) the rows' numbers by name; 0 where a row has none."""
    found = {
        name: torch.zeros(shape, dtype=torch.float64)
        for name in dict.fromkeys(name for row in rows for name in row.values)
    }
    for b, row in enumerate(rows):
        for name, numbers in row.values.items():
            found[name][b, : len(numbers)] = torch.tensor(numbers)
    return found


def rows_alone(
    documents: Sequence[tuple[Encoded, Example]], length: int, tokens: int
) -> Iterator[tuple[list[int], Batch]]:
    """Each document in a row of its own, cut to its first `length` tokens, in batches of at most `tokens` tokens.

    Args:
        documents: what to lay out, with the examples they came from.
        length: longest row, in tokens.
        tokens: most tokens of a batch, padding counted; one row at least.

    Yields:
        The indices of a batch's documents, by row, and the batch.
    """
    rows = [Row((Encoded(e.tokens[:length], e.supervised[:length]),), (x,)) for e, x in documents]
    for group in split_by_tokens(rows, tokens):
        yield group, collate([rows[i] for i in group])
