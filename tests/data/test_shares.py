"""The batches of a step among processes: every row once, about as many tokens each."""

from dataclasses import replace

import pytest
import torch

from everlearn.data.packing import Row, collate
from everlearn.data.preferences import pair
from everlearn.data.shares import halves, shares
from everlearn.examples import Batch, Encoded, Example, Message, Teacher
from everlearn.models.language_model import LanguageModel
from everlearn.objectives.groups import Attempt, rows_of
from everlearn.objectives.judged import batches_of, case_of
from everlearn.objectives.next_token import NextToken
from everlearn.testing.toys import toy_model
from everlearn.traces import Trace


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return toy_model()


def row(*sizes: int) -> Row:
    """Documents of the given sizes, each of an example that is named by its size."""
    documents = tuple(Encoded(tuple(range(5, 5 + size)), (True,) * size) for size in sizes)
    return Row(documents, tuple(Example(text=f"{size}") for size in sizes))


def supervised(batch: Batch) -> list[int]:
    return batch.tokens[batch.supervised].tolist()


def test_halves_hold_every_row_and_its_examples_once() -> None:
    batch = collate([row(9), row(3, 4), row(2), row(2)])
    first, second = halves(batch)
    assert (first.tokens.shape, second.tokens.shape) == ((2, 9), (2, 2))
    assert [e.text for e in first.examples + second.examples] == ["9", "3", "4", "2", "2"]
    assert supervised(first) + supervised(second) == supervised(batch)
    assert first.weight + second.weight == batch.weight


def test_halves_know_their_own_where_a_row_has_one_example_for_all_its_documents(model: LanguageModel) -> None:
    prompt, origins = (Message("user", "say"),), ("one", "two", "three")
    asked = [replace(pair(prompt, "yes" * n, "no", {}), origin=o) for n, o in enumerate(origins, 1)]
    (batch,) = batches_of([case_of(model, e, 64) for e in asked], True, 1024, True)
    assert [[e.origin for e in half.examples] for half in halves(batch)] == [["three", "two"], ["one"]]
    assert [[e.origin for e in quarter.examples] for quarter in halves(halves(batch)[0])] == [["three"], ["two"]]


def test_halves_know_their_own_where_each_attempt_at_a_shared_prompt_has_one() -> None:
    def tried(task: str, prompt: tuple[int, ...], *tokens: int) -> Attempt:
        trace = Trace(prompt, tokens, (True,) * len(tokens), (-1.0,) * len(tokens), reward=1.0)
        return Attempt(Example(text=task), trace, 0.5)

    attempts = [tried("a", (5, 6), 7), tried("a", (5, 6), 8, 9), tried("a", (5, 6), 9), tried("b", (6, 6), 7)]
    for packs, mine in ((True, [["a", "a", "a"], ["b"]]), (False, [["a", "a"], ["a", "b"]])):
        batch = collate(rows_of(attempts, packs, 64, False, lambda count: None), packs)
        assert [[e.text for e in half.examples] for half in halves(batch)] == mine


def test_the_weighted_loss_of_halves_is_that_of_the_whole(model: LanguageModel) -> None:
    batch = collate([row(9), row(3, 4), row(2)])
    whole = NextToken().loss(model, batch)
    parts = sum(NextToken().loss(model, half) * half.weight / batch.weight for half in halves(batch))
    torch.testing.assert_close(parts, whole, rtol=1e-12, atol=0)


def test_a_row_that_supervises_nothing_is_left_out() -> None:
    silent = Row((Encoded((5, 6, 7), (False,) * 3),), ())
    assert [half.weight for half in halves(collate([row(4), silent, row(3)]))] == [3, 2]


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_shares_hold_every_batch_once_and_are_even(count: int) -> None:
    batches = [collate([row(8)] * rows) for rows in (6, 6, 6, 2)]
    dealt = shares(batches, count)
    sizes = [sum(b.tokens.numel() for b in share) for share in dealt]
    assert len(dealt) == count
    assert sum(b.weight for share in dealt for b in share) == sum(b.weight for b in batches)
    assert max(sizes) <= 1.25 * sum(sizes) / count


def test_batches_are_not_split_without_need() -> None:
    batches = [collate([row(8)] * 4) for _ in range(4)]
    assert [[id(b) in map(id, batches) for b in share] for share in shares(batches, 2)] == [[True, True]] * 2


def test_more_processes_than_rows_leave_some_without() -> None:
    assert sorted(len(share) for share in shares([collate([row(4), row(4)])], 3)) == [0, 1, 1]


def test_the_teachers_rows_go_where_the_models_go() -> None:
    batch = collate([row(9), row(3), row(2)])
    longer = collate([row(12), row(6), row(5)])
    for part in halves(replace(batch, teacher=Teacher(longer))):
        assert part.teacher is not None
        widths = [int((b.segments > 0).sum()) for b in (part, part.teacher.batch)]
        assert widths[1] == widths[0] + 3 * len(part.tokens)
