"""Scores of a group, put together; None is never 0, and an empty completion is not a wrong one."""

import pytest

from everlearn.errors import ConfigError
from everlearn.examples import Example, Message
from everlearn.metrics.likelihood import TokenLikelihood
from everlearn.metrics.overlap import RougeL
from everlearn.rewards.numbers import NumericEqual
from everlearn.rewards.reward import (
    Answer,
    IfFinished,
    Part,
    Scored,
    Weighted,
    notes_of,
    question,
    right_answer,
)
from everlearn.rewards.text import Exact, Format, Length
from everlearn.rewards.votes import MajorityVote

ASKED = Example(messages=(Message("user", "3 + 4?"), Message("assistant", "7")))
UNKNOWN = Example(messages=(Message("user", "3 + 4?"),))


def replies(*texts):
    return [Answer(text) for text in texts]


def test_a_metric_is_a_reward():
    assert Scored(RougeL()).score(ASKED, replies("7", "8")) == [1.0, 0.0]


def test_a_metric_of_likelihood_is_no_reward():
    with pytest.raises(ConfigError, match="judges by likelihood"):
        Scored(TokenLikelihood())


@pytest.mark.parametrize("wrap", [Part, IfFinished])
def test_what_wraps_a_reward_refuses_a_metric(wrap):
    with pytest.raises(ConfigError, match=r"a metric is no reward; .* as Scored\(RougeL\("):
        wrap(RougeL())


@pytest.mark.parametrize("reward", [Scored(RougeL()), Exact(), NumericEqual()])
def test_where_no_answer_is_known_nothing_can_be_scored(reward):
    blank = Example(messages=(Message("user", "3 + 4?"), Message("assistant", " ")))
    for example in (UNKNOWN, blank, Example(text="A document.")):
        assert reward.score(example, replies("7", "8")) == [None, None]


def test_the_question_and_its_answer():
    assert question(ASKED) == question(UNKNOWN) == UNKNOWN.messages
    assert (right_answer(ASKED), right_answer(UNKNOWN)) == ("7", None)


def test_what_was_cut_off_is_treated_as_declared():
    group = [Answer("7", finished=True), Answer("7", finished=False)]
    assert Exact().score(ASKED, group) == [1, 1]
    assert IfFinished(Exact()).score(ASKED, group) == [1, None]
    assert IfFinished(Exact(), otherwise=-0.5).score(ASKED, group) == [1, -0.5]


def test_a_sum_is_over_the_parts_that_scored():
    both = Weighted((Part(Exact(), 2.0), Part(Format(r"\d"), 0.5)))
    assert both.score(ASKED, replies("7", "8", "x")) == [2.5, 0.5, 0.0]
    assert both.score(UNKNOWN, replies("7", "x")) == [0.5, 0.0]


def test_a_sum_over_no_score_is_none_and_so_is_one_that_lacks_a_required_part():
    assert Weighted((Part(Exact()), Part(NumericEqual()))).score(UNKNOWN, replies("7")) == [None]
    required = Weighted((Part(Exact(), required=True), Part(Format(r"\d"), 0.5)))
    assert required.score(UNKNOWN, replies("7")) == [None]
    assert required.score(ASKED, replies("7")) == [1.5]


def test_a_weight_may_be_a_penalty():
    both = Weighted((Part(Exact()), Part(Length(10, 5))))
    assert both.score(ASKED, [Answer("7", tokens=7)]) == [1 - 2 / 5]


def test_a_sum_of_nothing_is_refused():
    with pytest.raises(ConfigError, match="no parts"):
        Weighted(())


def test_notes_come_through_what_wraps_a_reward():
    group, vote = [*replies("1", "1"), Answer("2", finished=False)], MajorityVote()
    own = vote.notes(UNKNOWN, group)
    assert own["majority ratio"] == pytest.approx(2 / 3)
    assert notes_of(IfFinished(vote), UNKNOWN, group) == own
    assert notes_of(Weighted((Part(Length(9)), Part(IfFinished(vote)))), UNKNOWN, group) == own
    assert notes_of(Length(9), UNKNOWN, group) == {}
