"""What every reward obeys, ours or a stranger's: `check_reward(reward, example, replies)` names the law broken."""

import math
from collections.abc import Sequence
from dataclasses import replace

from everlearn.arguments import is_frozen
from everlearn.config import dump, parse, restore, show
from everlearn.errors import MethodError
from everlearn.examples import Example
from everlearn.rewards.reward import Answer, Reward


class RewardLawBroken(MethodError):
    """A reward breaks a law that all rewards obey; the message says which, and what was seen."""


def check_reward(reward: Reward, example: Example, replies: Sequence[Answer], ordered: bool = False) -> None:
    """Try the laws on a reward: frozen, its own configuration, one finite score each, repeatable, blind to order.

    Args:
        reward: what is tried.
        example: with what the reward needs.
        replies: two or more, of different worth.
        ordered: whether the reward declares that a score depends on the order of the group.

    Raises:
        RewardLawBroken: at the first law that does not hold.
    """
    if not is_frozen(type(reward)) or replace(reward) != reward:  # type: ignore[type-var]
        raise RewardLawBroken(f"{reward} is not a frozen dataclass that equals its copy; decorate it so.")
    if restore(dump(reward)) != reward or parse(show(reward)) != reward:
        raise RewardLawBroken(f"{reward} does not come back from its expression {show(reward)!r}; use plain fields.")
    scores = reward.score(example, replies)
    if len(scores) != len(replies) or not all(s is None or math.isfinite(s) for s in scores):
        raise RewardLawBroken(f"{reward} gave {scores} for {len(replies)} replies; give a finite number or None each.")
    if reward.score(example, replies) != scores:
        raise RewardLawBroken(f"{reward} scores the same replies otherwise the second time; seed its chance.")
    if not ordered and reward.score(example, replies[::-1]) != scores[::-1]:
        raise RewardLawBroken(f"{reward} scores a group otherwise in another order; compare every pair alike.")
    if reward.score(example, ()):
        raise RewardLawBroken(f"{reward} gives scores for no replies; give an empty list.")
