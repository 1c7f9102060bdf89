"""Attention by blocks says what the formula says, in value and gradient, and stands in only where a model agrees."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from everlearn.errors import ModelError
from everlearn.models import attention
from everlearn.models.attention import NAME, adopt, attend

SIZE = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48}
NEAR = {"rtol": 1e-3, "atol": 1e-5}  # a model's own attention takes its softmax in float32, whatever its dtype
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.3}


@pytest.fixture(autouse=True)
def small_blocks() -> Iterator[None]:
    """Blocks so small that a short row has several."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "BLOCK", 3)
        yield


def some(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=dtype)


def by_formula(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor, scale: float) -> Tensor:
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    scores = (q @ k.mT * scale).masked_fill(~allowed, -torch.inf)
    return (scores.softmax(-1) @ v).transpose(1, 2)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("length", [1, 3, 8])
def test_value_and_gradients_are_those_of_the_formula(masked: bool, length: int) -> None:
    q, k, v = (some(2, heads, length, 4 + heads % 2).requires_grad_() for heads in (6, 2, 2))
    allowed = torch.ones(2, 1, length, length, dtype=torch.bool).tril()
    if masked:
        allowed = allowed & (some(2, 1, length, length) > -0.3) | torch.eye(length, dtype=torch.bool)
    mask = torch.zeros(allowed.shape, dtype=q.dtype).masked_fill(~allowed, torch.finfo(q.dtype).min)
    ours, nothing = attend(nn.Identity(), q, k, v, mask if masked else None, scaling=0.3)
    plain = by_formula(q, k, v, allowed, 0.3)
    assert nothing is None
    torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-12)
    upstream = some(*plain.shape)
    found, expected = (torch.autograd.grad((out * upstream).sum(), [q, k, v]) for out in (ours, plain))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


def test_fewer_queries_than_keys_are_the_last_ones() -> None:
    q, k, v = some(2, 4, 8, 6), some(2, 2, 8, 6), some(2, 2, 8, 6)
    whole, _ = attend(nn.Identity(), q, k, v, None)
    last, _ = attend(nn.Identity(), q[:, :, 5:], k, v, None)
    torch.testing.assert_close(last, whole[:, 5:], rtol=1e-12, atol=1e-12)


def test_a_query_that_may_see_nothing_gives_numbers_all_the_same() -> None:
    q, k, v = (some(1, 2, 6, 4, dtype=torch.bfloat16) for _ in range(3))
    nothing = torch.full((1, 1, 6, 6), torch.finfo(torch.bfloat16).min, dtype=torch.bfloat16)
    for queries in (q, q[:, :, 3:]):
        out, _ = attend(nn.Identity(), queries, k, v, nothing[:, :, -queries.shape[2] :])
        assert out.isfinite().all()


def test_half_precision_is_as_near_to_the_formula_as_plain_half_precision() -> None:
    exact = [some(2, heads, 64, 16) for heads in (4, 2, 2)]
    allowed = torch.ones(64, 64, dtype=torch.bool).tril()
    truth = by_formula(*exact, allowed, 0.25)
    half = [t.bfloat16() for t in exact]
    ours, _ = attend(nn.Identity(), *half, None, scaling=0.25)
    plain = by_formula(*half, allowed, 0.25)
    assert (ours - truth).norm() <= 1.5 * (plain - truth).norm()


def test_dropout_leaves_the_mean_as_it_is() -> None:
    q, k, v = some(1, 1, 5, 4), some(1, 1, 5, 4), some(1, 1, 5, 4)
    torch.manual_seed(0)
    drawn = torch.stack([attend(nn.Identity(), q, k, v, None, dropout=0.3)[0] for _ in range(4000)])
    assert drawn.var() > 0
    torch.testing.assert_close(drawn.mean(0), attend(nn.Identity(), q, k, v, None)[0], rtol=0, atol=0.06)


def test_what_changes_the_formula_is_refused() -> None:
    q = some(1, 1, 4, 4)
    with pytest.raises(ModelError, match="softcap"):
        attend(nn.Identity(), q, q, q, None, softcap=30.0)


def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZE, **HEADS)).double().eval()


