"""Token losses of a policy gradient, by hand on two or three tokens."""

import math

import pytest
import torch
from torch import Tensor

from everlearn.errors import ConfigError
from everlearn.objectives.surrogates import CISPO, Clip, Reinforce, SequenceClip, Surrogate, means, moved


def numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def loss(
    surrogate: Surrogate, ratios: list[float], advantage: list[float], attempts: list[int]
) -> tuple[list[float], list[float]]:
    """The losses of tokens with these ratios, drawn at probability 1/2, and their sum's slope by log-probability."""
    old = torch.full((len(ratios),), math.log(0.5), dtype=torch.float64)
    now = (old + numbers(*ratios).log()).requires_grad_()
    found = surrogate.loss(now, old, numbers(*advantage), torch.tensor(attempts))
    (slope,) = torch.autograd.grad(found.sum(), now)
    return found.tolist(), slope.tolist()


def test_clipping_by_hand() -> None:
    # A > 0: the ratio counts up to 1.2; below 1 it counts. A < 0: it counts from 0.8 up.
    found, slope = loss(Clip(), [1.5, 0.5, 1.5, 0.5], [1, 1, -1, -1], [0, 0, 0, 0])
    assert found == pytest.approx([-1.2, -0.5, 1.5, 0.8])
    assert slope == pytest.approx([0, -0.5, 1.5, 0])  # d rho / d lp = rho


def test_clipping_higher_leaves_improbable_tokens_room() -> None:
    assert loss(Clip(0.2, 0.28), [1.25], [1], [0])[1] == pytest.approx([-1.25])
    assert loss(Clip(0.2, 0.2), [1.25], [1], [0])[1] == pytest.approx([0])


def test_the_dual_clip_bounds_what_a_bad_token_costs() -> None:
    found, slope = loss(Clip(dual=3.0), [5.0, 2.0, 5.0], [-1, -1, 1], [0, 0, 0])
    assert found == pytest.approx([3, 2, -1.2])
    assert slope == pytest.approx([0, 2, 0])


def test_one_ratio_for_an_attempt_is_the_geometric_mean_of_its_tokens() -> None:
    found, slope = loss(SequenceClip(0.2, 0.2), [2.0, 0.5, 1.1], [1, 1, 2], [0, 0, 1])
    assert found == pytest.approx([-1, -1, -2.2])  # sqrt(2 * 0.5) = 1
    assert slope == pytest.approx([-1, -1, -2.2])  # each of the two tokens moves both losses by half


def test_every_token_keeps_a_gradient_under_cispo() -> None:
    found, slope = loss(CISPO(high=0.5), [2.0, 0.5], [1, -1], [0, 0])
    assert slope == pytest.approx([-1.5, 0.5])
    assert found == pytest.approx([-1.5 * math.log(1.0), 0.5 * math.log(0.25)])


def test_reinforce_has_no_ratio() -> None:
    assert loss(Reinforce(), [2.0, 0.5], [3, -1], [0, 0])[1] == pytest.approx([-3, 1])


def test_no_ratio_overflows() -> None:
    found = Clip().loss(numbers(0.0), numbers(-1000.0), numbers(-1.0), torch.tensor([0]))
    assert found.item() == pytest.approx(math.exp(20))


def test_where_nothing_has_moved_all_have_the_gradient_of_reinforce() -> None:
    for surrogate in (Clip(), SequenceClip(), CISPO(), Reinforce()):
        assert loss(surrogate, [1, 1, 1], [2, 2, -1], [0, 0, 1])[1] == pytest.approx([-2, -2, 1])


def test_means_are_by_attempt() -> None:
    assert means(numbers(1, 3, 5), torch.tensor([0, 0, 1])).tolist() == [2, 5]


def test_bounds_that_turn_the_gradient_are_refused() -> None:
    with pytest.raises(ConfigError, match="high >= 0"):
        CISPO(high=-2.0)
    with pytest.raises(ConfigError, match="high >= 0"):
        SequenceClip(low=-1.0)


@pytest.mark.parametrize("fields", [{"low": -0.1}, {"low": 1.5}, {"high": -1.0}, {"dual": 1.0}])
def test_bounds_without_a_meaning_are_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="high >= 0"):
        Clip(**fields)


@pytest.mark.parametrize(
    ("surrogate", "clipped"), [(Clip(), 2 / 3), (Clip(1.0, 1.0), 0.0), (CISPO(0.2), 0.0), (SequenceClip(), 1.0)]
)
def test_what_has_moved_and_what_no_longer_teaches_by_hand(surrogate: Surrogate, clipped: float) -> None:
    ratios = numbers(1.5, 0.5, 1.0, 1.1)
    old = torch.full_like(ratios, math.log(0.5))
    told = moved(surrogate, old + ratios.log(), old, numbers(1, -1, 0, 1), torch.tensor([0, 1, 2, 2]))
    expected = (0.5 - math.log(1.5) - 0.5 - math.log(0.5) + 0.1 - math.log(1.1)) / 4
    assert told["kl_old"] == pytest.approx(expected)
    assert told["clipped"] == pytest.approx(clipped)
