"""A task's own verifier scores."""

import pytest

from everlearn.examples import Example, Message
from everlearn.rewards.reward import Answer
from everlearn.rewards.tasks import TaskScore

ENTRY = {"answer": "4", "metadata": {}}


def asked(**metadata):
    return Example(messages=(Message("user", "?"), Message("assistant", "4")), metadata=metadata)


def test_without_a_task_or_an_entry_nothing_can_be_scored():
    group = [Answer("4"), Answer("5")]
    assert TaskScore().score(asked(), group) == [None, None]
    assert TaskScore().score(asked(task="chain_sum"), group) == [None, None]
    assert TaskScore().score(asked(entry=ENTRY), group) == [None, None]


def test_the_verifier_that_the_example_names_is_asked():
    pytest.importorskip("reasoning_gym", reason="needs reasoning-gym: pip install 'everlearn[rl]'.")
    group = [Answer(text) for text in ("4\n", "5", "", "it is 4")]
    assert TaskScore().score(asked(task="chain_sum", entry=ENTRY), group) == [1, 0, 0, 1 / 7]
    assert TaskScore("chain_sum").score(asked(entry=ENTRY), group[:1]) == [1]
