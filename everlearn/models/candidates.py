"""How likely each of an example's candidates is, all of them read behind one prompt."""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from everlearn.data.packing import Row
from everlearn.examples import Batch, Encoded
from everlearn.models.language_model import LanguageModel
from everlearn.models.logprobs import said_logprobs

Tokens = tuple[int, ...]


@dataclass(frozen=True)
class Branches:
    """A row that holds a prompt, and what of its candidates has to be read.

    Of a candidate the last token is only foretold, and never read; its first is foretold by the prompt's last.

    Args:
        row: the prompt and what follows it.
        first: the number of its first candidate among the example's.
        columns: for each candidate, where each of its tokens is foretold.
        tokens: for each candidate, its tokens.
    """

    row: Row
    first: int
    columns: tuple[Tokens, ...]
    tokens: tuple[Tokens, ...]


def branches(prompt: Tokens, candidates: Sequence[Tokens], task: str, packs: bool) -> list[Branches]:
    """An example's candidates in one row where the model can pack documents, and in a row each where it cannot.

    What is the beginning of another candidate is read with that one.

    Args:
        prompt: its tokens, one at least.
        candidates: tokens of each, one at least.
        task: the experience that the model is told.
        packs: whether candidates may share the prompt.
    """
    if not packs:
        return [_alone(prompt, candidate, task, number) for number, candidate in enumerate(candidates)]
    read = _longest({candidate[:-1] for candidate in candidates})
    starts = [len(prompt)]
    for part in read:
        starts.append(starts[-1] + len(part))
    columns = tuple(
        (len(prompt) - 1, *_following(starts[bisect_left(read, candidate[:-1])], candidate)) for candidate in candidates
    )
    documents = [_document(prompt, supervised=False), *(_document(part, supervised=True) for part in read)]
    return [Branches(Row(tuple(documents), task=task), 0, columns, tuple(candidates))]


def totals(model: LanguageModel, batch: Batch, rows: Sequence[Branches]) -> Iterator[list[float]]:
    """For each row the total log-probability of each of its candidates, in nats; no gradient.

    Args:
        model: who is asked.
        batch: the rows, collated.
        rows: one for each row of the batch.
    """
    if batch.shared:  # else the first token behind a prompt would pass for a part of it where documents are routed
        batch = replace(batch, supervised=batch.segments > 1)
    places = [(b, c) for b, row in enumerate(rows) for columns in row.columns for c in columns]
    before = torch.zeros_like(batch.supervised)
    before[tuple(torch.tensor(places).T)] = True
    index = before.flatten().cumsum(0).view_as(before) - 1
    at = index[tuple(torch.tensor(places).T)]
    targets = torch.tensor([token for row in rows for tokens in row.tokens for token in tokens])
    scores: Tensor = said_logprobs(model.said(batch, before), at.to(model.device), targets.to(model.device)).double()
    each = iter(torch.split(scores, [len(tokens) for row in rows for tokens in row.tokens]))
    for row in rows:
        yield [float(next(each).sum()) for _ in row.tokens]


def _alone(prompt: Tokens, candidate: Tokens, task: str, number: int) -> Branches:
    whole = prompt + candidate[:-1]
    document = Encoded(whole, (False,) * len(prompt) + (True,) * (len(candidate) - 1))
    columns = tuple(range(len(prompt) - 1, len(whole)))
    return Branches(Row((document,), task=task), number, (columns,), (candidate,))


def _document(tokens: Tokens, supervised: bool) -> Encoded:
    return Encoded(tokens, (supervised,) * len(tokens))


def _longest(parts: set[Tokens]) -> list[Tokens]:
    """In order, those that begin no other; one that begins others stands right before one of them."""
    return [part for part, after in pairwise([*sorted(parts), ()]) if after[: len(part)] != part]


def _following(start: int, candidate: Tokens) -> range:
    return range(start, start + len(candidate) - 1)
