"""Metrics that read probabilities: a choice among candidates, and how well each token of a text is foreseen."""

import math
from dataclasses import dataclass

from everlearn.errors import DataError
from everlearn.examples import Example
from everlearn.types import Question, Reply


def _measured(value: float | None, example: Example, metric: str, part: str) -> float:
    if value is None:
        raise DataError(
            f"{example.source or 'an example'}: {metric} reads the reply's {part}, which was not measured; ask the "
            "model to predict, not to generate or to choose."
        )
    return value


@dataclass(frozen=True)
class Choice:
    """1 if the candidate that the model finds likeliest is the target, spaces around left out.

    How candidates' likelihoods are compared (summed, or by length) is the evaluation's to say.
    """

    @property
    def question(self) -> Question:
        """The model chooses."""
        return "choose"

    def score(self, example: Example, reply: Reply) -> float:
        """0 or 1."""
        return float(reply.text.strip() == example.response.strip())


@dataclass(frozen=True)
class TokenAccuracy:
    """Fraction of the target's tokens that the model finds likeliest, given the true tokens before each."""

    @property
    def question(self) -> Question:
        """The model predicts."""
        return "predict"

    def score(self, example: Example, reply: Reply) -> float:
        """In [0, 1].

        Raises:
            DataError: if the reply does not say.
        """
        return _measured(reply.right, example, "TokenAccuracy", "fraction of right tokens")


@dataclass(frozen=True)
class TokenLikelihood:
    """exp(-loss): the geometric mean of the probabilities that the target's tokens were given.

    The inverse of the perplexity per token, so that higher is better and it lies between 0 and 1. A mean over
    examples gives each the same weight, however long; a corpus perplexity does not.
    """

    @property
    def question(self) -> Question:
        """The model predicts."""
        return "predict"

    def score(self, example: Example, reply: Reply) -> float:
        """In [0, 1].

        Raises:
            DataError: if the reply has no loss.
        """
        return math.exp(-_measured(reply.loss, example, "TokenLikelihood", "loss"))
