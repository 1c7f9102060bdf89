"""The lower layers' states are the model's own, and a pass that starts from them says the same."""

import pytest
import torch
from torch import nn
from transformers import GemmaConfig, GemmaForCausalLM, GPT2Config, GPT2LMHeadModel

from everlearn.models.layers import below, decoder_layers, drops, frozen_below, starting_from, states_after
from everlearn.testing.toys import toy_module


def gpt2() -> nn.Module:
    return GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=16, n_layer=3, n_head=2, n_positions=32)).eval()


def gemma() -> nn.Module:
    """Scales its embeddings, so that states put in their place would be scaled again."""
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "head_dim": 8}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 50}
    return GemmaForCausalLM(GemmaConfig(**shape | heads)).eval()


def inputs(rows: int = 2) -> dict[str, torch.Tensor]:
    return {"input_ids": torch.arange(rows * 6).view(rows, 6) % 40, "attention_mask": torch.ones(rows, 6).long()}


KINDS = {"llama": toy_module, "gpt2": gpt2, "gemma": gemma}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 2])
def test_states_are_those_that_the_model_reports(kind: str, count: int) -> None:
    module = KINDS[kind]()
    with torch.no_grad():
        reported = module(**inputs(), output_hidden_states=True).hidden_states
        if count < len(decoder_layers(module)):  # the last one is reported after the norm
            assert torch.equal(states_after(module, count, inputs()), reported[count])


@pytest.mark.parametrize("kind", KINDS)
def test_a_pass_that_starts_from_states_gives_the_same_logits(kind: str) -> None:
    module = KINDS[kind]()
    with torch.no_grad():
        whole = module(**inputs()).logits
        states = states_after(module, 1, inputs())
        with starting_from(module, 1, states):
            assert torch.equal(module(**inputs()).logits, whole)
        with starting_from(module, 1, states + 1):
            assert not torch.allclose(module(**inputs()).logits, whole)
        assert torch.equal(module(**inputs()).logits, whole)
    assert not any("forward" in vars(layer) for layer in decoder_layers(module))


def test_layers_come_back_after_an_error() -> None:
    module = toy_module()
    with pytest.raises(KeyError), starting_from(module, 1, torch.zeros(1, 1, 32)):
        raise KeyError
    assert not any("forward" in vars(layer) for layer in decoder_layers(module))


def test_what_is_frozen_below_is_counted_from_the_lowest_layer_up() -> None:
    module = gpt2()
    assert frozen_below(module) == 0
    for parameter in below(module, 2).values():
        parameter.requires_grad_(False)
    assert frozen_below(module) == 2
    module.get_parameter("transformer.h.0.ln_1.weight").requires_grad_(True)
    assert frozen_below(module) == 0
    module.requires_grad_(False)
    assert frozen_below(module) == 3
    module.get_parameter("transformer.wpe.weight").requires_grad_(True)
    assert frozen_below(module) == 0


def test_what_states_depend_on_is_before_the_layers_and_in_them() -> None:
    names = set(below(gpt2(), 1))
    assert {"transformer.wte.weight", "transformer.wpe.weight", "transformer.h.0.ln_1.weight"} <= names
    assert not any(name.startswith(("transformer.h.1.", "transformer.ln_f")) for name in names)


def test_a_model_without_one_list_of_layers_has_none() -> None:
    module = gpt2()
    module.config.num_hidden_layers = 4
    assert decoder_layers(module) == []
    assert frozen_below(module) == 0


def test_dropout_is_found_wherever_it_hides() -> None:
    assert drops(decoder_layers(gpt2()))
    assert not drops(decoder_layers(toy_module()))
    module = toy_module()
    decoder_layers(module)[0].get_submodule("self_attn").attention_dropout = 0.1
    assert drops(decoder_layers(module))
