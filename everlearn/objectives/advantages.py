"""How much better an attempt was than those it is compared with: rewards to advantages, group by group."""

from collections import defaultdict
from collections.abc import Hashable, Sequence
from statistics import fmean, pstdev, stdev
from typing import Literal

from everlearn.errors import DataError

Baseline = Literal["none", "mean", "leave-one-out", "batch"]
Scale = Literal["none", "group", "batch", "mean"]

EPSILON = 1e-4
"""Added to a standard deviation that is divided by, as TRL does."""


def advantages(
    rewards: Sequence[float | None],
    groups: Sequence[Hashable],
    baseline: Baseline = "mean",
    scale: Scale = "none",
) -> list[float | None]:
    """The advantage of each attempt over its group.

    With r the rewards of a group of G attempts (or of the batch) and s their standard deviation, by G - 1:

    - REINFORCE: baseline "none", scale "none": r_i.
    - RLOO (arXiv:2402.14740): "leave-one-out": r_i - mean of the others = G / (G - 1) (r_i - mean r).
    - GRPO (arXiv:2402.03300): "mean", "group": (r_i - mean r) / (s + 1e-4).
    - Dr. GRPO (arXiv:2503.20783): "mean", "none".
    - REINFORCE++ with baseline (arXiv:2501.03262): "mean", "batch": s of the whole batch.
    - MaxRL: "mean", "mean": (r_i - mean r) / mean r; rewards are not negative there.

    With the baselines "mean" and "leave-one-out" a group in which all rewards are equal has advantages of exactly 0, as
    has a group of one, which has nothing to be compared with. Where s or a mean is 0, nothing is divided.

    Args:
        rewards: None where an attempt could not be scored; it takes part in no mean.
        groups: what attempts share that are compared with each other.
        baseline: what is subtracted: nothing, the group's mean, the mean of its other members, or the batch's mean.
        scale: what is divided by: nothing, s of the group, s of the batch, or the group's mean.

    Returns:
        None where there is no reward.

    Raises:
        DataError: if a mean that is divided by is negative, which would turn better into worse.
    """
    known = [r for r in rewards if r is not None]
    members: dict[Hashable, list[float]] = defaultdict(list)
    for reward, group in zip(rewards, groups, strict=True):
        if reward is not None:
            members[group].append(reward)
    found: list[float | None] = []
    for reward, group in zip(rewards, groups, strict=True):
        if reward is None:
            found.append(None)
            continue
        mine = members[group]
        found.append(_difference(reward, mine, known, baseline) / _size(mine, known, scale))
    return found


def _difference(reward: float, group: Sequence[float], batch: Sequence[float], baseline: Baseline) -> float:
    if baseline == "none":
        return reward
    compared = batch if baseline == "batch" else group
    if pstdev(compared) == 0:  # exactly, so that no rounding is blown up by a small deviation
        return 0.0
    difference = reward - fmean(compared)
    return difference * len(group) / (len(group) - 1) if baseline == "leave-one-out" else difference


def _size(group: Sequence[float], batch: Sequence[float], scale: Scale) -> float:
    if scale == "none":
        return 1.0
    if scale == "mean":
        if (mean := fmean(group)) < 0:
            raise DataError(f'rewards have the mean {mean}, and scale="mean" needs rewards that are not negative.')
        return mean or 1.0
    compared = batch if scale == "batch" else group
    return stdev(compared) + EPSILON if pstdev(compared) else 1.0
