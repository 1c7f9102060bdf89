"""Our rewards obey the laws; and one that breaks each is told so."""

import random
from dataclasses import dataclass
from importlib.util import find_spec

import pytest

from everlearn.config import parse
from everlearn.errors import ConfigError
from everlearn.examples import Example, Message
from everlearn.metrics.overlap import RougeL
from everlearn.rewards.extraction import Boxed, Number, Tagged
from everlearn.rewards.judge import Judge, PairJudge
from everlearn.rewards.mathematics import MathEqual, SameMath
from everlearn.rewards.numbers import NumericEqual, SameNumber
from everlearn.rewards.reward import Answer, IfFinished, Part, Scored, Weighted
from everlearn.rewards.tasks import TaskScore
from everlearn.rewards.text import Answered, Exact, Format, Length, TargetLength
from everlearn.rewards.unit_tests import UnitTests
from everlearn.rewards.votes import MajorityVote
from everlearn.testing.reward_laws import RewardLawBroken, check_reward

EXAMPLE = Example(
    messages=(Message("user", "Half of one?"), Message("assistant", "1/2")),
    metadata={"tests": "assert half == 0.5", "task": "chain_sum", "entry": {"answer": "1/2", "metadata": {}}},
)
REPLIES = tuple(
    Answer(text, finished, len(text))
    for text, finished in [("1/2", True), ("0.5", False), ("2", True), ("", True), ("half = 0.5", True), ("no", False)]
)


def chat(messages):
    """A judge for configs: prefers and marks by the last sign."""
    return f"Rating: {len(messages[0].content) % 10}\nVerdict: A"


REWARDS = [
    Exact(),
    Exact(extract=Tagged("answer")),
    Answered(extract=Number()),
    NumericEqual("first", tolerance=0.1),
    TaskScore(),
    UnitTests(),
    Format(r"\d.*", ("think",)),
    Length(8, 4),
    TargetLength(3),
    Scored(RougeL()),
    IfFinished(Exact(), -1.0),
    Judge(chat),
    PairJudge(chat),
    MajorityVote(extract=Number(), equality=SameNumber(), seed=3),
    Weighted((Part(Exact(), required=True), Part(IfFinished(Length(8)), 0.5))),
    MathEqual(extract=Boxed()),
    MajorityVote(equality=SameMath()),
]


@pytest.mark.parametrize("reward", REWARDS, ids=lambda reward: type(reward).__name__)
def test_a_reward_obeys_the_laws(reward):
    if isinstance(reward, TaskScore) and find_spec("reasoning_gym") is None:
        pytest.skip("needs reasoning-gym: pip install 'everlearn[rl]'.")
    check_reward(reward, EXAMPLE, REPLIES)


def test_a_reward_is_an_expression():
    text = "Weighted((Part(MajorityVote(extract=Number(), equality=SameNumber())), Part(Length(256), 0.5)))"
    votes = MajorityVote(extract=Number(), equality=SameNumber())
    assert parse(text) == Weighted((Part(votes), Part(Length(256), 0.5)))
    assert parse(f"Judge({__name__}:chat, scale=(0, 9))") == Judge(chat, (0, 9))


@pytest.mark.parametrize("text", ["Exact(extract=7)", "MajorityVote(equality=Number())", "IfFinished(7)"])
def test_what_does_not_fit_is_refused_with_its_place(text):
    with pytest.raises(ConfigError, match=r"does not fit; give everlearn\.rewards"):
        parse(text)


@dataclass
class Loose:
    def score(self, example, replies):
        return [0.0] * len(replies)


@dataclass(frozen=True)
class Short:
    def score(self, example, replies):
        return [0.0]


@dataclass(frozen=True)
class Endless:
    def score(self, example, replies):
        return [float("nan")] * len(replies)


@dataclass(frozen=True)
class Moody:
    def score(self, example, replies):
        return [random.random() for _ in replies]


@dataclass(frozen=True)
class Placed:
    def score(self, example, replies):
        return [float(i) for i, _ in enumerate(replies)]


@dataclass(frozen=True)
class Generous:
    def score(self, example, replies):
        return [1.0] * max(1, len(replies))


@pytest.mark.parametrize(
    ("reward", "says"),
    [
        (Loose(), "not a frozen dataclass"),
        (Short(), "a finite number or None each"),
        (Endless(), "a finite number or None each"),
        (Moody(), "otherwise the second time"),
        (Placed(), "in another order"),
        (Generous(), "scores for no replies"),
    ],
)
def test_a_reward_that_breaks_a_law_is_told_which(reward, says):
    with pytest.raises(RewardLawBroken, match=says):
        check_reward(reward, EXAMPLE, REPLIES)


def test_an_order_that_is_declared_is_allowed():
    check_reward(Placed(), EXAMPLE, REPLIES, ordered=True)
