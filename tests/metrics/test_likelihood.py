"""Metrics that read probabilities, by hand."""

import math

import pytest

from everlearn.errors import DataError
from everlearn.examples import Example, Message
from everlearn.metrics.likelihood import Choice, TokenAccuracy, TokenLikelihood
from everlearn.types import Reply

ANSWER = Example(messages=(Message("user", "question"), Message("assistant", "yes")), choices=("yes", "no"))
TEXT = Example(text="a text", source="corpus.txt:7")


def test_a_choice_is_right_if_it_is_the_target():
    assert Choice().question == "choose"
    assert Choice().score(ANSWER, Reply(text=" yes")) == 1
    assert Choice().score(ANSWER, Reply(text="no")) == 0
    assert Choice().score(ANSWER, Reply(text="Yes")) == 0


def test_token_accuracy_is_the_replys_fraction():
    assert TokenAccuracy().question == "predict"
    assert TokenAccuracy().score(TEXT, Reply(right=0.25)) == 0.25


def test_token_likelihood_is_the_geometric_mean_probability():
    # Two tokens of probability 1/2 and 1/8: the geometric mean is 1/4.
    loss = -(math.log(1 / 2) + math.log(1 / 8)) / 2
    assert TokenLikelihood().question == "predict"
    assert TokenLikelihood().score(TEXT, Reply(loss=loss)) == pytest.approx(1 / 4)
    assert TokenLikelihood().score(TEXT, Reply(loss=0.0)) == 1


@pytest.mark.parametrize("metric", [TokenAccuracy(), TokenLikelihood()])
def test_what_was_not_measured_is_not_guessed(metric):
    with pytest.raises(DataError, match=r"corpus\.txt:7: .* was not measured"):
        metric.score(TEXT, Reply(text="a text"))
