"""A half-precision model with a float32 residual stream is nearer to the float32 model, and otherwise the same."""

import copy
import pickle

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from everlearn.models.layers import states_after
from everlearn.models.residual import widen
from everlearn.testing.toys import toy_module

TOKENS = torch.arange(1, 25).view(2, 12)


def deep(dtype: torch.dtype, seed: int = 0) -> LlamaForCausalLM:
    """Thirty layers: with fewer, rounding hardly shows. Weights are those of bf16 in every precision."""
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 30, "vocab_size": 64}
    torch.manual_seed(seed)
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.05}
    module = LlamaForCausalLM(LlamaConfig.from_dict(shape | heads)).eval()
    return nn.Module.to(nn.Module.to(module, torch.bfloat16), dtype)


def gradient(module: LlamaForCausalLM) -> Tensor:
    """The gradient of the first layer's keys, where all that is above has left its rounding."""
    loss = module(input_ids=TOKENS, labels=TOKENS).loss
    weight = module.get_parameter("model.layers.0.self_attn.k_proj.weight")
    return torch.autograd.grad(loss, weight)[0].float().flatten()


def test_gradients_are_nearer_to_float32() -> None:
    before = after = 0.0
    for seed in range(3):  # of one model, the ratio is anything from a quarter to two thirds, as processors round
        plain, wide = deep(torch.bfloat16, seed), deep(torch.bfloat16, seed)
        assert widen(wide)
        reference = gradient(deep(torch.float32, seed))
        away = [float(1 - cosine_similarity(gradient(m), reference, dim=0)) for m in (plain, wide)]
        before, after = before + away[0], after + away[1]
    assert after < 0.75 * before


def test_the_stream_is_float32_and_what_layers_compute_with_is_not() -> None:
    module = deep(torch.bfloat16)
    assert widen(module)
    with torch.no_grad():
        assert states_after(module, 3, {"input_ids": TOKENS}).dtype == torch.float32
        made = module(input_ids=TOKENS, use_cache=True)
    assert made.logits.dtype == torch.bfloat16
    assert made.past_key_values.layers[0].keys.dtype == torch.bfloat16
    assert made.past_key_values.layers[0].values.dtype == torch.bfloat16


def test_a_model_of_full_precision_stays_as_it_is() -> None:
    module = toy_module()
    assert not widen(module)
    assert not any(part._forward_hooks for part in module.modules())


def test_a_model_whose_layers_refuse_stays_as_it_is() -> None:
    module = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2)).eval().bfloat16()
    with torch.no_grad():
        before = module(input_ids=TOKENS).logits
        adopted = widen(module)
        assert not adopted
        assert torch.equal(module(input_ids=TOKENS).logits, before)
    assert not any(part._forward_hooks for part in module.modules())


def test_a_widened_model_can_be_copied_and_sent() -> None:
    module = toy_module(dtype=torch.bfloat16)
    assert widen(module)
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        with torch.no_grad():
            assert torch.equal(other(input_ids=TOKENS).logits, module(input_ids=TOKENS).logits)
