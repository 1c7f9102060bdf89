"""Majorities by what answers mean."""

import math

import pytest

from everlearn.examples import Example, Message
from everlearn.metrics.text import ExactMatch
from everlearn.rewards.extraction import Marked, Number
from everlearn.rewards.numbers import SameNumber
from everlearn.rewards.reward import Answer
from everlearn.rewards.votes import MajorityVote, SameText

ASKED = Example(messages=(Message("user", "?"),))
NUMBERS = MajorityVote(extract=Number(), equality=SameNumber())


def group(*texts):
    return [Answer(text) for text in texts]


def test_one_half_and_a_half_vote_together():
    replies = group("1/2", "0.5", "it is .50", "2", "2")
    assert NUMBERS.score(ASKED, replies) == [1, 1, 1, 0, 0]
    vote = NUMBERS.vote(ASKED, replies)
    assert vote.clusters == (0, 0, 0, 1, 1)
    assert (vote.label, vote.majority_ratio, vote.distinct, vote.tied) == (".50", 0.6, 2, False)
    assert vote.entropy == pytest.approx(-0.6 * math.log(0.6) - 0.4 * math.log(0.4))


def test_who_gives_no_answer_does_not_vote():
    vote = MajorityVote(extract=Marked())
    replies = group("none", "", "####", "#### a", "#### b", "#### b")
    assert vote.score(ASKED, replies) == [0, 0, 0, 0, 1, 1]
    assert vote.vote(ASKED, replies).majority_ratio == 2 / 3
    dropped = MajorityVote(extract=Marked(), unanswered=None)
    assert dropped.score(ASKED, replies) == [None, None, None, 0, 1, 1]


def test_a_group_without_any_answer_is_unscorable():
    replies = group("", "none", "?")
    assert NUMBERS.score(ASKED, replies) == [None, None, None]
    vote = NUMBERS.vote(ASKED, replies)
    assert (vote.label, vote.clusters, vote.distinct, vote.tied) == (None, (None,) * 3, 0, False)


def test_ties_are_broken_by_seed_and_prompt_and_flagged():
    replies = group("1", "2")
    votes = [MajorityVote(seed=seed).vote(ASKED, replies) for seed in range(40)]
    assert all(vote.tied for vote in votes)
    assert {vote.label for vote in votes} == {"1", "2"}
    prompts = [Example(messages=(Message("user", str(i)),)) for i in range(40)]
    assert {MajorityVote().vote(prompt, replies).label for prompt in prompts} == {"1", "2"}
    assert not MajorityVote().vote(ASKED, group("1", "2", "2")).tied


def test_the_right_answer_is_not_looked_at():
    replies = group("1", "2")
    for label in ("1", "2", "3"):
        labelled = Example(messages=(*ASKED.messages, Message("assistant", label)))
        assert MajorityVote().vote(labelled, replies) == MajorityVote().vote(ASKED, replies)


def test_answers_that_are_equal_through_others_are_one():
    near = MajorityVote(extract=Number(), equality=SameNumber(tolerance=1))
    for replies in (group("1", "2", "3", "9"), group("3", "1", "9", "2")):
        assert near.vote(ASKED, replies).distinct == 2
        assert near.vote(ASKED, replies).majority_ratio == 0.75


def test_the_order_of_the_group_changes_no_ones_score():
    replies = group("1", "2", "1.0", "2.0", "3", "")
    forward = NUMBERS.score(ASKED, replies)
    assert NUMBERS.score(ASKED, replies[::-1]) == forward[::-1]


def test_agreement_has_no_entropy():
    vote = MajorityVote().vote(ASKED, group("a", "A"))
    assert (vote.entropy, vote.majority_ratio, vote.distinct) == (0.0, 1.0, 1)


def test_texts_are_the_same_after_the_clean_up():
    assert SameText().same("New  York", " new york")
    assert not SameText(ExactMatch()).same("A", "a")


def test_a_group_is_noted_without_a_right_answer_and_its_label_with_one():
    # votes: .5, .5, .5 for one half, 2 for two, one without an answer: shares 3/4 and 1/4
    replies = group("1/2", "0.5", "it is .50", "2", "none")
    notes = NUMBERS.notes(ASKED, replies)
    assert notes == {
        "majority ratio": 0.75,
        "answer entropy": pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25)),
        "distinct answers": 2,
        "tied": 0,
        "unanswered": 0.2,
    }
    for right, known in (("so it is 0.50", 1), ("2", 0)):
        example = Example(messages=(*ASKED.messages, Message("assistant", right)))
        assert NUMBERS.notes(example, replies) == {**notes, "right label": known}
    assert NUMBERS.notes(ASKED, group("none")) == {
        "majority ratio": 0,
        "answer entropy": 0,
        "distinct answers": 0,
        "tied": 0,
        "unanswered": 1,
    }
