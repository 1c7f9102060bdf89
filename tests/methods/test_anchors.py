"""Anchors by hand: two quadratics reach the joint optimum; the Fisher is the Fisher."""

from dataclasses import replace

import pytest
import torch

from everlearn.errors import ConfigError
from everlearn.method import Context
from everlearn.methods.anchors import EWC, L2SP, _added
from everlearn.testing.toys import toy_model, toy_stream
from tests.methods.plane import at, descend, penalty, plane, some_batch


def test_two_quadratics_reach_the_joint_optimum() -> None:
    # Task 1: 1/2 (4, 1) (w - (1, 1))^2; task 2: 1/2 (1, 3) (w - (-1, 5))^2.
    # Joint: (4 * 1 + 1 * -1) / 5 = 0.6 and (1 * 1 + 3 * 5) / 4 = 4.
    method = EWC(strength=1.0, scaled=False)
    memory = {"fisher": {"w": torch.tensor([4.0, 1.0])}, "anchor": {"w": torch.tensor([1.0, 1.0])}, "constant": 0.0}
    model = plane(1.0, 1.0)
    descend(model, method, memory, torch.tensor([1.0, 3.0]), torch.tensor([-1.0, 5.0]))
    assert model.weight.tolist() == pytest.approx([0.6, 4.0], abs=1e-6)


def test_a_third_quadratic_reaches_the_joint_optimum_of_three() -> None:
    # Penalties around (1, 1) with F = (4, 1) and around (-1, 5) with F = (1, 3), and the task 1/2 2 (w - (0, 0))^2:
    # (4 - 1) / 7 and (1 + 15) / 6.
    one = {"fisher": {"w": torch.tensor([4.0, 1.0])}, "anchor": {"w": torch.tensor([1.0, 1.0])}, "constant": 0.0}
    both = _added(one, {"w": torch.tensor([1.0, 3.0])}, {"w": torch.tensor([-1.0, 5.0])}, scaled=False)
    model = plane(1.0, 1.0)
    descend(model, EWC(strength=1.0, scaled=False), both, torch.tensor([2.0, 2.0]), torch.tensor([0.0, 0.0]))
    assert model.weight.tolist() == pytest.approx([3 / 7, 16 / 6], abs=1e-6)


def test_two_quadratics_kept_as_one_have_the_value_of_both() -> None:
    one = {"fisher": {"w": torch.tensor([4.0, 1.0])}, "anchor": {"w": torch.tensor([1.0, 1.0])}, "constant": 0.0}
    both = _added(one, {"w": torch.tensor([1.0, 0.0])}, {"w": torch.tensor([-1.0, 5.0])}, scaled=False)
    # At (2, 3): 1/2 (4 * 1 + 1 * 4 + 1 * 9) = 8.5.
    with torch.no_grad():
        value = EWC(strength=1.0, scaled=False).loss(both, some_batch(), at(plane(2.0, 3.0)))
    assert float(value) == pytest.approx(8.5, abs=1e-6)


def test_l2sp_by_hand() -> None:
    model = plane(1.0, 3.0)
    method = L2SP(strength=10.0)
    memory = method.begin(None, at(model))
    model.move(2.0, -1.0)
    value, grad = penalty(method, memory, model)
    assert value == pytest.approx(10 / 2 * (4 + 1) / 2)
    assert grad == pytest.approx([10.0, -5.0])
    assert method.begin(memory, at(model)) is memory


def test_the_empirical_fisher_is_the_mean_squared_gradient_of_each_example() -> None:
    ctx = Context(toy_model(), toy_stream().experiences[0])
    method = EWC(fisher="empirical", samples=100, scaled=False)
    memory = method.end(None, ctx)
    by_hand = {n: torch.zeros_like(p) for n, p in ctx.trainable().items()}
    for example in ctx.experience.train:
        (batch,) = ctx.batches([example])
        loss = ctx.model.token_logprobs(batch).sum()
        for name, grad in ctx.grads(loss).items():
            by_hand[name] += grad**2 / len(ctx.experience.train)
    for name, fisher in memory["fisher"].items():
        torch.testing.assert_close(fisher, by_hand[name], rtol=1e-9, atol=1e-14)


def test_a_scaled_fisher_has_mean_one_whatever_the_model() -> None:
    ctx = Context(toy_model(), toy_stream().experiences[0])
    fisher = EWC(samples=4).end(None, ctx)["fisher"]
    assert sum(float(f.sum()) for f in fisher.values()) / sum(f.numel() for f in fisher.values()) == pytest.approx(1.0)


def test_true_labels_are_drawn_from_the_model() -> None:
    ctx = Context(toy_model(), toy_stream().experiences[0])
    true, empirical = EWC(samples=8, scaled=False), EWC(samples=8, scaled=False, fisher="empirical")
    a, b = true.end(None, ctx)["fisher"], empirical.end(None, ctx)["fisher"]
    assert any(not torch.allclose(a[n], b[n]) for n in a)
    assert all(torch.equal(a[n], f) for n, f in true.end(None, ctx)["fisher"].items())


def test_online_ewc_forgets_old_curvature_and_keeps_one_anchor() -> None:
    ctx = Context(toy_model(), toy_stream().experiences[0])
    method = EWC(samples=2, decay=0.5)
    first = method.end(None, ctx)
    second = method.end(first, replace(ctx, seen=1))
    new = method.end(None, replace(ctx, seen=1))
    for name in first["fisher"]:
        expected = 0.5 * first["fisher"][name] + new["fisher"][name]
        torch.testing.assert_close(second["fisher"][name], expected)


def test_negative_strengths_are_refused() -> None:
    with pytest.raises(ConfigError, match="strength is 0 or more"):
        EWC(strength=-1.0)
    with pytest.raises(ConfigError, match="strength is 0 or more"):
        L2SP(strength=-1.0)
