"""The most probable tokens and the rest as one, by hand and against automatic differentiation."""

import math

import pytest
import torch
from torch import Tensor

from everlearn.models import logprobs, top_logits
from everlearn.models.logprobs import Said, head_statistic
from everlearn.models.top_logits import (
    DISTANCES,
    Distance,
    Top,
    distance_from,
    reverse_divergence,
    top_distance,
    top_of,
    top_said,
)


def logits_of(*probabilities: float) -> Tensor:
    return torch.tensor([probabilities], dtype=torch.float64).log()


def test_what_is_kept_by_hand() -> None:
    top = top_of(logits_of(0.1, 0.5, 0.1, 0.3) + 2, 2)
    assert top.ids.tolist() == [[1, 3]]
    # The rest are 0.2 together; probabilities that sum to 1 have log sum exp 0, and 2 was added to each logit.
    assert top.values[0].tolist() == pytest.approx([math.log(0.5), math.log(0.3), math.log(0.2), 2.0])


def test_a_divergence_by_hand() -> None:
    kept = top_of(logits_of(0.5, 0.3, 0.1, 0.1), 2)
    # Now 0.25 and 0.25 at the two, and 0.5 at the rest, however it is split.
    expected = 0.5 * math.log(0.5 / 0.25) + 0.3 * math.log(0.3 / 0.25) + 0.2 * math.log(0.2 / 0.5)
    for split in (0.25, 0.4):
        values, slopes = top_distance(logits_of(0.25, 0.25, split, 0.5 - split), kept, "kl")
        assert values.item() == pytest.approx(expected)
        # q - p at the two; q - 0.2 q / 0.5 at the others.
        assert slopes[0].tolist() == pytest.approx([-0.25, -0.05, 0.6 * split, 0.6 * (0.5 - split)])


def test_a_reverse_divergence_by_hand() -> None:
    kept = top_of(logits_of(0.5, 0.3, 0.1, 0.1), 2)
    # Now 0.25 and 0.25 at the two, and 0.5 at the rest, however it is split.
    ratios = [math.log(0.25 / 0.5), math.log(0.25 / 0.3), math.log(0.5 / 0.2)]
    expected = 0.25 * ratios[0] + 0.25 * ratios[1] + 0.5 * ratios[2]
    for split in (0.25, 0.4):
        now = [0.25, 0.25, split, 0.5 - split]
        values, slopes = reverse_divergence(logits_of(*now), kept)
        assert values.item() == pytest.approx(expected)
        charged = [ratios[0], ratios[1], ratios[2], ratios[2]]
        assert slopes[0].tolist() == pytest.approx([q * (c - expected) for q, c in zip(now, charged, strict=True)])


@pytest.mark.parametrize("count", [1, 3, 9])
def test_the_slope_of_a_reverse_divergence_is_that_of_automatic_differentiation(count: int) -> None:
    rng = torch.Generator().manual_seed(1)
    x, fixed = (torch.randn(4, 9, generator=rng, dtype=torch.float64) for _ in range(2))
    top = top_of(fixed, count)
    x.requires_grad_()
    p, q = x.softmax(-1), fixed.softmax(-1)
    chosen = torch.zeros_like(p, dtype=torch.bool).scatter(-1, top.ids.long(), True)
    inside = torch.where(chosen, p * (p / q).log(), 0.0).sum(-1)
    rest, theirs = (torch.where(chosen, 0.0, t).sum(-1) for t in (p, q))
    plain = inside + (rest * (rest / theirs).log() if count < 9 else 0.0)
    (expected,) = torch.autograd.grad(plain.sum(), x)
    values, slopes = reverse_divergence(x.detach(), top)
    torch.testing.assert_close(values, plain.detach())
    torch.testing.assert_close(slopes, expected)


