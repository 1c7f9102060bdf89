"""A bank adds up its adapters, in every precision, and its parameters keep their names as it grows."""

import copy

import pytest
import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

from everlearn.errors import ModelError
from everlearn.models.adapted import adapted
from everlearn.models.bank import Bank, Shape, banks, grow
from everlearn.models.lora import LoRALinear, fold, settled, wrap
from everlearn.testing.toys import toy_module

SHAPES = (Shape(2, 1.5), Shape(3, 0.5), Shape(1))
KINDS = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 0.1}


def bank(kind: torch.dtype = torch.float64, wide: int = 6, out: int = 4) -> Bank:
    """Three adapters with some B, of which the last learns."""
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Linear(wide, out, dtype=kind))
    (found,) = grow(layer, "0", SHAPES).values()
    for b in found.B:
        nn.init.normal_(b, std=0.3)
    return found


def tokens() -> Tensor:
    return torch.arange(24).reshape(2, 12) * 5 % 51


def dense(layer: Bank) -> Tensor:
    parts = [s.scale * b @ a for s, a, b in zip(layer.shapes, layer.A, layer.B, strict=True)]
    return layer.weight.to(layer.kind) + torch.stack(parts).sum(0)


def test_a_bank_adds_each_adapter_by_hand() -> None:
    layer = Bank(nn.Linear(2, 1, bias=False, dtype=torch.float64))
    layer.add(Shape(1, 3.0))
    layer.add(Shape(1, 1.0, gain=2.0))
    with torch.no_grad():
        layer.base.weight.copy_(torch.tensor([[1.0, 2.0]]))
        for p, value in ((layer.A[0], [[4.0, 5.0]]), (layer.B[0], [[6.0]]), (layer.A[1], [[1.0, -1.0]])):
            p.copy_(torch.tensor(value))
        layer.B[1].copy_(torch.tensor([[7.0]]))
    # 1*10 + 2*20 + 3 * 6 * (4*10 + 5*20) + 2 * 7 * (10 - 20)
    assert layer(torch.tensor([10.0, 20.0], dtype=torch.float64)).item() == 50 + 18 * 140 - 140
    assert layer.delta().tolist() == [[72.0 + 14.0, 90.0 - 14.0]]


def test_names_stay_as_the_bank_grows_and_the_last_adapter_alone_learns() -> None:
    module = toy_module()
    grow(module, "q_proj", SHAPES[:2])
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    grow(module, "q_proj", SHAPES)
    after = dict(module.named_parameters())
    new = {f"model.layers.{i}.self_attn.q_proj.{m}.2" for i in (0, 1) for m in "AB"}
    assert after.keys() - before.keys() == new == {n for n, p in after.items() if p.requires_grad}
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_growing_to_fewer_adapters_gives_up_the_others() -> None:
    module = toy_module()
    grow(module, "q_proj", SHAPES[:1])
    names = {name: p.requires_grad for name, p in module.named_parameters()}
    grow(module, "q_proj", SHAPES)
    grow(module, "q_proj", SHAPES[:1])
    assert {name: p.requires_grad for name, p in module.named_parameters()} == names


