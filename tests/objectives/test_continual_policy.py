"""CPPO: weights by hand, the retention term by hand, and what public ports of it get wrong."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from everlearn.errors import ConfigError
from everlearn.examples import Example, Plan
from everlearn.learner import Learner, learn
from everlearn.metrics.text import ExactMatch
from everlearn.models.language_model import LanguageModel
from everlearn.models.optim import AdamW, Recipe
from everlearn.models.sampling import Sampling
from everlearn.objectives.continual_policy import CPPO
from everlearn.objectives.groups import Attempt, attempts_of
from everlearn.objectives.policy_gradient import PolicyGradient
from everlearn.objectives.rollouts import SingleTurn
from everlearn.objectives.surrogates import Reinforce
from everlearn.rewards.reward import Answer
from everlearn.testing.toys import question, toy_folder, toy_model
from everlearn.traces import Trace
from everlearn.types import Experience
from everlearn.watch import Watch

OTHER = {name: p.detach() for name, p in toy_model(seed=1).parameters().items()}
PLAN = Plan(batch_size=2, tokens=256, length=64, seed=3, references={"start": OTHER})
PROMPTS = [question(f"say {w}", w) for w in "abcd"]


@dataclass(frozen=True)
class Vowels:
    """The share of vowels."""

    def score(self, example: Example, replies: Sequence[Answer]) -> list[float | None]:
        return [sum(c in "aeiou" for c in r.text) / max(len(r.text), 1) for r in replies]


@dataclass(frozen=True)
class Same:
    """The same for all: nobody has an advantage."""

    def score(self, example: Example, replies: Sequence[Answer]) -> list[float | None]:
        return [0.5] * len(replies)


@dataclass(frozen=True)
class Unsure:
    """The share of vowels; nobody can tell where there is none."""

    def score(self, example: Example, replies: Sequence[Answer]) -> list[float | None]:
        return [score or None for score in Vowels().score(example, replies)]


def cppo(**fields: Any) -> CPPO:
    own = {"reward": Vowels(), "group": 4, "rollout": SingleTurn(Sampling(limit=6)), "surrogate": Reinforce()}
    policy = PolicyGradient(**(own | {k: v for k, v in fields.items() if k in PolicyGradient.__dataclass_fields__}))
    return CPPO(policy, **{k: v for k, v in fields.items() if k not in PolicyGradient.__dataclass_fields__})


def tried(reward: float, *logprobs: float, task: str = "") -> Attempt:
    tokens = tuple(range(7, 7 + len(logprobs)))
    trace = Trace((5, 9, 7), tokens, (True,) * len(tokens), logprobs, reward=reward, task=task)
    return Attempt(PROMPTS[0], trace, reward - 0.5)


# Rewards have mean 1/2 and deviation 0.45, mean log-probabilities of -1 and -3 have mean -2 and deviation 0.89; half a
# deviation away lie all but the fifth, whose reward and probability are the means.
FIVE = [tried(1, -1, -1), tried(0, -0.5, -1.5), tried(1, -2, -4), tried(0, -3, -3), tried(0.5, -2, -2)]


def test_the_weights_of_the_five_kinds() -> None:
    assert cppo().weights(FIVE) == [(2.0, 2.0), (2.0, 0.2), (2.0, 0.2), (0.2, 0.2), (1.0, 1.0)]
    assert cppo(much=3.0, little=0.5).weights(FIVE)[:2] == [(3.0, 3.0), (3.0, 0.5)]
    assert cppo(width=2.0).weights(FIVE) == [(1.0, 1.0)] * 5
    assert cppo().weights([]) == []


def test_weights_are_of_attempts_and_of_the_step_not_of_tokens_of_a_row() -> None:
    permuted = [replace(a, trace=replace(a.trace, logprobs=a.trace.logprobs[::-1])) for a in FIVE]
    assert cppo().weights(permuted) == cppo().weights(FIVE)
    assert cppo().weights(FIVE[:1]) == [(1.0, 1.0)]  # alone it is neither high nor low
    assert cppo().weights([tried(1, -1), tried(1, -1)]) == [(1.0, 1.0)] * 2


def test_weights_come_from_the_attempts_they_act_on() -> None:
    now = [*FIVE[:3], tried(0, -0.5, -0.5), FIVE[4]]  # the fourth has become probable
    assert cppo().weights(now)[3] == (2.0, 0.2)


def test_the_loss_by_hand() -> None:
    model, objective = toy_model(), cppo(retention=0.3)
    (batch,) = objective.batches(model, FIVE, objective.weights(FIVE), PLAN)
    now, then = model.token_logprobs(batch), toy_model(seed=1).token_logprobs(batch)
    number = attempts_of(batch)
    learned = torch.tensor([2 * 0.5, 2 * -0.5, 2 * 0.5, 0.2 * -0.5, 0.0])[number]
    retained = torch.tensor([2, 0.2, 0.2, 0.2, 1.0])[number]
    expected = (-learned * now + 0.3 * retained * (now - then).square()).mean()
    assert objective.loss(model, batch).item() == pytest.approx(expected.item(), rel=1e-6)


def gradient(objective: CPPO, model: LanguageModel, plan: Plan) -> torch.Tensor:
    step = next(iter(objective.steps(model, PROMPTS, plan)))
    total = sum((objective.loss(model, b) * (b.weight / step.weight) for b in step.batches), start=torch.zeros(()))
    found = torch.autograd.grad(total, list(model.trainable().values()))
    return torch.cat([g.flatten() for g in found])


def test_retention_pulls_towards_the_last_task_once_the_policy_has_left_it_without_any_advantage() -> None:
    here = replace(PLAN, references={"start": {n: p.detach() for n, p in toy_model().parameters().items()}})
    assert gradient(cppo(reward=Same()), toy_model(), here).abs().max() < 1e-12
    assert gradient(cppo(reward=Same()), toy_model(), PLAN).abs().max() > 1e-6
    assert gradient(cppo(reward=Same(), retention=0.0), toy_model(), PLAN).abs().max() == 0


def test_retention_looks_at_the_policy_of_the_task_before(tmp_path: Path) -> None:
    recipe = Recipe(AdamW(learning_rate=1e-2), batch_size=4, tokens=256, length=64)
    learner = Learner(str(toy_folder(tmp_path)), recipe=recipe, dtype="float64")
    model, base = learner.open(), learner.open()
    state = learner.start(model)
    for name, reward in (("one", Vowels()), ("two", Same())):
        rows: list[dict[str, Any]] = []
        prompts = [question(f"{name} {w}", w) for w in "abcdefgh"]
        lesson = Experience(name, prompts, prompts[:1], cppo(reward=reward, retention=1.0), ExactMatch())
        state = learn(learner, model, state, lesson, Watch(log=rows.append))
    # The second experience rewards nothing, so that its loss is the distance from where the first one ended: none.
    assert rows[0]["loss"] == pytest.approx(0.0, abs=1e-12)
    objective, plan = cppo(reward=Same(), retention=1.0), replace(PLAN, references={"start": base.parameters()})
    step = next(iter(objective.steps(model, PROMPTS, plan)))
    assert objective.loss(model, step.batches[0]).item() > 1e-3  # from the base model it is far


def test_without_a_reference_it_asks_for_none_and_weights_are_noted() -> None:
    assert (cppo().references, cppo(retention=0.0).references) == ({"start": 1.0}, {})
    step = next(iter(cppo().steps(toy_model(), PROMPTS, PLAN)))
    assert 0.2 <= step.notes["retained_weight"] <= step.notes["learned_weight"] <= 2.0


def test_attempts_that_teach_nothing_are_noted_and_kept_but_not_learned_from() -> None:
    objective = cppo(reward=Unsure(), truncated="mask")
    step = next(iter(objective.steps(toy_model(), PROMPTS, PLAN)))
    unsure = sum(trace["reward"] is None for trace in step.traces)
    cut = sum(not trace["finished"] for trace in step.traces)
    assert 0 < unsure < len(step.traces) == 8  # two prompts, four attempts at each
    assert 0 < cut < 8
    assert step.notes["attempts"] == 8
    assert step.notes["unscorable"] == unsure / 8
    assert step.notes["truncated"] == cut / 8
    taken = sum(t["reward"] is not None and t["finished"] and t["length"] > 0 for t in step.traces)
    assert sum(int(attempts_of(batch).max()) + 1 for batch in step.batches) == taken


def test_what_makes_no_sense_is_refused() -> None:
    for fields in ({"retention": -1.0}, {"much": 0.5}, {"little": 2.0}):
        with pytest.raises(ConfigError, match="not negative"):
            cppo(**fields)
    for fields in ({"kl": 0.1}, {"retries": 2}):
        with pytest.raises(ConfigError, match="leave both 0"):
            cppo(**fields)
