"""Subspaces by hand."""

from typing import Any

import pytest
import torch
from torch import Tensor

from everlearn.methods.spans import extended_basis, extended_directions, laid_out, off_directions, off_inputs, precise


def tensor(*values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_directions_by_hand() -> None:
    # (3, 4) / 5 = (0.6, 0.8); (0, 5) less 4 (0.6, 0.8) is (-2.4, 1.8), of length 3.
    one = extended_directions({}, {"w": tensor(3, 4)})
    two = extended_directions(one, {"w": tensor(0, 5)})
    assert two["w"].flatten().tolist() == pytest.approx([0.6, 0.8, -0.8, 0.6])
    # (1, 0) less 0.6 (0.6, 0.8) is (0.64, -0.48).
    assert off_directions({"w": tensor(1, 0)}, one)["w"].tolist() == pytest.approx([0.64, -0.48])
    assert off_directions({"w": tensor(1, 0)}, two)["w"].tolist() == pytest.approx([0, 0], abs=1e-15)


def test_a_direction_that_is_known_or_nothing_adds_none() -> None:
    one = extended_directions({}, {"w": tensor(3, 4)})
    assert torch.equal(extended_directions(one, {"w": tensor(-6, -8 + 1e-9)})["w"], one["w"])
    assert extended_directions({}, {"w": tensor(0, 0)}) == {}


def test_a_parameter_may_come_and_go() -> None:
    one = extended_directions({}, {"a": tensor(1, 1), "b": tensor(1)})
    two = extended_directions(one, {"a": tensor(1, 0), "c": tensor([2])})
    gram = torch.stack([t.flatten(1) @ t.flatten(1).T for t in two.values()]).sum(0)
    torch.testing.assert_close(gram, torch.eye(2, dtype=torch.float64))
    # Where b stands still, what is left is at right angles to both in a and c alone.
    left = off_directions({"a": tensor(1, 2), "c": tensor([3]), "d": tensor(1)}, two)
    along = two["a"] @ left["a"] + two["c"].flatten(1) @ left["c"].flatten()
    assert along.tolist() == pytest.approx([0, 0], abs=1e-12)
    assert left["d"].tolist() == [1]


def test_a_basis_by_hand() -> None:
    # The columns (2, 0) and (0, 1) have energies 4 and 1: 0.8 of 5 is in the first direction.
    columns = tensor([2, 0], [0, 1])
    assert extended_basis(None, columns, 0.8).abs().tolist() == [[1], [0]]
    assert extended_basis(None, columns, 0.81).shape == (2, 2)
    # (3, 1): 9 of 10 is known already.
    first, new = tensor([1], [0]), tensor([3], [1])
    assert extended_basis(first, new, 0.9).abs().tolist() == [[1], [0]]
    both = extended_basis(first, new, 0.95)
    torch.testing.assert_close(both.abs(), torch.eye(2, dtype=torch.float64))


def test_a_basis_never_has_more_vectors_than_dimensions() -> None:
    rng = torch.Generator().manual_seed(0)
    basis = None
    for _ in range(4):
        basis = extended_basis(basis, torch.randn(6, 4, dtype=torch.float64, generator=rng), 1.0)
        torch.testing.assert_close(basis.T @ basis, torch.eye(basis.shape[1], dtype=torch.float64))
    assert basis is not None
    assert basis.shape == (6, 6)


def test_a_movement_off_old_inputs_by_hand() -> None:
    update, basis = tensor([1, 2], [3, 4]), tensor([1], [0])
    assert off_inputs(update, basis).tolist() == [[0, 2], [0, 4]]
    assert off_inputs(update, basis, turned=True).tolist() == [[0, 0], [3, 4]]
    once = off_inputs(update, tensor([0.6], [0.8]))
    torch.testing.assert_close(off_inputs(once, tensor([0.6], [0.8])), once)


def test_a_copy_is_laid_out_as_a_file_gives_it_back() -> None:
    for shape in ((3, 2), (3, 1), (1, 3)):
        made = laid_out(torch.empty(shape[::-1]).T)
        assert made.stride() == torch.empty(shape).stride()


def test_sums_are_made_in_single_precision_at_least() -> None:
    assert [precise(torch.zeros(1, dtype=d)) for d in (torch.bfloat16, torch.float64)] == [torch.float32, torch.float64]
