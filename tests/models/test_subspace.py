"""Subspaces by hand, and their basis or that of their complement alike."""

import pytest
import torch
from torch import Tensor

from everlearn.models.subspace import Subspace, grow, spectrum

MOMENT = torch.diag(torch.tensor([4.0, 3.0, 2.0, 1.0], dtype=torch.float64))


def axes(*numbers: int) -> Tensor:
    return torch.eye(4, dtype=torch.float64)[:, list(numbers)]


def dimension(space: Subspace) -> int:
    wide, kept = space.basis.shape
    return wide - kept if space.complement else kept


def test_the_fewest_directions_that_hold_the_energy_are_kept() -> None:
    # Energies 4, 3, 2, 1 of 10; squared 16, 9, 4, 1 of 30.
    for threshold, plain, squared in ((0.4, 1, 1), (0.41, 2, 1), (0.7, 2, 2), (0.84, 3, 3), (0.9, 3, 3), (1.0, 4, 4)):
        empty = Subspace.empty(MOMENT)
        assert dimension(grow(empty, MOMENT, threshold, False)) == plain, threshold
        assert dimension(grow(empty, MOMENT, threshold, True)) == squared, threshold


def test_what_is_there_already_counts() -> None:
    # Axis 0 holds 4 of 10: 0.7 needs axis 1 as well, 0.4 nothing.
    old = Subspace(axes(0))
    assert dimension(grow(old, MOMENT, 0.4, False)) == 1
    grown = grow(old, MOMENT, 0.7, False)
    assert dimension(grown) == 2
    assert grown.off(axes(0, 1)).abs().max() < 1e-12
    assert torch.allclose(grown.off(axes(2, 3)), axes(2, 3))


def test_the_smaller_basis_is_kept_and_projects_alike() -> None:
    torch.manual_seed(0)
    turned = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))[0]
    space = Subspace.empty(MOMENT)
    for count in range(4):
        space = space.grown(turned[:, count : count + 1])
        assert space.complement is (count + 1 > 2)
        assert space.basis.shape[1] == min(count + 1, 3 - count)
        x = torch.randn(4, 3, dtype=torch.float64)
        inside = turned[:, : count + 1]
        assert torch.allclose(space.off(x), x - inside @ inside.T @ x, atol=1e-12)


@pytest.mark.parametrize("squared", [False, True])
def test_directions_lie_off_the_subspace_and_come_in_order(squared: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(9, 6, dtype=torch.float64) * torch.arange(1, 7)
    old = Subspace(torch.linalg.qr(torch.randn(6, 2, dtype=torch.float64))[0])
    vectors, energy = spectrum(x.T @ x / 9, old, squared)
    assert vectors.shape == (6, 4)
    assert (old.basis.T @ vectors).abs().max() < 1e-12
    assert torch.allclose(vectors.T @ vectors, torch.eye(4, dtype=torch.float64))
    assert torch.equal(energy, energy.sort(descending=True)[0])


def test_unprojected_energies_are_mean_squares_along_a_direction() -> None:
    torch.manual_seed(0)
    x = torch.randn(9, 6, dtype=torch.float64)
    old = Subspace(torch.linalg.qr(torch.randn(6, 2, dtype=torch.float64))[0])
    vectors, energy = spectrum(x.T @ x / 9, old, False)
    _, s, v = torch.linalg.svd(x - x @ old.basis @ old.basis.T, full_matrices=False)
    assert torch.allclose(energy, s[:4] ** 2 / 9)
    assert torch.allclose((v[:4] @ vectors).abs(), torch.eye(4, dtype=torch.float64), atol=1e-10)


def test_directions_without_energy_are_left_out() -> None:
    vectors, energy = spectrum(torch.diag(torch.tensor([4.0, 3.0, 0.0, 0.0])), Subspace(axes(0).float()), False)
    assert energy.tolist() == [3.0]
    assert vectors[:, 0].abs().tolist() == [0.0, 1.0, 0.0, 0.0]
