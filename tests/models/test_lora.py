import copy
import math

import pytest
import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from everlearn.errors import ModelError
from everlearn.models.lora import LoRALinear, adapters, fold, settled, wrap

PER_LAYER = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def llama(tied: bool = False) -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 64}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": tied}
    return LlamaForCausalLM(LlamaConfig(**sizes, **heads, initializer_range=0.2)).eval()


def trained(module: nn.Module, size: float = 0.1) -> nn.Module:
    """Give the adapters some B, as training would."""
    torch.manual_seed(1)
    for adapter in adapters(module).values():
        nn.init.normal_(adapter.B, std=size)
    return module


def tokens() -> Tensor:
    return torch.arange(24).reshape(2, 12) * 5 % 64


def test_wrapping_all_linears_leaves_out_the_head_and_freezes_the_rest() -> None:
    module = llama()
    wrap(module, "all-linear", 4, 8.0)
    assert {name.rpartition(".")[2] for name in adapters(module)} == PER_LAYER
    assert len(adapters(module)) == 2 * 7
    learning = {name for name, p in module.named_parameters() if p.requires_grad}
    assert learning == {f"{name}.{m}" for name in adapters(module) for m in "AB"}


def test_a_fresh_adapter_changes_no_bit_of_the_output() -> None:
    module = llama()
    before = module(tokens()).logits
    wrap(module, "all-linear", 4, 8.0)
    assert torch.equal(module(tokens()).logits, before)


def test_the_adapter_adds_its_scaled_product_to_the_layer() -> None:
    layer = LoRALinear(nn.Linear(2, 1, bias=False, dtype=torch.float64), rank=1, scale=3.0)
    with torch.no_grad():
        layer.base.weight.copy_(torch.tensor([[1.0, 2.0]]))
        layer.A.copy_(torch.tensor([[4.0, 5.0]]))
        layer.B.copy_(torch.tensor([[6.0]]))
    # 1*10 + 2*20 + 3 * 6 * (4*10 + 5*20)
    assert layer(torch.tensor([10.0, 20.0], dtype=torch.float64)).item() == 50 + 3 * 6 * 140
    assert layer.delta().tolist() == [[72.0, 90.0]]


def test_a_is_drawn_like_the_reference_code_from_the_default_generator() -> None:
    torch.manual_seed(7)
    layer = LoRALinear(nn.Linear(40, 3), rank=8, scale=1.0)
    torch.manual_seed(7)
    nn.Linear(40, 3)
    expected = nn.init.kaiming_uniform_(torch.empty(8, 40), a=math.sqrt(5))
    assert torch.equal(layer.A, expected)
    assert layer.A.abs().max() <= 1 / math.sqrt(40)
    assert not layer.B.any()


def test_masters_are_float32_on_half_layers_and_float64_on_double_ones() -> None:
    kinds = {torch.bfloat16: torch.float32, torch.float32: torch.float32, torch.float64: torch.float64}
    for kind, master in kinds.items():
        layer = LoRALinear(nn.Linear(4, 4, dtype=kind), rank=2, scale=1.0)
        assert (layer.A.dtype, layer.B.dtype) == (master, master)
        assert layer(torch.ones(1, 4, dtype=kind)).dtype == kind


def test_wrapping_twice_is_wrapping_once() -> None:
    module = llama()
    wrap(module, ("q_proj", "v_proj"), 4, 8.0)
    before = {name: p.clone() for name, p in trained(module).named_parameters()}
    first = adapters(module)
    wrap(module, ("q_proj", "v_proj"), 4, 8.0)
    after = dict(module.named_parameters())
    assert adapters(module) == first
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_targets_are_names_or_their_ends() -> None:
    module = llama()
    wrap(module, ("layers.0.self_attn.q_proj", "mlp.up_proj"), 2, 2.0)
    assert set(adapters(module)) == {
        "model.layers.0.self_attn.q_proj",
        "model.layers.0.mlp.up_proj",
        "model.layers.1.mlp.up_proj",
    }


def test_the_head_is_adapted_when_it_is_named_and_folding_it_leaves_the_tied_embedding_alone() -> None:
    module = llama(tied=True)
    wrap(module, "lm_head", 2, 4.0)
    trained(module)
    before, embedding = module(tokens()).logits, module.get_input_embeddings().weight.clone()
    fold(module)
    assert torch.allclose(module(tokens()).logits, before, atol=1e-5)
    assert torch.equal(module.get_input_embeddings().weight, embedding)


def test_a_target_that_is_not_there_is_refused_with_the_names_that_are() -> None:
    module = llama()
    with pytest.raises(ModelError, match=r"query_proj.*down_proj, gate_proj"):
        wrap(module, ("q_proj", "query_proj"), 2, 2.0)
    assert not adapters(module)
    with pytest.raises(ModelError, match="nothing"):
        wrap(module, (), 2, 2.0)


