"""An adapter with a routing matrix, by hand."""

import pytest
import torch
from torch import nn

from everlearn.errors import ModelError
from everlearn.models.adapted import adapted
from everlearn.models.lora import fold, wrap, wrap_with
from everlearn.models.routing_matrix import RoutingLinear, routings
from everlearn.testing.toys import toy_module


def test_the_routing_stands_between_the_factors() -> None:
    layer = RoutingLinear(nn.Linear(2, 1, bias=False, dtype=torch.float64), 2, 3.0)
    with torch.no_grad():
        layer.base.weight.copy_(torch.tensor([[1.0, 2.0]]))
        layer.A.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        layer.B.copy_(torch.tensor([[1.0, 2.0]]))
        layer.R.copy_(torch.tensor([[0.0, 1.0], [0.0, 0.0]]))
        layer.old.copy_(torch.tensor([[0.0, 0.0], [5.0, 0.0]]))
    # B (old + R) A = (1, 2) ((0, 1), (5, 0)) = (10, 1)
    assert layer.delta().tolist() == [[30.0, 3.0]]
    assert layer(torch.tensor([1.0, 1.0], dtype=torch.float64)).item() == 3 + 33


def test_factors_learn_through_the_new_routing_alone() -> None:
    layer = RoutingLinear(nn.Linear(1, 1, bias=False, dtype=torch.float64), 1, 2.0)
    with torch.no_grad():
        layer.base.weight.zero_()
        for parameter, value in ((layer.A, 1.0), (layer.B, 3.0), (layer.R, 7.0), (layer.old, 5.0)):
            parameter.fill_(value)
    y = layer(torch.ones(1, dtype=torch.float64))
    assert y.item() == 2 * 3 * (5 + 7) * 1
    y.backward()
    # dy/dA = s B R, dy/dB = s R A, dy/dR = s B A; with the old path they would be 72, 24 and 6
    gradients = [p.grad.item() for p in (layer.A, layer.B, layer.R) if p.grad is not None]
    assert gradients == [42.0, 14.0, 6.0]
    assert layer.old.grad is None


def test_folding_keeps_the_function_and_a_fresh_adapter_is_none() -> None:
    tokens = torch.arange(24).reshape(2, 12) * 5 % 51
    module = toy_module()
    plain = module(tokens).logits
    wrap_with(RoutingLinear, module, "all-linear", 2, 2.0)
    assert torch.allclose(module(tokens).logits, plain, atol=1e-12, rtol=0)
    for layer in routings(module).values():
        for p in (layer.B, layer.R, layer.old):
            nn.init.normal_(p, std=0.3)
    before = module(tokens).logits
    fold(module)
    assert not adapted(module)
    assert torch.allclose(module(tokens).logits, before, atol=1e-10, rtol=0)


def test_other_adapters_are_refused() -> None:
    module = toy_module()
    wrap_with(RoutingLinear, module, "q_proj", 2, 2.0)
    assert {n.rpartition(".")[2] for n, p in module.named_parameters() if p.requires_grad} == {"A", "B", "R"}
    with pytest.raises(ModelError, match=r"q_proj (has an adapter with rank|is a LoRALinear)"):
        wrap_with(RoutingLinear, module, "q_proj", 3, 2.0)
    plain = toy_module()
    wrap(plain, "q_proj", 2, 4.0)
    with pytest.raises(ModelError, match=r"q_proj (has an adapter with rank|is a LoRALinear)"):
        wrap_with(RoutingLinear, plain, "q_proj", 2, 2.0)