def test_squares_by_hand() -> None:
    kept = top_of(torch.tensor([[3.0, 1.0, -9.0]], dtype=torch.float64), 2)
    now = torch.tensor([[4.0, 4.0, 7.0]], dtype=torch.float64)
    # The gaps are 1 and 3: (1 + 9) / 2; without their mean they are -1 and 1.
    values, slopes = top_distance(now, kept, "mse-raw")
    assert values.item() == pytest.approx(5.0)
    assert slopes[0].tolist() == pytest.approx([1.0, 3.0, 0.0])
    values, slopes = top_distance(now, kept, "mse")
    assert values.item() == pytest.approx(1.0)
    assert slopes[0].tolist() == pytest.approx([-1.0, 1.0, 0.0])


@pytest.mark.parametrize("distance", DISTANCES)
def test_nothing_is_far_from_itself(distance: Distance) -> None:
    logits = torch.randn(5, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for count in (1, 4, 9, 20):
        values, slopes = top_distance(logits, top_of(logits, count), distance)
        assert float(values.abs().max()) < 1e-14
        assert float(slopes.abs().max()) < 1e-14


def test_a_constant_added_to_all_logits_is_seen_by_raw_squares_alone() -> None:
    logits = torch.randn(3, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    top = top_of(logits, 4)
    far = {d: float(top_distance(logits + 2, top, d)[0].max()) for d in DISTANCES}
    assert far == pytest.approx({"kl": 0.0, "mse": 0.0, "mse-raw": 4.0}, abs=1e-12)


def plainly(logits: Tensor, top: Top, distance: Distance) -> Tensor:
    """The same in plain torch, for automatic differentiation."""
    ids, k = top.ids.long(), top.ids.shape[1]
    if distance == "kl":
        q = logits.softmax(-1).gather(-1, ids)
        q, p = torch.cat([q, 1 - q.sum(-1, keepdim=True)], -1), top.values[:, : k + 1].exp()
        return (p * (p / q).log()).sum(-1)
    gap = logits.gather(-1, ids) - (top.values[:, :k] + top.values[:, -1:])
    return (gap**2).mean(-1) if distance == "mse-raw" else gap.var(-1, correction=0)


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("distance", DISTANCES)
def test_in_chunks_it_equals_the_plain_computation(
    distance: Distance, trained: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in (logprobs, top_logits):
        monkeypatch.setattr(place, "CHUNK", 4)
        monkeypatch.setattr(place, "ROWS", 3)
    rng = torch.Generator().manual_seed(0)
    hidden = torch.randn(13, 6, generator=rng, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(9, 6, generator=rng, dtype=torch.float64, requires_grad=trained)
    bias = torch.randn(9, generator=rng, dtype=torch.float64, requires_grad=trained)
    other = torch.randn(13, 6, generator=rng, dtype=torch.float64)
    top = top_said(Said(other, weight, bias), 3)
    whole = top_of(torch.nn.functional.linear(other, weight, bias).detach(), 3)
    assert torch.equal(top.ids, whole.ids)
    torch.testing.assert_close(top.values, whole.values, rtol=1e-12, atol=1e-12)
    upstream, leaves = torch.linspace(-1, 2, 13, dtype=torch.float64), [hidden, weight, bias] if trained else [hidden]
    ours = head_statistic(hidden, weight, bias, distance_from(top, distance))
    plain = plainly(torch.nn.functional.linear(hidden, weight, bias), top, distance)
    torch.testing.assert_close(ours, plain, rtol=1e-11, atol=1e-11)
    found, expected = (torch.autograd.grad((v * upstream).sum(), leaves) for v in (ours, plain))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_a_rest_of_next_to_nothing_has_a_finite_slope() -> None:
    kept = top_of(torch.tensor([[0.0, 0.0, 0.0]]), 1)
    values, slopes = top_distance(torch.tensor([[800.0, 0.0, -50.0]]), kept, "kl")
    assert values.item() == pytest.approx(2 / 3 * 800 + 2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3), rel=1e-5)
    assert slopes[0].tolist() == pytest.approx([2 / 3, -2 / 3, 0.0], rel=1e-4)  # fp32 at 800
