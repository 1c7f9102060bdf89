"""SD-LoRA by hand: a direction has length 1, and its length goes into the factor."""

import pytest
import torch

from everlearn.methods.incremental import SDLoRA, _normalised
from everlearn.models.bank import banks
from tests.methods import summed


def test_an_adapters_length_goes_into_its_factor() -> None:
    weights = {
        "q.A.1": torch.tensor([[3.0, 4.0]]),
        "q.B.1": torch.tensor([[0.0], [2.0]]),
        "q.gain.1": torch.tensor(0.5),
    }
    # ||A|| = 5, ||B|| = 2; 0.5 (0, 2)^T (3, 4) = 5 (0, 1)^T (0.6, 0.8)
    found = _normalised("q", 1, weights)
    assert torch.allclose(found["q.A.1"], torch.tensor([[0.6, 0.8]]))
    assert found["q.B.1"].tolist() == [[0.0], [1.0]]
    assert found["q.gain.1"].item() == pytest.approx(5.0)


def test_an_adapter_without_a_direction_stays() -> None:
    weights = {"q.A.0": torch.ones(1, 2), "q.B.0": torch.zeros(2, 1), "q.gain.0": torch.tensor(0.8)}
    assert _normalised("q", 0, weights) == {}


def test_old_directions_have_length_one_and_their_factors_go_on_learning() -> None:
    model, before = summed.learned(SDLoRA(2), 1)
    for bank in banks(model.module).values():
        assert bank.A[0].norm().item() == pytest.approx(1.0)
        assert bank.B[0].norm().item() == pytest.approx(1.0)
    _, after = summed.learned(SDLoRA(2), 2)
    gains = [name for name in before.weights if name.endswith("gain.0")]
    assert len(gains) == 14
    assert all(before.weights[name] != after.weights[name] for name in gains)
