"""PPO with a critic: advantages by hand, the loss by hand, and a policy that gets better."""

import math
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from everlearn.errors import ConfigError, ModelError
from everlearn.examples import Plan
from everlearn.learner import Learner, learn
from everlearn.method import chain
from everlearn.methods.adapters import LoRA
from everlearn.methods.critic import Critic
from everlearn.models.language_model import LanguageModel
from everlearn.models.optim import AdamW, Recipe
from everlearn.models.sampling import Sampling
from everlearn.models.value_head import attach, values
from everlearn.objectives.actor_critic import ActorCritic, estimated
from everlearn.objectives.groups import attempts_of
from everlearn.objectives.policy_gradient import PolicyGradient
from everlearn.objectives.rollouts import SingleTurn
from everlearn.rewards.text import Exact
from everlearn.testing.toys import question, toy_model, toy_stream
from everlearn.watch import Watch

PROMPTS = [question(f"say {w}", w) for w in "abcdef"]
PLAN = Plan(batch_size=3, tokens=4096, seed=0)


@dataclass(frozen=True)
class Short:
    """The shorter the better: an answer that does not end at once loses a quarter for each token."""

    def score(self, example: Any, replies: Any) -> list[float | None]:
        return [1 - r.tokens / 4 for r in replies]


@dataclass(frozen=True)
class Vowels:
    """The share of vowels."""

    def score(self, example: Any, replies: Any) -> list[float | None]:
        return [sum(letter in "aeiou" for letter in r.text) / max(len(r.text), 1) for r in replies]


def objective(**fields: Any) -> ActorCritic:
    policy = PolicyGradient(Short(), group=2, rollout=SingleTurn(Sampling(limit=4)), iterations=2)
    return ActorCritic(**({"policy": policy} | fields))


def numbers(*found: float) -> Tensor:
    return torch.tensor(found, dtype=torch.float64)


def test_advantages_of_tokens_by_hand() -> None:
    # Two attempts, of 2 tokens (reward 1) and 1 token (reward -1); gamma 1, lambda 0.5.
    # First: delta(1) = 1 - 0.5 = 0.5, A(1) = 0.5; delta(0) = 0.5 - 0.2 = 0.3, A(0) = 0.3 + 0.5 * 0.5 = 0.55.
    found = estimated(numbers(1, 1, -1), numbers(0.2, 0.5, 0.4), torch.tensor([0, 0, 1]), 1.0, 0.5)
    assert found.tolist() == pytest.approx([0.55, 0.5, -1.4])


def test_by_default_a_reward_at_the_end_has_its_whole_weight_at_the_first_token() -> None:
    long = 300
    found = estimated(torch.ones(long), torch.zeros(long), torch.zeros(long, dtype=torch.long), 1.0, 1.0)
    assert found[0].item() == 1.0
    worn = estimated(torch.ones(long), torch.zeros(long), torch.zeros(long, dtype=torch.long), 0.99, 1.0)
    assert worn[0].item() == pytest.approx(0.99**299)


def test_the_loss_by_hand() -> None:
    model = toy_model()
    head = attach(model, 4)
    asked = objective(whitened=False, clip=0.1, strength=0.3)
    batch = next(iter(asked.steps(model, PROMPTS, PLAN))).batches[0]
    assert batch.at_targets("return").tolist() == pytest.approx(batch.at_targets("advantage").tolist())  # V = 0
    with torch.no_grad():
        head.outer_bias.fill_(0.5)  # now the critic says 0.5 everywhere: 0.1 after the clip
    wanted = batch.at_targets("return")
    critic = torch.maximum((0.5 - wanted) ** 2, (0.1 - wanted) ** 2).mean() / 2
    expected = asked.policy.loss(model, batch) + 0.3 * critic
    assert asked.loss(model, batch).item() == pytest.approx(expected.item(), abs=1e-9)


