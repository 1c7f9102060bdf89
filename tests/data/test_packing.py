"""Windows, rows, groups and batches."""

from hypothesis import given
from hypothesis import strategies as st

from everlearn.data.packing import Row, collate, pack, rows_alone, split_by_tokens, windows
from everlearn.examples import Encoded, Example

EXAMPLE = Example(text="x")


def document(size: int) -> Encoded:
    return Encoded(tuple(range(size)), (False,) + (True,) * (size - 1))


@given(st.integers(1, 60), st.integers(2, 20))
def test_each_token_of_a_document_is_a_target_once(size: int, length: int) -> None:
    pieces = windows(document(size), length)
    targets = [t for p in pieces for t, s in zip(p.tokens, p.supervised, strict=True) if s]
    assert targets == list(range(1, size))
    assert all(len(p.tokens) <= length and not p.supervised[0] for p in pieces)


@given(st.lists(st.integers(1, 12), max_size=80))
def test_packing_keeps_every_piece_and_no_row_is_too_long(sizes: list[int]) -> None:
    pieces = [(document(n), EXAMPLE) for n in sizes]
    rows = pack(pieces, 12)
    assert sorted(len(d.tokens) for row in rows for d in row.documents) == sorted(sizes)
    assert all(len(row) <= 12 for row in rows)


def test_pieces_fill_rows() -> None:
    rows = pack([(document(n), EXAMPLE) for n in (7, 5, 4, 8)], 12)
    assert [[len(d.tokens) for d in row.documents] for row in rows] == [[7, 5], [4, 8]]


def test_groups_hold_the_tokens_they_may_and_one_row_at_least() -> None:
    rows = [Row((document(n),)) for n in (3, 10, 2, 4, 30)]
    assert split_by_tokens(rows, 20) == [[4], [1, 3], [0, 2]]


def test_a_batch_by_hand() -> None:
    batch = collate([Row((document(2), document(3))), Row((document(4),))])
    assert batch.tokens.tolist() == [[0, 1, 0, 1, 2], [0, 1, 2, 3, 0]]
    assert batch.positions.tolist() == [[0, 1, 0, 1, 2], [0, 1, 2, 3, 0]]
    assert batch.segments.tolist() == [[1, 1, 2, 2, 2], [1, 1, 1, 1, 0]]
    assert batch.supervised.int().tolist() == [[0, 1, 0, 1, 1], [0, 1, 1, 1, 0]]
    assert batch.weight == 6


def test_branches_go_on_where_their_prompt_ends() -> None:
    batch = collate([Row((document(2), document(3), document(2)))], shared=True)
    assert batch.positions.tolist() == [[0, 1, 2, 3, 4, 2, 3]]


def test_documents_alone_are_cut_and_say_which_they_are() -> None:
    found = list(rows_alone([(document(n), EXAMPLE) for n in (3, 9, 4)], length=5, tokens=8))
    assert [group for group, _ in found] == [[1], [2, 0]]
    assert found[0][1].tokens.tolist() == [[0, 1, 2, 3, 4]]
    assert found[1][1].supervised.tolist() == [[False, True, True, True], [False, True, True, False]]
