"""A probe lets a short cut pass where it says the same, and no other."""

import torch
from torch import Tensor, nn

from everlearn.examples import Batch
from everlearn.models.probes import packs, splits_head

SIZE = 97


def states(batch: Batch) -> Tensor:
    """Of a token by itself."""
    return torch.nn.functional.one_hot(batch.tokens, SIZE).double()


def sums(batch: Batch) -> Tensor:
    """Of all tokens up to each, whatever document they are of."""
    return states(batch).cumsum(1)


def test_documents_are_packed_where_none_hears_of_another() -> None:
    assert packs(states, SIZE)
    assert not packs(sums, SIZE)


def test_a_head_is_split_off_where_nothing_stands_between_it_and_the_logits() -> None:
    head = nn.Linear(SIZE, 5, dtype=torch.float64)
    assert splits_head(head, states, lambda batch: head(states(batch)), SIZE)
    assert not splits_head(head, states, lambda batch: head(states(batch)).tanh(), SIZE)
