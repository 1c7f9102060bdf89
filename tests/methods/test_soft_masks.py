"""Soft masks: the gradient of a gate without a gate, and a factor that Adam does not divide out."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from everlearn.errors import ConfigError
from everlearn.learner import Learner, learn
from everlearn.method import Context, chain
from everlearn.methods.adapters import LoRA
from everlearn.methods.soft_masks import SoftMask, _gates
from everlearn.testing.laws import RECIPE, learned
from everlearn.testing.toys import toy_model, toy_stream
from tests.methods.late import Late


def test_a_gates_gradient_is_the_product_of_a_row_and_its_gradient() -> None:
    ctx = Context(toy_model(), toy_stream().experiences[0])
    (batch, *_) = ctx.batches(ctx.experience.train)
    found = _gates(ctx.trainable(), ctx.grads(ctx.loss(batch)))
    for name in ("model.layers.0.mlp.up_proj", "model.layers.1.self_attn.v_proj", "model.norm"):
        layer = ctx.model.module.get_submodule(name)
        gate = torch.ones(len(layer.get_parameter("weight")), dtype=torch.float64, requires_grad=True)
        handle = layer.register_forward_hook(lambda _, __, out, gate=gate: out * gate)
        (expected,) = torch.autograd.grad(ctx.loss(batch), [gate])
        handle.remove()
        torch.testing.assert_close(found[f"{name}.weight"], expected, rtol=1e-9, atol=1e-12)


def test_importances_are_standardised_and_squashed_by_hand() -> None:
    # Mean 2 and spread 1: z = -1 and 1.
    paper, free = (SoftMask(low=low)._squashed(torch.tensor([1.0, 3.0])) for low in ("protect", "free"))  # type: ignore[arg-type]
    assert paper.tolist() == pytest.approx([math.tanh(1), math.tanh(1)])
    assert free.tolist() == pytest.approx([0, math.tanh(1)])
    assert SoftMask()._squashed(torch.tensor([2.0])).tolist() == [0]


def test_the_importance_is_the_mean_over_examples_before_it_is_squashed() -> None:
    ctx = Context(toy_model(), toy_stream().experiences[0], seen=1)
    method = SoftMask(samples=100)
    found = method.end({"importance": {}}, ctx)["importance"]
    total: dict[str, Tensor] = {}
    for example in ctx.experience.train:
        (batch,) = ctx.batches([example])
        for name, gate in _gates(ctx.trainable(), ctx.grads(ctx.loss(batch))).items():
            total[name] = total.get(name, torch.zeros_like(gate)) + gate.abs()
    for name, mask in found.items():
        torch.testing.assert_close(mask, method._squashed(total[name]), rtol=1e-9, atol=1e-12)


def test_a_mask_by_hand() -> None:
    ctx = Context(toy_model(), toy_stream().experiences[0])
    memory = {"importance": {"m": torch.tensor([0.25, 1.0]), "v": torch.tensor([0.5])}}
    given = {"m": torch.tensor([[4.0, 8.0], [4.0, 8.0]]), "v": torch.tensor([2.0]), "new": torch.tensor([3.0])}
    masked = {"m": [[3.0, 6.0], [0.0, 0.0]], "v": [1.0], "new": [3.0]}
    for acts_on in ("update", "grad"):
        method = SoftMask(acts_on=acts_on)  # type: ignore[arg-type]
        sides = {"update": method.update(memory, given, ctx), "grad": method.grad(memory, given, ctx)}
        for side, found in sides.items():
            expected = masked if side == acts_on else {n: t.tolist() for n, t in given.items()}
            assert {n: t.tolist() for n, t in found.items()} == expected


def test_over_experiences_the_largest_importance_counts() -> None:
    first, second, _ = (Context(toy_model(), e, seen=i) for i, e in enumerate(toy_stream()))
    method = SoftMask(samples=3, general=False)
    assert method.begin(None, first) == {"importance": {}}
    one, other = (method.end({"importance": {}}, ctx)["importance"] for ctx in (first, second))
    both = method.end({"importance": one}, second)["importance"]
    assert all(torch.equal(both[n], torch.maximum(one[n], other[n])) for n in both)
    assert any(not torch.equal(both[n], one[n]) for n in both)
    assert any(not torch.equal(both[n], other[n]) for n in both)


def test_what_the_model_knew_is_masked_from_the_first_experience_on() -> None:
    ctx = Context(toy_model(), toy_stream().experiences[0])
    importance = SoftMask(samples=3).begin(None, ctx)["importance"]
    assert importance.keys() == ctx.trainable().keys()
    assert all(float(t.min()) >= 0 and 0 < float(t.max()) <= 1 for t in importance.values())
    assert SoftMask(samples=3).begin({"importance": importance}, ctx) == {"importance": importance}


def first_step(method: Any) -> dict[str, Tensor]:
    """By how much each weight moves in a single step of Adam."""
    learner, model = Learner("toy", method, replace(RECIPE, batch_size=100), 0), toy_model()
    before = {n: p.detach().clone() for n, p in model.parameters().items()}
    first = toy_stream().experiences[0]
    state = learn(learner, model, learner.start(model), first)
    return {n: (w - before[n]).abs() for n, w in state.weights.items()}


def test_adam_undoes_a_mask_on_the_gradient_and_not_one_on_the_update() -> None:
    plain = first_step(chain())
    update, grad = (first_step(SoftMask(samples=4, acts_on=side)) for side in ("update", "grad"))  # type: ignore[arg-type]
    memory = SoftMask(samples=4).begin(None, Context(toy_model(), toy_stream().experiences[0], place=(0,)))
    for name, mask in memory["importance"].items():
        factor = (1 - mask).view(-1, *[1] * (plain[name].ndim - 1))
        torch.testing.assert_close(update[name], factor * plain[name], rtol=1e-6, atol=1e-12)
    moved = plain["model.layers.0.mlp.up_proj.weight"] > 0
    ratio = (grad["model.layers.0.mlp.up_proj.weight"] / plain["model.layers.0.mlp.up_proj.weight"])[moved]
    assert float(ratio.median()) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("others", [(), (LoRA(rank=2),)], ids=["full", "LoRA"])
def test_memory_is_a_number_a_row(others: Any) -> None:
    learner, model = Learner("toy", chain(*others, SoftMask(samples=2)), RECIPE, 0), toy_model()
    state = learner.start(model)
    for experience in toy_stream():
        state = learn(learner, model, state, experience)
        importance = state.memory[-1]["importance"]
        assert {n: len(t) for n, t in importance.items()} == {n: len(p) for n, p in model.trainable().items()}


def test_a_sample_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="samples is 1 or more"):
        SoftMask(samples=0)


@pytest.mark.parametrize("method", [SoftMask(samples=2)], ids=str)
def test_parameters_may_join_after_the_experience_began(method: Any) -> None:
    state = learned(chain(Late(), method))
    assert all(name.endswith((".A", ".B")) for name in state.weights)
    assert all(w.isfinite().all() for w in state.weights.values())