def test_an_empty_bank_and_a_fresh_adapter_change_no_bit_of_the_output() -> None:
    for kind in KINDS:
        module = toy_module(dtype=kind)
        plain = module(tokens()).logits
        grow(module, "all-linear", ())
        assert torch.equal(module(tokens()).logits, plain)
        with settled(module):
            assert torch.equal(module(tokens()).logits, plain)
        grow(module, "all-linear", (Shape(2),))
        assert torch.allclose(module(tokens()).logits, plain, atol=KINDS[kind], rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_folding_keeps_the_function(kind: torch.dtype) -> None:
    module = toy_module(dtype=kind)
    grow(module, "all-linear", SHAPES)
    for layer in banks(module).values():
        for b in layer.B:
            nn.init.normal_(b, std=0.1)
    before = module(tokens()).logits
    fold(module)
    assert not adapted(module)
    assert torch.allclose(module(tokens()).logits, before, atol=KINDS[kind], rtol=0)


def test_gpt2s_transposed_layers_have_banks_too() -> None:
    torch.manual_seed(0)
    for kind in (torch.float32, torch.bfloat16):
        config = GPT2Config(n_embd=32, n_head=4, n_layer=1, vocab_size=64, n_positions=32, initializer_range=0.2)
        module = GPT2LMHeadModel(config).eval().to(kind)
        grow(module, "all-linear", SHAPES)
        for layer in banks(module).values():
            for b in layer.B:
                nn.init.normal_(b, std=0.1)
        before = module(tokens()).logits
        fold(module)
        assert torch.allclose(module(tokens()).logits, before, atol=KINDS[kind], rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_output_is_that_of_the_dense_sum(kind: torch.dtype) -> None:
    layer = bank(kind)
    x = torch.randn(5, 6, dtype=kind)
    expected = x.to(layer.kind) @ dense(layer).T + layer.bias.to(layer.kind)
    assert torch.allclose(layer(x).to(layer.kind), expected, atol=KINDS[kind], rtol=0)


def test_a_settled_bank_gives_the_same_bits() -> None:
    for kind in KINDS:
        layer = bank(kind)
        x = torch.randn(5, 6, dtype=kind)
        with torch.inference_mode():
            before = layer(x)
            with settled(layer):
                assert torch.equal(layer(x), before)


def test_what_learns_has_float32s_gradients_and_what_is_frozen_none() -> None:
    half = bank(torch.bfloat16, 96, 64)
    full = copy.deepcopy(half).float()
    x, upstream = torch.randn(3, 20, 96).bfloat16(), torch.randn(3, 20, 64).bfloat16()
    found: list[dict[str, Tensor]] = []
    for layer in (half, full):
        given = x.to(layer.weight.dtype, copy=True).requires_grad_()
        layer(given).backward(upstream.to(layer.weight.dtype))
        grads = {n: p.grad for n, p in layer.named_parameters() if p.grad is not None}
        assert set(grads) == {"A.2", "B.2"}
        found.append(grads | {"x": given.grad})
    for name, grad in found[1].items():
        assert torch.cosine_similarity(found[0][name].float().flatten(), grad.flatten(), dim=0) > 0.9999, name


def test_the_float64_gradient_is_the_numerical_one() -> None:
    layer = bank()
    x = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)

    def function(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return torch.func.functional_call(layer, {"A.2": a, "B.2": b}, (x,))

    assert torch.autograd.gradcheck(function, (x, layer.A[2], layer.B[2]))


def test_new_values_of_frozen_adapters_are_followed() -> None:
    for kind in KINDS:
        layer = bank(kind)
        x = torch.randn(5, 6, dtype=kind)
        layer(x)
        with torch.no_grad():
            layer.B[0].mul_(3)
        expected = x.to(layer.kind) @ dense(layer).T + layer.bias.to(layer.kind)
        assert torch.allclose(layer(x).to(layer.kind), expected, atol=KINDS[kind], rtol=0)
        twin = copy.deepcopy(layer)
        with torch.no_grad():
            twin.A[1].zero_()
        assert not torch.equal(twin(x), layer(x))


def test_gains_learn_in_frozen_adapters_too() -> None:
    layer = nn.Sequential(nn.Linear(3, 2, dtype=torch.float64))
    (found,) = grow(layer, "0", (Shape(1, gain=2.0), Shape(1, gain=1.0))).values()
    nn.init.normal_(found.B[0])
    assert {n for n, p in found.named_parameters() if p.requires_grad} == {"A.1", "B.1", "gain.0", "gain.1"}
    x = torch.randn(4, 3, dtype=torch.float64)
    found(x).sum().backward()
    expected = (x @ (found.B[0] @ found.A[0]).T).sum()
    assert found.gain["0"].grad.item() == pytest.approx(expected.item())
    assert found.A[0].grad is None


def test_a_gate_weighs_adapters_by_their_number_and_cannot_be_folded() -> None:
    for kind in KINDS:
        layer = bank(kind)
        layer.A[0].requires_grad_(True)  # the frozen one, 1, comes first in the product
        layer.gate = lambda x: torch.stack([x[..., 0], torch.zeros_like(x[..., 0]), torch.ones_like(x[..., 0])], -1)
        x = torch.randn(5, 6, dtype=kind)
        wide = x.to(layer.kind)
        expected = wide @ layer.weight.to(layer.kind).T + layer.bias.to(layer.kind)
        expected = (
            expected + wide[:, :1] * (1.5 * wide @ layer.A[0].T @ layer.B[0].T) + wide @ layer.A[2].T @ layer.B[2].T
        )
        assert torch.allclose(layer(x).to(layer.kind), expected, atol=KINDS[kind], rtol=0.02)
        with pytest.raises(ModelError, match="gate weighs its adapters"):
            fold(nn.Sequential(layer))


def test_dropout_leaves_frozen_adapters_alone() -> None:
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Linear(64, 8, dtype=torch.float64))
    (found,) = grow(layer, "0", SHAPES[:2], dropout=0.5).values()
    nn.init.normal_(found.B[0])
    x = torch.randn(4, 64, dtype=torch.float64)
    assert torch.equal(layer.train()(x), layer.eval()(x))
    nn.init.normal_(found.B[1])
    assert not torch.equal(layer.train()(x), layer.eval()(x))


def test_adapters_of_another_kind_or_shape_are_refused() -> None:
    module = toy_module()
    grow(module, "q_proj", SHAPES[:1])
    with pytest.raises(ModelError, match=r"q_proj has adapters .*rank=2"):
        grow(module, "q_proj", (Shape(4),))
    with pytest.raises(ModelError, match="q_proj is a Bank; fold it"):
        wrap(module, "q_proj", 2, 2.0)
    other = toy_module()
    wrap(other, "q_proj", 2, 2.0)
    with pytest.raises(ModelError, match="q_proj is a LoRALinear; fold it"):
        grow(other, "q_proj", SHAPES)


def test_a_bank_of_one_is_a_lora_layer() -> None:
    for kind in KINDS:
        torch.manual_seed(3)
        one = LoRALinear(nn.Linear(6, 4, dtype=kind), 2, 1.5)
        torch.manual_seed(3)
        other = Bank(nn.Linear(6, 4, dtype=kind))
        other.add(Shape(2, 1.5))
        for b in (one.B, other.B[0]):
            torch.manual_seed(4)
            nn.init.normal_(b)
        x = torch.randn(5, 6, dtype=kind)
        assert torch.equal(one(x), other(x))
