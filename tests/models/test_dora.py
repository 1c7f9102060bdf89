"""DoRA is PEFT's, folds exactly, and changes nothing at first."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from everlearn.errors import ModelError
from everlearn.models.adapted import adapted
from everlearn.models.dora import DoRALinear
from everlearn.models.lora import fold, settled, wrap, wrap_with
from everlearn.testing.toys import toy_module


def tokens() -> Tensor:
    return torch.arange(24).reshape(2, 12) * 5 % 51


def trained(module: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    for layer in adapted(module).values():
        assert isinstance(layer, DoRALinear)
        nn.init.normal_(layer.B, std=0.1)
        layer.length.data.mul_(1.25)
    return module


def test_each_row_is_its_length_times_its_direction() -> None:
    layer = DoRALinear(nn.Linear(2, 1, bias=False, dtype=torch.float64), 1, 2.0)
    with torch.no_grad():
        layer.base.weight.copy_(torch.tensor([[1.0, 2.0]]))
        layer.A.copy_(torch.tensor([[1.0, 1.0]]))
        layer.B.copy_(torch.tensor([[1.0]]))
        layer.length.copy_(torch.tensor([10.0]))
    # W' = (1, 2) + 2 (1, 1) = (3, 4), of length 5
    assert layer.norms().tolist() == [5.0]
    assert layer(torch.tensor([1.0, 1.0], dtype=torch.float64)).item() == pytest.approx(10 / 5 * 7)
    assert layer.folded().tolist() == [[pytest.approx(6.0), pytest.approx(8.0)]]


def test_a_fresh_adapter_changes_no_bit_of_the_output() -> None:
    for kind in (torch.float64, torch.float32, torch.bfloat16):
        module = toy_module(dtype=kind)
        before = module(tokens()).logits
        wrap_with(DoRALinear, module, "all-linear", 2, 2.0)
        assert torch.allclose(module(tokens()).logits, before, atol=torch.finfo(kind).eps * 8, rtol=0)


def test_folding_keeps_the_function() -> None:
    for kind, close in ((torch.float64, 1e-10), (torch.float32, 1e-4), (torch.bfloat16, 0.1)):
        module = toy_module(dtype=kind)
        wrap_with(DoRALinear, module, "all-linear", 2, 2.0)
        before = trained(module)(tokens()).logits
        with settled(module):
            assert torch.allclose(module(tokens()).logits, before, atol=close, rtol=0)
        fold(module)
        assert not adapted(module)
        assert torch.allclose(module(tokens()).logits, before, atol=close, rtol=0)


def test_logits_and_gradients_are_pefts() -> None:
    peft = pytest.importorskip("peft", reason="needs peft, the referee, and it is not installed.")
    ours, theirs = toy_module(), copy.deepcopy(toy_module())
    wrap_with(DoRALinear, ours, ("q_proj", "down_proj"), 3, 1.5)
    trained(ours)
    config = peft.LoraConfig(r=3, lora_alpha=4.5, target_modules=["q_proj", "down_proj"], use_dora=True)
    model = peft.get_peft_model(theirs, config, autocast_adapter_dtype=False).double()
    referees: dict[str, Any] = {n: m for n, m in model.base_model.model.named_modules() if n in adapted(ours)}
    parts = {
        "A": lambda layer: layer.lora_A["default"].weight,
        "B": lambda layer: layer.lora_B["default"].weight,
        "length": lambda layer: layer.lora_magnitude_vector["default"].weight,
    }
    for name, layer in adapted(ours).items():
        for part, of in parts.items():
            of(referees[name]).data.copy_(layer.get_parameter(part).data)
    mine, other = ours(tokens()).logits, model(tokens()).logits
    assert torch.allclose(mine, other, atol=1e-10, rtol=0)
    mine.square().mean().backward()
    other.square().mean().backward()
    for name, layer in adapted(ours).items():
        for part, of in parts.items():
            assert torch.allclose(layer.get_parameter(part).grad, of(referees[name]).grad, atol=1e-10), (name, part)


def test_wrapping_twice_is_wrapping_once_and_other_adapters_are_refused() -> None:
    module = toy_module()
    wrap_with(DoRALinear, module, "q_proj", 2, 2.0)
    before = {name: p.clone() for name, p in trained(module).named_parameters()}
    wrap_with(DoRALinear, module, "q_proj", 2, 2.0)
    assert all(torch.equal(p, before[name]) for name, p in module.named_parameters())
    with pytest.raises(ModelError, match=r"q_proj (has an adapter with rank|is a LoRALinear)"):
        wrap_with(DoRALinear, module, "q_proj", 3, 2.0)
    plain = toy_module()
    wrap(plain, "q_proj", 2, 4.0)
    with pytest.raises(ModelError, match=r"q_proj (has an adapter with rank|is a LoRALinear)"):
        wrap_with(DoRALinear, plain, "q_proj", 2, 2.0)
