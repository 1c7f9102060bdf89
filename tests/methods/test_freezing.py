"""Frozen layers keep every bit, and take part in nothing that is trained."""

from dataclasses import replace

import pytest
import torch

from everlearn.errors import ConfigError, MethodError
from everlearn.method import Context, Method, chain
from everlearn.methods.adapters import LoRA
from everlearn.methods.freezing import Freeze, Slow
from everlearn.models.lora import adapters
from everlearn.testing.laws import learned
from everlearn.testing.toys import toy_model, toy_stream


def test_the_embedding_and_the_lowest_layers_stand_still() -> None:
    model = chain(Freeze(below=1)).params([None], toy_model())
    names = set(model.trainable())
    assert names
    assert all(name.startswith(("model.layers.1.", "model.norm.")) for name in names)
    assert {n.split(".")[2] for n in names if n.startswith("model.layers.")} == {"1"}


@pytest.mark.parametrize("method", [Freeze(below=1), chain(LoRA(rank=2), Freeze(below=1))])
def test_only_what_is_above_is_in_a_version(method: Method) -> None:
    weights = learned(method).weights
    assert weights
    assert not any(name.startswith(("model.layers.0.", "model.embed_tokens.")) for name in weights)


def test_adapters_of_frozen_layers_are_taken_away_and_the_function_stays() -> None:
    model = toy_model()
    tokens = torch.arange(8)[None]
    before = model.module(tokens).logits
    chain(LoRA(rank=2), Freeze(below=1)).params([None, None], model)
    assert all(name.startswith("model.layers.1.") for name in adapters(model.module))
    assert torch.equal(model.module(tokens).logits, before)


def test_an_adapter_that_has_learned_is_kept() -> None:
    model = LoRA(rank=2).params(None, toy_model())
    first = adapters(model.module)["model.layers.0.mlp.up_proj"]
    with torch.no_grad():
        first.B[0, 0] = 1.0
    Freeze(below=1).params(None, model)
    assert [n for n in adapters(model.module) if n.startswith("model.layers.0.")] == ["model.layers.0.mlp.up_proj"]
    assert not first.B.requires_grad


def test_nothing_below_zero_is_frozen() -> None:
    model = toy_model()
    assert set(Freeze(below=0).params(None, model).trainable()) == set(model.parameters())


def test_a_model_with_too_few_layers_is_refused() -> None:
    with pytest.raises(MethodError, match="has 2 layers"):
        Freeze(below=2).params(None, toy_model())
    with pytest.raises(ConfigError, match="0 or more"):
        replace(Freeze(), below=-1)


def test_slowed_layers_move_by_the_factor_and_the_others_as_proposed() -> None:
    model = toy_model()
    ctx = Context(model, toy_stream().experiences[0])
    update = {name: torch.ones_like(p) for name, p in model.trainable().items()}
    found = Slow(below=1, factor=0.25).update(None, update, ctx)
    assert {float(u.mean()) for n, u in found.items() if n.startswith(("model.layers.0.", "model.embed"))} == {0.25}
    assert {float(u.mean()) for n, u in found.items() if n.startswith(("model.layers.1.", "model.norm"))} == {1.0}
    with pytest.raises(ConfigError, match="factor"):
        Slow(factor=2.0)
