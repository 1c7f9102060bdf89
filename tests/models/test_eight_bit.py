"""Moments of eight bits, where there is CUDA."""

import pytest
import torch

pytest.importorskip("bitsandbytes", reason="needs bitsandbytes: pip install 'everlearn[quant]'.")

from everlearn.models.eight_bit import adamw


@pytest.mark.gpu
def test_a_step_moves_against_the_gradient() -> None:
    weight = torch.zeros(8192, device="cuda", requires_grad=True)
    optimiser = adamw([weight], 0.1, (0.9, 0.999), 0.0)
    weight.grad = torch.ones_like(weight)
    optimiser.step()
    torch.testing.assert_close(weight.detach(), torch.full_like(weight, -0.1), rtol=1e-2, atol=1e-2)