@pytest.mark.parametrize("padding", ["right", "left", "none"])
def test_a_model_says_the_same_with_it(padding: str) -> None:
    module, tokens = llama().float(), torch.arange(24).view(2, 12)
    there = torch.ones(2, 12, dtype=torch.long)
    there[0, slice(8, None) if padding == "right" else slice(4)] = int(padding == "none")
    module.set_attn_implementation("eager")
    own = module(input_ids=tokens, attention_mask=there).logits
    assert adopt(module)
    assert module.config._attn_implementation == NAME
    ours = module(input_ids=tokens, attention_mask=there).logits
    torch.testing.assert_close(ours[there.bool()], own[there.bool()], **NEAR)


def test_decoding_with_kept_keys_says_what_one_pass_says() -> None:
    module, tokens = llama(), torch.arange(10)[None]
    assert adopt(module)
    whole = module(input_ids=tokens).logits
    kept = module(input_ids=tokens[:, :6], use_cache=True)
    rest = module(input_ids=tokens[:, 6:9], past_key_values=kept.past_key_values, use_cache=True)
    last = module(input_ids=tokens[:, 9:], past_key_values=rest.past_key_values, use_cache=True)
    torch.testing.assert_close(torch.cat([rest.logits, last.logits], 1), whole[:, 6:], rtol=1e-10, atol=1e-10)


def test_a_window_that_slides_is_kept() -> None:
    torch.manual_seed(0)
    module = MistralForCausalLM(MistralConfig(**SIZE, **HEADS, sliding_window=4)).double().eval()
    tokens = torch.arange(24).view(2, 12)
    module.set_attn_implementation("eager")
    own = module(input_ids=tokens).logits
    assert adopt(module)
    torch.testing.assert_close(module(input_ids=tokens).logits, own, **NEAR)


def test_a_model_that_caps_its_scores_keeps_its_own_attention() -> None:
    torch.manual_seed(0)
    module = Gemma2ForCausalLM(Gemma2Config(**SIZE, **HEADS, head_dim=8, attn_logit_softcapping=0.1)).double().eval()
    assert not adopt(module)
    assert module.config._attn_implementation == "eager"
    assert module(input_ids=torch.arange(6)[None]).logits.isfinite().all()


def test_another_architecture_may_adopt_it_too() -> None:
    torch.manual_seed(0)
    module = GPT2LMHeadModel(GPT2Config(n_embd=32, n_head=4, n_layer=2, vocab_size=50)).double().eval()
    tokens = torch.arange(12)[None]
    module.set_attn_implementation("eager")
    own = module(input_ids=tokens).logits
    assert adopt(module)
    torch.testing.assert_close(module(input_ids=tokens).logits, own, **NEAR)


def test_nothing_of_the_square_is_kept_for_the_backward_pass() -> None:
    sizes: list[int] = []
    q = some(1, 2, 60, 4).requires_grad_()

    def keep(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        attend(nn.Identity(), q, q, q, None)
    assert max(sizes) == q.numel()


@pytest.mark.parametrize("queries", [8, 5])
@pytest.mark.parametrize("masked", [False, True])
def test_under_autocast_it_computes_in_the_lower_precision_and_back(queries: int, masked: bool) -> None:
    """As a trainer has it: rotated queries and keys in float32, values in bfloat16, no autocast on the way back."""
    q, k, v = (some(2, heads, length, 6).requires_grad_() for heads, length in ((4, queries), (2, 8), (2, 8)))
    allowed = torch.ones(2, 1, 8, 8, dtype=torch.bool).tril()[:, :, -queries:]
    mask = torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min) if masked else None
    with torch.autocast("cpu", torch.bfloat16):
        ours, _ = attend(nn.Identity(), q.float(), k.float(), v.bfloat16(), mask)
    assert ours.dtype == torch.bfloat16
    plain = by_formula(q, k, v, allowed, 6**-0.5)
    upstream = some(*plain.shape)
    found, expected = (torch.autograd.grad((out * upstream).sum(), [q, k, v]) for out in (ours, plain))
    for a, b in zip((ours, *found), (plain, *expected), strict=True):
        assert ((a - b).norm() < 0.02 * b.norm()).item()
