"""What linear layers read is what reaches them."""

import pytest
import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

from everlearn.errors import ModelError
from everlearn.examples import Batch
from everlearn.method import Context
from everlearn.methods.adapters import LoRA
from everlearn.models.activations import Store
from everlearn.models.inputs import layer_inputs, linear_layers
from everlearn.models.language_model import LanguageModel
from everlearn.testing.toys import toy_model, toy_stream, toy_tokenizer


def some() -> Batch:
    experience = toy_stream().experiences[0]
    return next(Context(toy_model(), experience).batches(experience.train))


def test_a_first_layer_reads_normed_embeddings_and_the_head_the_last_state() -> None:
    model, batch = toy_model(), some()
    where = batch.segments > 0
    found = layer_inputs(model, {"model.layers.0.self_attn.q_proj", "lm_head"}, batch, where)
    first = model.module.get_submodule("model.layers.0.input_layernorm")
    embedded = model.module.get_submodule("model.embed_tokens")(batch.tokens)
    torch.testing.assert_close(found["model.layers.0.self_attn.q_proj"], first(embedded)[where])
    torch.testing.assert_close(found["lm_head"], model.hidden(batch)[where])
    assert not any(t.requires_grad for t in found.values())


def test_nothing_watches_afterwards() -> None:
    model, batch = toy_model(), some()
    found = layer_inputs(model, {"model.layers.1.mlp.up_proj"}, batch, batch.supervised)
    assert found["model.layers.1.mlp.up_proj"].shape == (batch.weight, 32)
    assert not any(layer._forward_pre_hooks for layer in model.module.modules())


@pytest.mark.parametrize(("layer", "starts_above"), [(0, False), (1, True)])
def test_kept_states_serve_where_they_leave_out_nothing_that_is_asked_for(layer: int, starts_above: bool) -> None:
    model, batch, name = toy_model(), some(), f"model.layers.{layer}.self_attn.q_proj"
    expected = layer_inputs(model, {name}, batch, batch.segments > 0)[name]
    model.store = Store(10**6)
    for parameter in model.module.get_submodule("model.layers.0").parameters():
        parameter.requires_grad_(False)
    model.module.get_submodule("model.embed_tokens").requires_grad_(False)
    with model.keeping():
        found = layer_inputs(model, {name}, batch, batch.segments > 0)[name]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert (len(model.store) > 0) is starts_above


def test_adapted_layers_are_among_the_linear_ones_and_their_bases_are_not() -> None:
    model = LoRA(rank=2).params(None, toy_model())
    names = linear_layers(model).keys()
    assert len(names) == 2 * 7 + 1
    assert not any(name.endswith(".base") for name in names)
    batch = some()
    assert len(layer_inputs(model, names, batch, batch.segments > 0)) == 15


def test_transposed_layers_read_like_others() -> None:
    shape = {"n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 60}
    model = LanguageModel(GPT2LMHeadModel(GPT2Config(**shape)).eval(), toy_tokenizer(), "gpt2")
    batch = some()
    found = layer_inputs(model, linear_layers(model).keys(), batch, batch.segments > 0)
    assert {n.rpartition("h.0.")[2]: x.shape[1] for n, x in found.items()} == {
        "attn.c_attn": 16,
        "attn.c_proj": 16,
        "mlp.c_fc": 16,
        "mlp.c_proj": 64,
        "lm_head": 16,
    }


class Flat(nn.Module):
    """Hands its tokens on without their rows, as a router of experts does."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.inner(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        return found


def test_a_layer_that_does_not_read_all_tokens_is_refused() -> None:
    model, batch = toy_model(), some()
    mlp = model.module.get_submodule("model.layers.0.mlp")
    mlp.down_proj = Flat(mlp.get_submodule("down_proj"))
    with pytest.raises(ModelError, match="mixture of experts"):
        layer_inputs(model, linear_layers(model).keys(), batch, batch.segments > 0)
    assert not any(layer._forward_pre_hooks for layer in model.module.modules())


def test_a_layer_that_is_never_asked_is_named() -> None:
    model, batch = toy_model(), some()
    model.module.get_submodule("model.layers.0").spare = nn.Linear(32, 32)
    with pytest.raises(ModelError, match="spare read nothing"):
        layer_inputs(model, {"model.layers.0.spare"}, batch, batch.segments > 0)
