"""Weighted distances, by hand."""

import pytest
import torch
from torch import Tensor

from everlearn.errors import ConfigError
from everlearn.methods.anchors import L2SP
from everlearn.methods.quadratics import copies, drift, mean, plus, require_strength, total, with_mean_one, zeros

ANCHOR = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([0.0])}
WEIGHT = {"a": torch.tensor([3.0, 0.5]), "b": torch.tensor([10.0])}


def parameters() -> dict[str, Tensor]:
    return {"a": torch.tensor([2.0, 4.0], requires_grad=True), "b": torch.tensor([1.0], requires_grad=True)}


def test_drift_by_hand() -> None:
    assert drift(parameters(), ANCHOR).item() == 1 + 4 + 1
    assert drift(parameters(), ANCHOR, WEIGHT).item() == 3 * 1 + 0.5 * 4 + 10 * 1
    assert drift(parameters(), ANCHOR, WEIGHT, mean=True).item() == 15 / 3


def test_what_has_no_anchor_or_no_weight_is_free() -> None:
    assert drift(parameters(), {"a": ANCHOR["a"]}, WEIGHT, mean=True).item() == 5 / 2
    assert drift(parameters(), ANCHOR, {"b": WEIGHT["b"]}).item() == 10
    assert drift(parameters(), {}, WEIGHT, mean=True).item() == 0


def test_the_gradient_by_hand_and_zero_at_the_anchor() -> None:
    here = parameters()
    drift(here, ANCHOR, WEIGHT).backward()  # type: ignore[no-untyped-call]
    assert here["a"].grad is not None
    assert here["a"].grad.tolist() == [2 * 3 * 1, 2 * 0.5 * 2]
    there = {name: t.clone().requires_grad_() for name, t in ANCHOR.items()}
    term = drift(there, ANCHOR, WEIGHT)
    assert term.item() == 0
    assert all(not g.any() for g in torch.autograd.grad(term, list(there.values())))


def test_half_precision_is_kept_in_float32() -> None:
    half = {"a": torch.tensor([1.5], dtype=torch.bfloat16, requires_grad=True)}
    assert copies(half)["a"].dtype == zeros(half)["a"].dtype == torch.float32
    assert not copies(half)["a"].requires_grad
    moved = copies(half)["a"]
    moved += 1
    assert half["a"].item() == 1.5
    assert copies({"a": torch.ones(1, dtype=torch.float64)})["a"].dtype == torch.float64


def test_mean_and_scale_go_over_all_tensors() -> None:
    assert mean(WEIGHT) == 13.5 / 3
    scaled = with_mean_one(WEIGHT)
    assert scaled["a"].tolist() == pytest.approx([3 / 4.5, 0.5 / 4.5])
    assert mean(scaled) == pytest.approx(1)
    nothing = with_mean_one({"a": torch.zeros(2)})
    assert nothing["a"].tolist() == [0, 0]
    assert mean({}) == float(total([])) == 0


def test_plus_joins_by_name() -> None:
    joined = plus({"a": torch.tensor([1.0]), "b": torch.tensor([2.0])}, {"b": torch.tensor([3.0]), "c": torch.ones(1)})
    assert {name: t.tolist() for name, t in joined.items()} == {"a": [1], "b": [5], "c": [1]}


@pytest.mark.parametrize("strength", [-1.0, float("inf"), float("nan")])
def test_strengths_without_a_meaning_are_refused(strength: float) -> None:
    with pytest.raises(ConfigError, match="strength is 0 or more"):
        require_strength(L2SP(), strength)
