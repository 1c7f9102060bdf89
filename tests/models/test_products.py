"""Sums by blocks of rows have the values and gradients of the whole matrix."""

import pytest
import torch

from everlearn.models import products
from everlearn.models.products import product_l1, product_overlap, product_square


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "ENTRIES", 12)  # two rows of six, and a last block of one


def pair(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    b, a = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((7, 3), (3, 6)))
    return b.requires_grad_(), a.requires_grad_()


def same_gradients(found: torch.Tensor, expected: torch.Tensor, b: torch.Tensor, a: torch.Tensor) -> None:
    mine, whole = torch.autograd.grad(found, (b, a)), torch.autograd.grad(expected, (b, a))
    assert all(torch.allclose(x, y) for x, y in zip(mine, whole, strict=True))


def test_the_sum_of_sizes_is_that_of_the_whole_matrix() -> None:
    b, a = pair(0)
    expected, found = (b @ a).abs().sum(), product_l1(b, a)
    assert found.item() == pytest.approx(expected.item())
    same_gradients(3 * found, 3 * expected, b, a)


def test_the_overlap_is_that_of_whole_matrices() -> None:
    (b, a), (old_b, old_a) = pair(0), pair(1)
    fixed = (old_b @ old_a).detach()
    expected = ((b @ a) * fixed).square().sum()
    found = product_overlap(b, a, old_b.detach(), old_a.detach())
    assert found.item() == pytest.approx(expected.item())
    same_gradients(found, expected, b, a)


def test_the_sum_of_squares_is_that_of_the_whole_matrix() -> None:
    b, a = pair(0)
    expected, found = (b @ a).square().sum(), product_square(b, a)
    assert found.item() == pytest.approx(expected.item())
    same_gradients(found, expected, b, a)