def test_an_attempt_alone_is_learned_from_and_whitened_with_the_others() -> None:
    model = toy_model()
    attach(model, 4)
    alone = objective(policy=replace(objective().policy, group=1))
    step = next(iter(alone.steps(model, PROMPTS, PLAN)))
    advantages = torch.cat([b.at_targets("advantage") for b in step.batches])
    assert sum(int(attempts_of(b).max()) + 1 for b in step.batches) == 3
    assert advantages.mean().item() == pytest.approx(0, abs=1e-9)
    assert advantages.std().item() == pytest.approx(1, abs=1e-3)


def test_an_advantage_of_exactly_nothing_counts_among_the_others() -> None:
    rewards, said = numbers(0.0, 1.0), numbers(0.0, 0.0)
    assert estimated(rewards, said, torch.tensor([0, 1]), 1.0, 0.95).tolist() == [0.0, 1.0]
    model = toy_model()
    attach(model, 4)

    @dataclass(frozen=True)
    class Zero:
        def score(self, example: Any, replies: Any) -> list[float | None]:
            return [0.0, None] * (len(replies) // 2)

    step = next(iter(objective(policy=replace(objective().policy, reward=Zero())).steps(model, PROMPTS, PLAN)))
    assert sum(int(attempts_of(b).max()) + 1 for b in step.batches) == 3  # scored 0 is learned from, None is not


@dataclass(frozen=True)
class Opening(Learner):
    """A learner of the toy."""

    def open(self) -> LanguageModel:
        return toy_model()


def test_policy_and_critic_get_better() -> None:
    recipe = Recipe(AdamW(learning_rate=1e-2), batch_size=4, length=64, epochs=8)
    learner, model, rows = Opening("toy", chain(Critic(hidden=8)), recipe), toy_model(), list[Any]()
    policy = PolicyGradient(Vowels(), group=8, rollout=SingleTurn(Sampling(limit=4)))
    experience = replace(toy_stream(12).experiences[0], objective=objective(policy=policy))
    state = learn(learner, model, learner.start(model), experience, Watch(log=rows.append))
    rewards = [row["notes"]["reward"] for row in rows]
    assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3 + 0.2
    step = next(iter(objective(policy=policy, whitened=False).steps(model, PROMPTS, PLAN)))
    said = torch.cat([values(model, b) for b in step.batches])
    wanted = torch.cat([b.at_targets("return") for b in step.batches])
    assert (said - wanted).square().mean() < wanted.square().mean()
    assert any("critic" in name for name in state.weights)


def test_without_a_critic_it_says_what_to_do() -> None:
    with pytest.raises(ModelError, match=r"put Critic\(\) into the method"):
        list(objective().steps(toy_model(), PROMPTS, PLAN))


def test_a_critic_that_adapters_freeze_is_no_critic() -> None:
    learner = Opening("toy", chain(Critic(hidden=4), LoRA(rank=2)), Recipe(batch_size=4, length=64))
    model, experience = toy_model(), replace(toy_stream(8).experiences[0], objective=objective())
    with pytest.raises(ModelError, match=r"put Critic\(\) last"):
        learn(learner, model, learner.start(model), experience)


@pytest.mark.parametrize("fields", [{"average": "sums"}, {"average": "constant"}, {"retries": 1}])
def test_a_policy_that_the_critic_does_not_fit_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="a policy with a critic"):
        objective(policy=replace(objective().policy, **fields))


@pytest.mark.parametrize("fields", [{"discount": 1.1}, {"decay": -0.1}, {"strength": -1.0}, {"clip": 0.0}])
def test_numbers_without_a_meaning_are_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"lie in \[0, 1\]"):
        objective(**fields)


def test_references_are_the_policys() -> None:
    assert ActorCritic(PolicyGradient(Exact(), kl=0.1, reference="base")).references == {"base": 1.0}
    assert math.isclose(ActorCritic(PolicyGradient(Exact())).discount, 1.0)
