"""Procrustes by hand: a quarter turn is undone, and what is no turn stays as a residual."""

import pytest
import torch

from everlearn.errors import ModelError
from everlearn.models.alignment import aligned, drift, rotation

OLD = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
TURNED = torch.tensor([[0.0, 1.0], [-2.0, 0.0]])  # a quarter turn: (x, y) to (-y, x)


def test_a_quarter_turn_is_found_and_undone() -> None:
    back = rotation(TURNED, OLD)
    assert torch.allclose(back, torch.tensor([[0.0, -1.0], [1.0, 0.0]]), atol=1e-6)
    found = drift(OLD, TURNED)
    # ||TURNED - OLD||^2 = (1 + 1) + (4 + 4) = 10, ||OLD||^2 = 5; R - I has four entries of size 1: 2 / (2 sqrt 2)
    assert found.moved == pytest.approx(2**0.5, abs=1e-6)
    assert found.residual == pytest.approx(0, abs=1e-6)
    assert (found.cosine, found.aligned_cosine) == (pytest.approx(0, abs=1e-6), pytest.approx(1, abs=1e-6))
    assert found.turned == pytest.approx(2**-0.5, abs=1e-6)
    assert found.rows == 2


def test_what_only_grew_longer_is_a_residual_and_no_turn() -> None:
    found = drift(OLD, 1.5 * OLD)
    assert found.residual == pytest.approx(0.5, abs=1e-6)
    assert found.turned == pytest.approx(0, abs=1e-6)


def test_new_rows_come_along_into_the_old_space() -> None:
    rows = torch.cat([TURNED, torch.tensor([[3.0, 4.0]])])
    # the inverse of (x, y) to (-y, x) takes (3, 4) to (4, -3)
    expected = torch.cat([OLD, torch.tensor([[4.0, -3.0]])])
    assert torch.allclose(aligned(rows, OLD, 2), expected, atol=1e-6)
    assert torch.allclose(aligned(rows, OLD, torch.tensor([0, 1])), expected, atol=1e-6)


def test_rows_of_other_shapes_are_refused() -> None:
    with pytest.raises(ModelError, match="cannot be aligned"):
        rotation(OLD, OLD[:1])