def test_another_adapter_on_the_same_layer_is_refused() -> None:
    module = llama()
    wrap(module, "q_proj", 4, 8.0)
    for rank, alpha, dropout in ((8, 16.0, 0.0), (4, 4.0, 0.0), (4, 8.0, 0.5)):
        with pytest.raises(ModelError, match=r"q_proj has an adapter with rank"):
            wrap(module, "q_proj", rank, alpha, dropout)


def test_quantised_layers_are_refused() -> None:
    layer = nn.Linear(4, 4)
    layer.weight = nn.Parameter(torch.zeros(4, 4, dtype=torch.int8), requires_grad=False)
    with pytest.raises(ModelError, match="without quantisation"):
        LoRALinear(layer, 2, 1.0)


def test_folding_keeps_the_function_and_removes_the_adapters() -> None:
    for kind, close in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        module = llama().to(kind)
        names = set(module.state_dict())
        wrap(module, "all-linear", 4, 8.0)
        trained(module)
        before = module(tokens()).logits
        fold(module)
        assert not adapters(module)
        assert set(module.state_dict()) == names
        assert torch.allclose(module(tokens()).logits, before, atol=close, rtol=0)


def test_folding_a_half_precision_layer_rounds_the_exact_sum_once() -> None:
    layer = nn.Sequential(nn.Linear(16, 8, dtype=torch.bfloat16))
    wrap(layer, "0", 4, 8.0)
    trained(layer)
    adapter = adapters(layer)["0"]
    exact = adapter.base.weight.float() + adapter.delta()
    fold(layer)
    assert torch.equal(layer[0].weight, exact.bfloat16())


def test_gpt2s_transposed_layers_are_adapted_and_folded_too() -> None:
    torch.manual_seed(0)
    for kind, close in ((torch.float32, 1e-5), (torch.bfloat16, 0.1)):
        config = GPT2Config(n_embd=32, n_head=4, n_layer=2, vocab_size=64, n_positions=32, initializer_range=0.2)
        module = GPT2LMHeadModel(config).eval().to(kind)
        plain = module(tokens()).logits
        wrap(module, "all-linear", 4, 8.0)
        assert {name.rpartition(".")[2] for name in adapters(module)} == {"c_attn", "c_proj", "c_fc"}
        assert torch.allclose(module(tokens()).logits, plain, atol=close)
        adapted = trained(module)(tokens()).logits
        assert (adapted - plain).abs().max() > 0.5
        fold(module)
        assert torch.allclose(module(tokens()).logits, adapted, atol=close)


def test_half_precision_gradients_are_those_of_float32() -> None:
    torch.manual_seed(0)
    for bias in (True, False):
        half = LoRALinear(nn.Linear(96, 64, bias=bias, dtype=torch.bfloat16), rank=8, scale=2.0)
        nn.init.normal_(half.B, std=0.05)
        full = copy.deepcopy(half).float()
        x, upstream = torch.randn(3, 20, 96).bfloat16(), torch.randn(3, 20, 64).bfloat16()
        found, expected = ({}, {})
        for layer, into in ((half, found), (full, expected)):
            given = x.to(layer.weight.dtype, copy=True).requires_grad_()
            layer(given).backward(upstream.to(layer.weight.dtype))
            into |= {"x": given.grad, "A": layer.A.grad, "B": layer.B.grad}
            assert layer.base.weight.grad is None
        assert found["A"].dtype == found["B"].dtype == torch.float32
        for name, grad in expected.items():
            assert torch.cosine_similarity(found[name].float().flatten(), grad.flatten(), dim=0) > 0.9999, name
            assert found[name].norm().item() == pytest.approx(grad.norm().item(), rel=5e-3), name


def test_the_float64_gradient_is_the_numerical_one() -> None:
    torch.manual_seed(0)
    layer = LoRALinear(nn.Linear(5, 4, dtype=torch.float64), rank=2, scale=1.5)
    nn.init.normal_(layer.B)
    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)

    def function(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return torch.func.functional_call(layer, {"A": a, "B": b}, (x,))

    assert torch.autograd.gradcheck(function, (x, layer.A, layer.B))


def steps(half: bool) -> list[float]:
    """By how much steps of three sizes along the gradient's signs on B change a loss."""
    module = llama().to(torch.bfloat16)
    wrap(module, "all-linear", 4, 8.0)
    if not half:
        module = module.float()

    def loss() -> Tensor:
        logits = module(tokens()).logits.double()
        return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens()[:, 1:].flatten())

    before = loss()
    learning = [a.B for a in adapters(module).values()]
    signs = [g.sign() for g in torch.autograd.grad(before, learning)]
    changes = []
    for size in (1e-3, 3e-3, 1e-2):
        with torch.no_grad():
            for b, sign in zip(learning, signs, strict=True):
                b.copy_(-size * sign)
            changes.append(float(loss() - before))
    return changes


