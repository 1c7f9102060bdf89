"""Rewards of text and length, by hand."""

import pytest

from everlearn.errors import ConfigError
from everlearn.examples import Example, Message
from everlearn.metrics.text import ExactMatch
from everlearn.rewards.extraction import Tagged
from everlearn.rewards.reward import Answer
from everlearn.rewards.text import Answered, Exact, Format, Length, TargetLength

PARIS = Example(messages=(Message("user", "The capital of France?"), Message("assistant", "Paris")))


def scores(reward, *texts):
    return reward.score(PARIS, [Answer(text) for text in texts])


def test_exact_is_the_metrics_match():
    assert scores(Exact(), "Paris", " Paris\n", "paris", "It is Paris", "") == [1, 1, 0, 0, 0]
    assert scores(Exact(ExactMatch(ignore_case=True)), "PARIS") == [1]


def test_exact_reads_the_answer_where_it_is_to_stand():
    reward = Exact(extract=Tagged("answer"))
    assert scores(reward, "<think>Lyon?</think><answer>Paris</answer>", "Paris", "<answer></answer>") == [1, 0, 0]


def test_any_answer_will_do_for_the_control_of_a_vote():
    assert scores(Answered(Tagged("answer")), "<answer>Lyon</answer>", "Paris", "<answer></answer>") == [1, 0, 0]
    assert scores(Answered(), "Lyon", " ") == [1, 0]


def test_a_pattern_has_to_match_the_whole():
    reward = Format(r"<think>.*</think>\s*\w+")
    assert scores(reward, " <think>a\nb</think>\nParis ", "<think>a</think> Paris!", "Paris", "") == [1, 0, 0, 0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>a</think><answer>b</answer>", 1),
        ("so <think>a</think>\n<answer>b</answer>.", 1),
        ("<answer>b</answer><think>a</think>", 0),
        ("<think>a<answer>b</think></answer>", 0),
        ("<think>a</think><answer>b", 0),
        ("<think>a</think><answer>b</answer><answer>b</answer>", 0),
        ("", 0),
    ],
)
def test_tags_stand_once_and_in_order(text, expected):
    assert scores(Format(tags=("think", "answer")), text) == [expected]


def test_a_form_that_is_none_is_refused():
    with pytest.raises(ConfigError, match="asks for nothing"):
        Format()
    with pytest.raises(ConfigError, match=r"'\(' is no regular expression"):
        Format("(")


def test_long_completions_are_punished_as_in_dapo():
    # L_max = 100, L_cache = 20: (80 - 85) / 20 = -0.25
    lengths = (0, 80, 85, 90, 100, 101, 500)
    reward = Length(100)
    assert reward.score(PARIS, [Answer("x", tokens=n) for n in lengths]) == [0, 0, -0.25, -0.5, -1, -1, -1]
    assert Length(100, cushion=50).score(PARIS, [Answer("x", tokens=75)]) == [-0.5]
    assert Length(3).score(PARIS, [Answer("x", tokens=n) for n in (2, 3)]) == [0, -1]


def test_a_target_length_is_missed_on_both_sides():
    reward = TargetLength(10)
    assert reward.score(PARIS, [Answer("x", tokens=n) for n in (10, 9, 12, 0, 99)]) == [0, -0.1, -0.2, -1, -1]


def test_lengths_that_are_none_are_refused():
    with pytest.raises(ConfigError, match="limit=10, cushion=11"):
        Length(10, 11)
    with pytest.raises(ConfigError, match="cushion=0"):
        Length(10, 0)
    with pytest.raises(ConfigError, match="target is 0"):
        TargetLength(0)
