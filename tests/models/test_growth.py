"""A deeper model computes what a model that was made as deep computes, under its old names."""

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from everlearn.errors import ModelError
from everlearn.models.generate import generate
from everlearn.models.growth import Blocks, depth, grow, has_grown
from everlearn.models.language_model import LanguageModel
from everlearn.models.lora import wrap
from everlearn.models.reading import reads_by_slots
from everlearn.testing.toys import toy_model, toy_module, toy_tokenizer

SIZE = {"vocab_size": 51, "hidden_size": 32, "intermediate_size": 48, "initializer_range": 0.2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None}
ORDER = [0, 1, 1, 2, 0]
NAMES = ["0", "1", "1_copy", "2", "0_copy"]


def llama(blocks: int) -> nn.Module:
    torch.manual_seed(blocks)
    return LlamaForCausalLM(LlamaConfig(**SIZE, **HEADS, num_hidden_layers=blocks)).eval()


def qwen(blocks: int) -> nn.Module:
    """Blocks that attend in turn to all and to a few tokens."""
    torch.manual_seed(blocks)
    kinds = ["full_attention", "sliding_attention", "full_attention", "full_attention", "sliding_attention"]
    if blocks == 5:
        kinds = [kinds[:3][block] for block in ORDER]
    sliding = {"use_sliding_window": True, "sliding_window": 4, "layer_types": kinds[:blocks]}
    return Qwen2ForCausalLM(Qwen2Config(**SIZE, **HEADS, **sliding, num_hidden_layers=blocks)).eval()


def gpt2(blocks: int) -> nn.Module:
    torch.manual_seed(blocks)
    sizes = {"vocab_size": 51, "n_embd": 32, "n_head": 4, "initializer_range": 0.2, "n_positions": 64}
    return GPT2LMHeadModel(GPT2Config(**sizes, n_layer=blocks, eos_token_id=1, bos_token_id=1)).eval()


def in_order(weights: dict[str, torch.Tensor], path: str) -> dict[str, torch.Tensor]:
    """The weights of a grown model under the names of one made as deep."""
    place = {name: str(i) for i, name in enumerate(NAMES)}
    renamed = {}
    for name, weight in weights.items():
        if name.startswith(path):
            block, _, rest = name.removeprefix(path).partition(".")
            name = f"{path}{place[block]}.{rest}"
        renamed[name] = weight
    return renamed


@pytest.mark.parametrize(
    ("make", "path"),
    [(llama, "model.layers."), (qwen, "model.layers."), (gpt2, "transformer.h.")],
    ids=["llama", "qwen", "gpt2"],
)
def test_a_grown_model_is_the_model_that_was_made_as_deep(make: type, path: str) -> None:
    module, deep = make(3), make(5)
    new = grow(module, ORDER)
    with torch.no_grad():  # copies of their own: they differ once they have learned
        for block in new:
            for p in block.parameters():
                p.mul_(1.5)
    deep.load_state_dict(in_order(module.state_dict(), path))
    assert module.config.num_hidden_layers == 5
    tokens = torch.arange(2, 22).view(2, 10)
    with torch.no_grad():
        torch.testing.assert_close(module(input_ids=tokens).logits, deep(input_ids=tokens).logits)
    ours, theirs = (LanguageModel(m, toy_tokenizer(), "toy") for m in (module, deep))
    assert reads_by_slots(ours) == reads_by_slots(theirs) == (make is not qwen)
    prompts = [[2, 3, 4], [5, 6, 7, 8, 9], [10] * 8]
    assert generate(ours, prompts, 12) == generate(theirs, prompts, 12)
    assert len(set(generate(ours, prompts, 12))) > 1


def test_old_parameters_keep_their_names_and_values() -> None:
    module, before = llama(3), {n: p.clone() for n, p in llama(3).named_parameters()}
    grow(module, ORDER)
    after = dict(module.named_parameters())
    assert all(torch.equal(after[n], p) for n, p in before.items())
    added = {n.split(".")[2] for n in after.keys() - before.keys()}
    assert added == {"1_copy", "0_copy"}
    assert (
        after["model.layers.1_copy.mlp.up_proj.weight"].data_ptr()
        != after["model.layers.1.mlp.up_proj.weight"].data_ptr()
    )


def test_growing_again_alike_is_nothing_and_otherwise_is_refused() -> None:
    module = llama(3)
    assert not has_grown(module)
    new = grow(module, ORDER)
    assert has_grown(module)
    assert depth(module) == 3
    assert all(a is b for a, b in zip(grow(module, ORDER), new, strict=True))
    with pytest.raises(ModelError, match="one method that grows"):
        grow(module, [0, 0, 1, 2])


def test_an_index_is_a_place_and_a_name_a_name() -> None:
    module = llama(3)
    grow(module, ORDER)
    blocks = module.get_submodule("model.layers")
    assert isinstance(blocks, Blocks)
    assert [name for name, _ in blocks.named_children()] == NAMES
    assert blocks[2] is module.get_submodule("model.layers.1_copy")
    assert blocks[-1] is module.get_submodule("model.layers.0_copy")
    assert [a is b for a, b in zip(blocks[1:3], list(blocks)[1:3], strict=True)] == [True, True]
    assert [block.self_attn.layer_idx for block in blocks] == [0, 1, 2, 3, 4]


def test_blocks_share_the_configuration_that_says_how_they_attend() -> None:
    module = llama(3)
    grow(module, ORDER)
    assert all(b.self_attn.config is module.config for b in module.get_submodule("model.layers"))


def test_what_cannot_grow_says_so() -> None:
    adapted = toy_module()
    wrap(adapted, "all-linear", 2, 4.0)
    with pytest.raises(ModelError, match="before LoRA"):
        grow(adapted, [0, 1, 1])
    headless = toy_model().module
    headless.config.num_hidden_layers = 7
    with pytest.raises(ModelError, match="7 blocks in no list"):
        grow(headless, [0, 1, 1])