def test_a_small_step_shows_in_half_precision_as_in_float32() -> None:
    for found, expected in zip(steps(half=True), steps(half=False), strict=True):
        assert found == pytest.approx(expected, rel=0.1)


def test_what_is_below_half_a_unit_in_the_last_place_is_not_lost() -> None:
    layer = LoRALinear(nn.Linear(64, 64, bias=False, dtype=torch.bfloat16), rank=4, scale=1.0)
    torch.manual_seed(0)
    x = torch.randn(512, 64).bfloat16()
    nn.init.normal_(layer.B, std=1e-3)
    exact = x.float() @ (layer.base.weight.float() + layer.delta()).T
    alone = x @ layer.base.weight.T
    apart = alone + (x.float() @ layer.delta().T).bfloat16()  # rounded twice, as a sum of two layers is
    missing = [(exact - y.float()).pow(2).mean().item() for y in (layer(x), apart)]
    assert missing[0] < 0.75 * missing[1]


def test_forward_passes_with_other_values_in_between_leave_a_gradient_as_it_is() -> None:
    torch.manual_seed(0)
    layer = LoRALinear(nn.Linear(16, 8, dtype=torch.bfloat16), rank=4, scale=1.0)
    x = torch.randn(5, 16).bfloat16().requires_grad_()
    nn.init.normal_(layer.B)
    (expected,) = torch.autograd.grad(layer(x).sum(), x)
    y = layer(x).sum()
    torch.func.functional_call(layer, {"B": torch.full_like(layer.B, 9.0)}, (x,))
    assert torch.equal(torch.autograd.grad(y, x)[0], expected)


def test_changing_b_between_forward_and_backward_is_an_error_and_not_a_wrong_gradient() -> None:
    layer = LoRALinear(nn.Linear(16, 8, dtype=torch.bfloat16), rank=4, scale=1.0)
    y = layer(torch.ones(1, 16, dtype=torch.bfloat16)).sum()
    with torch.no_grad():
        layer.B.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()


def test_a_first_pass_in_inference_mode_does_not_hinder_learning() -> None:
    layer = LoRALinear(nn.Linear(16, 8, dtype=torch.bfloat16), rank=4, scale=1.0)
    x = torch.ones(2, 16, dtype=torch.bfloat16)
    with torch.inference_mode():
        layer(x)
    layer(x).sum().backward()
    assert layer.B.grad is not None
    assert layer.B.grad.any()


def test_new_base_weights_copies_and_casts_are_followed() -> None:
    torch.manual_seed(0)
    layer = LoRALinear(nn.Linear(16, 8, dtype=torch.bfloat16), rank=4, scale=1.0)
    nn.init.normal_(layer.B)
    x = torch.randn(2, 16).bfloat16()
    before = layer(x)
    twin = copy.deepcopy(layer)
    assert torch.equal(twin(x), before)
    with torch.no_grad():
        twin.base.weight.zero_()
    assert torch.equal(layer(x), before)
    assert torch.allclose(twin(x).float(), twin.bias.float() + x.float() @ twin.delta().T, atol=0.05, rtol=0.02)
    assert layer.float()(x.float()).dtype == torch.float32
    assert torch.allclose(layer.bfloat16()(x).float(), before.float(), atol=0.05)


def test_the_base_weights_are_held_once() -> None:
    layer = LoRALinear(nn.Linear(16, 8, dtype=torch.bfloat16), rank=4, scale=1.0)
    layer(torch.ones(1, 16, dtype=torch.bfloat16))
    joined = layer._joined
    assert joined is not None
    assert layer.base.weight.untyped_storage().data_ptr() == joined.untyped_storage().data_ptr()
    assert joined.numel() == 8 * (16 + 4)


def test_dropout_acts_on_the_adapter_alone_and_only_while_learning() -> None:
    for kind in (torch.float32, torch.bfloat16):
        torch.manual_seed(0)
        layer = LoRALinear(nn.Linear(64, 8, dtype=kind), rank=4, scale=1.0, dropout=0.5)
        x = torch.randn(4, 64).to(kind)
        plain = layer.eval()(x)
        assert torch.equal(layer.train()(x), plain)  # B is zero, and W x is never dropped
        nn.init.normal_(layer.B)
        assert not torch.equal(layer.train()(x), layer.eval()(x))
        assert torch.equal(layer.eval()(x), layer.eval()(x))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_settled_adapters_give_the_same_bits_and_follow_their_weights_again_after(dtype: torch.dtype) -> None:
    module = llama().to(dtype)
    wrap(module, "all-linear", 4, 8.0)
    trained(module)
    with torch.inference_mode():
        before = module(tokens()).logits
        with settled(module):
            assert torch.equal(module(tokens()).logits, before)
    for adapter in adapters(module).values():
        adapter.B.data.mul_(3)
    assert not torch.equal(module(tokens()).logits, before)
    module(tokens()).logits.float().sum().backward()
    assert all(a.A.grad is not None and a.B.grad is not None for a in adapters(module).values())
