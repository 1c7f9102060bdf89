"""Rotary frequencies: the papers' formulas by hand, and transformers' own as the referee."""

import copy
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from everlearn.errors import ModelError
from everlearn.models.activations import Lower, Store
from everlearn.models.attention import adopt
from everlearn.models.layers import below
from everlearn.models.residual import widen
from everlearn.models.rope import (
    allow,
    base,
    by_parts,
    by_parts_of_index,
    context,
    interpolated,
    ntk_ratio,
    rebased,
    shorten,
    temperature,
    turn,
)
from everlearn.testing.toys import toy_module

EXACT = {"rtol": 1e-6, "atol": 0}
TOKENS = torch.arange(40)[None] * 7 % 45


def powers(base: float, size: int) -> Tensor:
    return base ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)


def config(kind: str, **more: float) -> LlamaConfig:
    rope = {"rope_type": kind, "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 2048} | more
    return LlamaConfig(hidden_size=256, num_attention_heads=4, max_position_embeddings=8192, rope_parameters=rope)


def said(module: torch.nn.Module) -> Tensor:
    with torch.no_grad():
        found: Tensor = module(input_ids=TOKENS % 40).logits
        return found


def by_four(theta: Tensor) -> tuple[Tensor, float]:
    return by_parts(theta, 4.0, 16, 0.5, 4.0), temperature(4.0)


def test_interpolation_divides_every_frequency() -> None:
    assert interpolated(torch.tensor([1.0, 0.01]), 4).tolist() == pytest.approx([0.25, 0.0025])
    referee, scaling = ROPE_INIT_FUNCTIONS["linear"](config("linear"))
    torch.testing.assert_close(interpolated(powers(1e4, 64), 4).float(), referee, **EXACT)
    assert scaling == 1.0


def test_another_base_leaves_the_fastest_frequency() -> None:
    # base 100 in 4 dimensions: 1 and 1/10; base 400: 1 and 1/20
    torch.testing.assert_close(rebased(powers(100, 4), 4), powers(400, 4))
    torch.testing.assert_close(rebased(powers(1e4, 64), 50), powers(5e5, 64))


def test_an_ntk_aware_base_interpolates_the_slowest_frequency_alone() -> None:
    # D = 4, s = 3: the base grows by 3^(4 / 2) = 9, and 1/10 becomes 1/30
    assert ntk_ratio(2, 3) == pytest.approx(9)
    changed = rebased(powers(1e4, 64), ntk_ratio(32, 8))
    assert float(changed[0]) == 1.0
    assert float(changed[-1]) == pytest.approx(float(powers(1e4, 64)[-1]) / 8)


def test_by_parts_the_ramp_is_in_the_number_of_turns() -> None:
    # In 2 pi 10 tokens these turn round 20, 2 and 0.5 times; from 1 to 3 turns, gamma is 1, 1/2 and 0.
    # s = 4: 2; 0.2 (1/2 / 4 + 1/2) = 0.125; 0.05 / 4
    original = 2 * math.pi * 10
    changed = by_parts(torch.tensor([2.0, 0.2, 0.05], dtype=torch.float64), 4, original, 1, 3)  # type: ignore[arg-type]
    torch.testing.assert_close(changed, torch.tensor([2.0, 0.125, 0.0125], dtype=torch.float64))


def test_in_the_authors_code_the_ramp_is_in_the_number_of_the_dimension() -> None:
    # 4, 1, 1/4, 1/16 turns a token times 2 pi; in 16 tokens 64, 16, 4, 1: 32 turns at index 0.5, 2 at 2.5.
    # Between 0 and 3: gamma 1, 2/3, 1/3, 0, and with s = 4: 1, 2/3 + 1/12 = 3/4, 1/3 + 1/6 = 1/2, 1/4
    theta = 2 * math.pi * torch.tensor([4.0, 1.0, 0.25, 0.0625], dtype=torch.float64)
    changed = by_parts_of_index(theta, 4, 16, 2, 32)
    torch.testing.assert_close(changed / theta, torch.tensor([1.0, 0.75, 0.5, 0.25], dtype=torch.float64))


@pytest.mark.parametrize("original", [256, 2048])
@pytest.mark.parametrize("theta", [1e4, 5e5])
def test_the_authors_code_is_transformers_too(original: int, theta: float) -> None:
    given = config("yarn", rope_theta=theta, original_max_position_embeddings=original)
    referee, scaling = ROPE_INIT_FUNCTIONS["yarn"](given)
    torch.testing.assert_close(by_parts_of_index(powers(theta, 64), 4, original).float(), referee, **EXACT)
    assert scaling == pytest.approx(temperature(4))


def test_frequencies_of_no_base_have_no_ramp_over_dimensions() -> None:
    with pytest.raises(ModelError, match="no powers of one base"):
        by_parts_of_index(torch.tensor([1.0, 0.5, 0.1]), 4, 100)


def test_the_temperature_grows_with_the_logarithm_of_the_factor() -> None:
    assert temperature(math.e**2) == pytest.approx(1.2)
    assert temperature(1) == temperature(0.5) == 1.0


def test_a_turned_model_is_the_one_that_transformers_makes() -> None:
    module = toy_module()
    rope = {"rope_type": "yarn", "rope_theta": base(module), "factor": 4.0, "original_max_position_embeddings": 16}
    plain = module.config.to_dict() | {"rope_parameters": rope}
    referee = LlamaForCausalLM(LlamaConfig.from_dict(plain)).double().eval()
    referee.load_state_dict(module.state_dict())
    turn(module, "test", lambda theta: (by_parts_of_index(theta, 4.0, 16), temperature(4.0)), 64)
    torch.testing.assert_close(said(module), said(referee), rtol=0, atol=1e-5)


def test_turning_again_begins_at_the_models_own_and_can_be_undone_to_the_bit() -> None:
    module, before = toy_module(), said(toy_module())
    parameters = dict(module.config.rope_parameters)
    turn(module, "test", by_four, 64)
    once = said(module)
    assert not torch.allclose(once, before)
    turn(module, "test", by_four, 64)
    assert torch.equal(said(module), once)
    turn(module, "test", None, 0)
    assert torch.equal(said(module), before)
    assert module.config.rope_parameters == parameters


def test_a_copy_knows_what_it_was() -> None:
    module, before = toy_module(), said(toy_module())
    turn(module, "test", by_four, 64)
    other = copy.deepcopy(module)
    turn(other, "test", None, 0)
    assert torch.equal(said(other), before)
    assert not torch.equal(said(module), before)


def test_a_saved_model_says_the_same_when_it_is_opened(tmp_path: Path) -> None:
    module = toy_module(dtype=torch.float32)
    turn(module, "test", by_four, 4096)
    module.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(said(again), said(module), rtol=1e-4, atol=1e-5)
    assert again.config.max_position_embeddings == 4096
    turn(again, "test", None, 0)
    torch.testing.assert_close(said(again), said(module), rtol=1e-4, atol=1e-5)
    turn(again, "test", lambda theta: (theta / 2, 1.0), 8192)
    said(again)  # a pass leaves the frequencies as they were set
    torch.testing.assert_close(again.model.rotary_emb.inv_freq, module.model.rotary_emb.inv_freq / 2, **EXACT)


def test_two_who_change_frequencies_are_one_too_many() -> None:
    module = toy_module()
    turn(module, "YaRN", by_four, 64)
    with pytest.raises(ModelError, match="YaRN and AdjustedBase both change"):
        turn(module, "AdjustedBase", by_four, 64)


def test_a_model_without_one_set_of_frequencies_is_refused() -> None:
    module = GPT2LMHeadModel(GPT2Config(n_embd=32, n_head=4, n_layer=1, vocab_size=50, n_positions=16))
    with pytest.raises(ModelError, match="no rotary embedding"):
        turn(module, "test", by_four, 64)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    moving = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    small = LlamaConfig.from_dict(shape | {"vocab_size": 50, "rope_parameters": moving})
    with pytest.raises(ModelError, match="dynamic"):
        turn(LlamaForCausalLM(small), "test", by_four, 64)


def test_a_model_may_be_asked_about_more_and_what_it_was_trained_to_stays_known() -> None:
    module = toy_module()
    own = context(module)
    allow(module, 10 * own)
    assert module.config.max_position_embeddings == 10 * own
    assert context(module) == own
    table = GPT2LMHeadModel(GPT2Config(n_embd=32, n_head=4, n_layer=1, vocab_size=50, n_positions=16))
    allow(table, 64)
    assert table.config.n_positions == 16


def test_a_model_cut_back_gets_at_its_end_where_it_was_at_its_own(tmp_path: Path) -> None:
    module = toy_module(dtype=torch.float32)
    own, long = module.model.rotary_emb.inv_freq.clone(), module.config.max_position_embeddings
    shorten(module, 64)
    cut = module.model.rotary_emb.inv_freq
    assert cut[0] == own[0]  # turns round 326 times in 2048 tokens
    turns = long * own[-1] / (2 * math.pi)
    kept = ((turns - 1) / 31).clamp(0, 1)
    torch.testing.assert_close(cut[-1], (1 - kept) * own[-1] * long / 64 + kept * own[-1])
    module.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert context(again) == 64
    torch.testing.assert_close(said(again), said(module), rtol=1e-4, atol=1e-5)
    with pytest.raises(ModelError, match="not cut back to 64"):
        shorten(again, 64)


def test_states_below_are_kept_under_the_frequencies_that_made_them() -> None:
    module = toy_module()
    for parameter in below(module, 1).values():
        parameter.requires_grad_(False)
    names = [Lower(module, Store(1000)).weights]
    for change in (by_four, lambda theta: (by_parts(theta, 4.0, 16, 0.5, 4.0), 1.0), None):
        turn(module, "test", change, 0)
        names.append(Lower(module, Store(1000)).weights)
    assert len(set(names)) == 3
    assert names[-1] == names[0]


def test_turned_frequencies_reach_our_own_attention_and_a_wide_stream() -> None:
    plain, ours = toy_module(dtype=torch.bfloat16), toy_module(dtype=torch.bfloat16)
    assert adopt(ours)
    assert widen(ours)
    before = said(ours)
    for module in (plain, ours):
        turn(module, "test", by_four, 64)
    assert (said(ours) - said(plain)).float().norm() < 0.05 * said(plain).float().norm()
    assert not torch.equal(said(ours), before)
