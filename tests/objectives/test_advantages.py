"""Rewards to advantages, by hand."""

import math

import pytest

from everlearn.errors import DataError
from everlearn.objectives.advantages import EPSILON, Baseline, Scale, advantages

GROUP = ["a"] * 4
REWARDS = [1.0, 0.0, 0.0, 1.0]  # mean 0.5; deviations of 0.5: s = sqrt(4 * 0.25 / 3)
S = math.sqrt(1 / 3)


@pytest.mark.parametrize(
    ("baseline", "scale", "first"),
    [
        ("none", "none", 1.0),
        ("mean", "none", 0.5),
        ("leave-one-out", "none", 1 - 1 / 3),  # the others' mean is 1/3
        ("mean", "group", 0.5 / (S + EPSILON)),
        ("mean", "mean", 0.5 / 0.5),
    ],
)
def test_each_mode_by_hand(baseline: Baseline, scale: Scale, first: float) -> None:
    found = advantages(REWARDS, GROUP, baseline, scale)
    assert found[0] == pytest.approx(first, abs=1e-12)
    assert found[0] == found[3]


def test_the_modes_differ() -> None:
    rewards, groups = [1.0, 0.0, 0.0, 3.0, 0.5], ["a", "a", "a", "b", "b"]
    modes: list[tuple[Baseline, Scale]] = [
        ("none", "none"),
        ("mean", "none"),
        ("leave-one-out", "none"),
        ("mean", "group"),
        ("mean", "batch"),
        ("batch", "batch"),
        ("mean", "mean"),
    ]
    assert len({tuple(advantages(rewards, groups, *mode)) for mode in modes}) == len(modes)


def test_the_deviation_of_the_batch_is_of_all_groups() -> None:
    found = advantages([1.0, 0.0, 5.0, 3.0], ["a", "a", "b", "b"], "mean", "batch")
    s = math.sqrt(((1 - 2.25) ** 2 + 2.25**2 + 2.75**2 + 0.75**2) / 3)
    assert found == pytest.approx([0.5 / (s + EPSILON), -0.5 / (s + EPSILON), 1 / (s + EPSILON), -1 / (s + EPSILON)])


@pytest.mark.parametrize("scale", ["none", "group", "batch"])
def test_a_group_in_which_all_did_as_well_has_no_advantage_to_the_bit(scale: Scale) -> None:
    found = advantages([0.1, 0.1, 0.1, 1.0, 0.0], ["a", "a", "a", "b", "b"], "mean", scale)
    assert found[:3] == [0.0, 0.0, 0.0]
    assert found[3] != 0.0


@pytest.mark.parametrize("baseline", ["mean", "leave-one-out"])
def test_a_group_of_one_has_no_advantage(baseline: Baseline) -> None:
    assert advantages([7.0, 1.0, 0.0], ["alone", "b", "b"], baseline)[0] == 0.0


@pytest.mark.parametrize(("baseline", "scale"), [("mean", "none"), ("leave-one-out", "none"), ("mean", "group")])
def test_a_constant_added_to_all_rewards_changes_nothing(baseline: Baseline, scale: Scale) -> None:
    moved = advantages([r + 4 for r in REWARDS], GROUP, baseline, scale)
    assert moved == pytest.approx(advantages(REWARDS, GROUP, baseline, scale))


def test_nothing_is_divided_by_no_deviation() -> None:
    assert advantages([1, 1, 0, 0], "aabb", "batch", "group") == [0.5, 0.5, -0.5, -0.5]
    assert advantages([1, 1], "aa", "none", "group") == [1, 1]


def test_a_negative_mean_would_turn_better_into_worse() -> None:
    with pytest.raises(DataError, match="not negative"):
        advantages([-1.0, 0.0], "aa", "mean", "mean")


def test_what_could_not_be_scored_takes_part_in_no_mean() -> None:
    assert advantages([1.0, None, 0.0], ["a"] * 3) == [0.5, None, -0.5]
    assert advantages([None, None], ["a", "a"]) == [None, None]


def test_a_call_that_is_made_in_failures_alone_is_credited_by_the_key() -> None:
    # An agent is called three times in the one attempt that fails, another once in each of two (Dr. MAS, issue 81).
    rewards = [1.0, 0.0, 0.0, 0.0, 0.0]
    by_task = advantages(rewards, ["task"] * 5)
    by_agent = advantages(rewards, [("task", "a"), ("task", "a"), ("task", "b"), ("task", "b"), ("task", "b")])
    by_attempt = advantages([1.0, 0.0], ["task"] * 2)  # each attempt once, however many calls it made
    assert by_attempt == [0.5, -0.5]
    assert by_task[2:] == pytest.approx([-0.2] * 3)
    assert by_agent[2:] == [0.0] * 3
