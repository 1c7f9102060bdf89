"""What is measured while an experience is learned, and what it stops."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import pytest

from everlearn.errors import ConfigError
from everlearn.evaluate import exams, sit
from everlearn.examples import Example
from everlearn.learner import Learner, learn
from everlearn.method import Context, chain
from everlearn.metrics.likelihood import TokenAccuracy
from everlearn.metrics.text import ExactMatch
from everlearn.models.optim import AdamW, Recipe
from everlearn.models.parallel import Processes
from everlearn.models.sampling import Sampling
from everlearn.models.schedules import Schedule
from everlearn.objectives.next_token import NextToken
from everlearn.objectives.policy_gradient import PolicyGradient
from everlearn.objectives.rollouts import SingleTurn
from everlearn.rewards.reward import Answer
from everlearn.testing.toys import question, toy_model
from everlearn.types import Experience, Objective, Reply, State, Stream
from everlearn.validation import ATTEMPTS, measured
from everlearn.watch import Watch
from everlearn.weights import equal

ROWS = [question(f"say {w}", w) for w in "abcd"]
RECIPE = Recipe(AdamW(0.02), Schedule("constant", warmup=0.0), batch_size=4, length=64, tokens=128)


@dataclass(frozen=True)
class Says:
    """1 if an answer begins with a letter."""

    letter: str

    def score(self, example: Example, replies: Sequence[Answer]) -> list[float | None]:
        return [float(r.text[:1] == self.letter) for r in replies]


@dataclass(frozen=True)
class First:
    """A metric: whether the reply begins as it should."""

    question = "generate"

    def score(self, example: Example, reply: Reply) -> float:
        return float(reply.text[:1] == example.response)


def taught(objective: Objective, metric: Any = None) -> Experience:
    return Experience("say", ROWS, ROWS, objective, metric or First(), validation=ROWS)


def policy(letter: str) -> PolicyGradient:
    return PolicyGradient(Says(letter), group=8, rollout=SingleTurn(Sampling(limit=2)))


def lesson(experience: Experience, recipe: Recipe, watch: Watch | None = None) -> tuple[State, dict[str, Any]]:
    learner, model = Learner("toy", chain(), recipe), toy_model()
    before = {n: p.detach().clone() for n, p in model.parameters().items()}
    return learn(learner, model, learner.start(model), experience, watch), before


def test_a_metric_is_that_of_the_answers_and_attempts_that_of_what_is_drawn() -> None:
    model, experience = toy_model(), taught(policy("a"))
    ctx = Context(model, experience)
    (asked,) = exams(Stream((replace(experience, test=experience.validation),)))
    for chosen in (0, 1):  # as it is, and once it answers the first row to the letter
        scores = [outcome.score for outcome in sit(model, [asked])[0]]
        assert measured("metric", ctx, Processes(), lambda term: term()) == fmean(scores)
        assert max(scores) == chosen
        learner = Learner("toy", chain(), replace(RECIPE, epochs=40))
        learn(learner, model, learner.start(model), taught(NextToken(), ExactMatch()))
    drawn = measured("attempts", ctx, Processes(), lambda term: term())
    assert drawn == measured("attempts", ctx, Processes(), lambda term: term()), "the same numbers are drawn each time"
    assert drawn * len(ROWS) * ATTEMPTS == pytest.approx(round(drawn * len(ROWS) * ATTEMPTS))


def test_what_cannot_be_measured_so_is_refused() -> None:
    model = toy_model()
    for objective, metric, kind, says in (
        (NextToken(), ExactMatch(), "attempts", "judges what an objective draws"),
        (policy("a"), TokenAccuracy(), "attempts", "judges what an objective draws"),
        (policy("a"), ExactMatch(), "loss", "is about 0 whatever"),
    ):
        with pytest.raises(ConfigError, match=says):
            measured(kind, Context(model, taught(objective, metric)), Processes(), lambda term: term())  # type: ignore[arg-type]


def test_a_measure_or_a_margin_that_there_is_not_is_refused() -> None:
    for wrong in ({"validate": "vibes"}, {"margin": -0.1}):
        with pytest.raises(ConfigError, match="validate="):
            Recipe(**wrong)  # type: ignore[arg-type]


def test_a_score_that_falls_by_more_than_the_margin_stops_and_takes_the_best_weights_back() -> None:
    # rows want a, b, c, d, of which it knows about half; rewarded for a alone it will know a quarter
    rows: list[Any] = []
    knows = replace(RECIPE, epochs=45)
    learner, model = Learner("toy", chain(), knows), toy_model()
    start = learn(learner, model, learner.start(model), taught(NextToken()))
    harmful = replace(RECIPE, epochs=40, validate="attempts", margin=0.1)
    asked = replace(learner, recipe=harmful)
    after = learn(asked, model, start, replace(taught(policy("a")), name="harm"), Watch(log=rows.append))
    scores = [r["validation"] for r in rows if "validation" in r]
    assert rows[0]["step"] == 0, "the start is measured"
    assert scores[0] == max(scores) > 0.35
    assert scores[-1] < scores[0] - 0.1
    assert all(score >= scores[0] - 0.1 for score in scores[:-1])
    assert len(scores) < 41
    assert equal(start.weights, after.weights)


def test_among_equals_the_latest_weights_are_kept() -> None:
    after, before = lesson(taught(NextToken(), ExactMatch()), replace(RECIPE, validate="metric", margin=0.5, epochs=2))
    assert not equal(before, after.weights), "all scores were 0"


def test_who_looks_on_may_say_that_it_is_enough() -> None:
    rows: list[Any] = []
    lesson(taught(NextToken()), replace(RECIPE, epochs=9), Watch(log=rows.append, enough=lambda: len(rows) >= 3))
    assert len(rows) == 3
