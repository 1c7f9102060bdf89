"""Masks hold exactly what was asked for, in a bit a weight."""

import pytest
import torch

from everlearn.methods.masks import any_of, largest, pack_bits, unpack_bits


def test_the_largest_are_found_and_no_more() -> None:
    scores = torch.tensor([[3.0, -1.0, 2.0], [2.0, 0.0, -torch.inf]])
    assert largest(scores, 1).tolist() == [[True, False, False], [False, False, False]]
    assert largest(scores, 2).tolist() == [[True, False, True], [False, False, False]]  # of equal ones the earlier
    assert largest(scores, 3).tolist() == [[True, False, True], [True, False, False]]
    assert not largest(scores, 0).any()
    assert largest(scores, 6).all()


def test_so_many_as_were_asked_for_among_equal_ones() -> None:
    for count in range(6):
        assert int(largest(torch.zeros(5), count).sum()) == count
        assert largest(torch.zeros(5), count).tolist() == [i < count for i in range(5)]


@pytest.mark.parametrize("shape", [(1,), (8,), (9,), (3, 5), (2, 4, 3), (0,), (4, 0)])
def test_packed_masks_come_back(shape: tuple[int, ...]) -> None:
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(0)) > 0.5
    bits = pack_bits(mask)
    assert bits.dtype == torch.uint8
    assert len(bits) == -(-mask.numel() // 8)
    assert torch.equal(unpack_bits(bits, mask.shape), mask)
    assert torch.equal(unpack_bits(~bits, mask.shape), ~mask)


def test_bits_by_hand() -> None:
    mask = torch.tensor([True, False, True, False, False, False, False, True, False, True])
    assert pack_bits(mask).tolist() == [1 + 4 + 128, 2]


def test_any_of_joins_by_name() -> None:
    first, second = {"a": torch.tensor([1, 2], dtype=torch.uint8)}, {"a": torch.tensor([2, 2], dtype=torch.uint8)}
    found = any_of([first, second | {"b": torch.tensor([4], dtype=torch.uint8)}])
    assert {name: bits.tolist() for name, bits in found.items()} == {"a": [3, 2], "b": [4]}
    assert first["a"].tolist() == [1, 2]
    assert any_of([]) == {}
