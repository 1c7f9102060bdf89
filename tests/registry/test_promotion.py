"""Promotion: a win rate above one half, and suites that are held."""

import pytest

from everlearn.errors import ConfigError
from everlearn.registry.promotion import Promotion
from everlearn.rewards.win_rate import WinRate

WON = WinRate((1.0, 1.0, 0.5, 0.0))  # 0.625


def test_a_version_has_to_win_by_more_than_the_margin() -> None:
    assert Promotion().judge(WON, {}, {}).accept
    assert Promotion(margin=0.1).judge(WON, {}, {}).accept
    even = Promotion().judge(WinRate((1.0, 0.0)), {}, {})
    assert not even.accept
    assert "more than 0.500 is asked" in even.reason
    assert not Promotion(margin=0.125).judge(WON, {}, {}).accept


def test_no_suite_may_fall_far_from_its_best() -> None:
    gate = Promotion(drop=0.1)
    assert gate.judge(WON, {"old": 0.8}, {"old": 0.7, "new": 0.0}).accept
    fallen = gate.judge(WON, {"old": 0.8, "other": 0.5}, {"old": 0.6, "other": 0.9})
    assert not fallen.accept
    assert fallen.reason == "Taken back: old falls from 0.800 to 0.600, and 0.100 is allowed."
    both = gate.judge(WinRate((0.0,)), {"old": 0.8}, {"old": 0.6})
    assert "it wins 0.000" in both.reason
    assert "old falls" in both.reason


def test_numbers_without_a_meaning_are_refused() -> None:
    for wrong in ({"margin": 0.5}, {"margin": -0.1}, {"drop": 2.0}):
        with pytest.raises(ConfigError, match="margin lies in"):
            Promotion(**wrong)
