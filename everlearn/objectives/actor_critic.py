"""PPO with a critic: advantages of tokens by what was expected before them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from everlearn.errors import ConfigError
from everlearn.examples import Batch, Example, Plan, Step
from everlearn.models.language_model import LanguageModel
from everlearn.models.value_head import values
from everlearn.objectives.advantages import EPSILON
from everlearn.objectives.groups import Attempt, attempts_of, noted, with_value
from everlearn.objectives.on_policy import Lesson, passed
from everlearn.objectives.policy_gradient import PolicyGradient
from everlearn.types import Model


@dataclass(frozen=True)
class ActorCritic:
    """PPO (arXiv:1707.06347) with generalised advantage estimation (arXiv:1506.02438) over tokens.

    The reward comes with an attempt's last token. With V(t) what the critic expects before token t and V = 0 behind the
    last: delta(t) = r(t) + discount V(t+1) - V(t), A(t) = delta(t) + discount decay A(t+1), and the critic is to say
    A(t) + V(t). To the policy's loss is added `strength` times the critic's, the mean over drawn tokens, as the policy
    takes it, of max((V - R)^2, (clip(V, V_old +- clip) - R)^2) / 2. The method needs `Critic()`, behind adapters.

    The discount is 1 as it stands: 0.99 a token would leave a reward behind 300 tokens 0.05 of its weight.

    Args:
        policy: how tasks are attempted, scored and learned from; its average is "tokens" or "attempts", and it has no
            retries. Its baseline, scale and key are not used, and its attempts need not be compared, so that a group
            of one will do.
        discount: of later rewards, for each token.
        decay: lambda.
        strength: of the critic's loss.
        clip: how far the critic may move in the steps that learn from the same attempts; None anywhere.
        whitened: whether advantages are brought to mean 0 and deviation 1 over the step's drawn tokens.
    """

    policy: PolicyGradient
    discount: float = 1.0
    decay: float = 0.95
    strength: float = 0.5
    clip: float | None = 0.2
    whitened: bool = True

    def __post_init__(self) -> None:
        """Refuse numbers without a meaning."""
        unit = 0 <= self.discount <= 1 and 0 <= self.decay <= 1
        if not unit or self.strength < 0 or (self.clip is not None and self.clip <= 0):
            raise ConfigError(
                f"discount={self.discount}, decay={self.decay}, strength={self.strength}, clip={self.clip}: discount "
                "and decay lie in [0, 1], strength is not negative, and clip is positive or None."
            )
        if self.policy.average not in ("tokens", "attempts") or self.policy.retries:
            raise ConfigError('a policy with a critic has average="tokens" or "attempts", and retries=0.')

    @property
    def references(self) -> Mapping[str, float]:
        """Those of the policy's divergence."""
        return self.policy.references

    def steps(self, model: Model, examples: Sequence[Example], plan: Plan) -> Iterator[Step]:
        """One pass over the prompts, attempted by the live model and judged by the live critic.

        Raises:
            DataError: if an example is a document, which asks for nothing.
            ModelError: if the model cannot be sampled from, or has no critic.
        """
        scored = replace(self.policy, baseline="none", scale="none")

        def taught(live: LanguageModel, chosen: Sequence[Example], seed: int) -> Lesson:
            tried = scored.attempt(live, chosen, seed)
            batches = scored.batches(live, [a for a in tried if scored.takes(a)], plan)
            return Lesson(self._estimated(live, batches), noted(tried), tuple(a.trace.row() for a in tried))

        return passed(model, examples, plan, taught, self.policy.iterations)

    def attempt(
        self, model: LanguageModel, examples: Sequence[Example], seed: int, group: int | None = None
    ) -> list[Attempt]:
        """See `Attempting`: the policy's."""
        return self.policy.attempt(model, examples, seed, group)

    def loss(self, model: Model, batch: Batch) -> Tensor:
        """Scalar: the policy's loss and the critic's."""
        assert isinstance(model, LanguageModel)
        said, attempts = values(model, batch), attempts_of(batch)
        wanted, before = (batch.at_targets(name).to(said.device, said.dtype) for name in ("return", "value"))
        errors = (said - wanted).square()
        if self.clip is not None:
            near = before + (said - before).clamp(-self.clip, self.clip)
            errors = torch.maximum(errors, (near - wanted).square())
        critic = self.policy.averaged(errors / 2, attempts.to(said.device), batch.weight)
        return self.policy.loss(model, batch) + self.strength * critic

    def _estimated(self, model: LanguageModel, batches: Sequence[Batch]) -> tuple[Batch, ...]:
        """The batches with advantages of tokens, what the critic said, and what it is to say."""
        said = [values(model, batch).detach().double().cpu() for batch in batches]
        found = [
            estimated(batch.at_targets("advantage"), own, attempts_of(batch), self.discount, self.decay)
            for batch, own in zip(batches, said, strict=True)
        ]
        mean, deviation = 0.0, 1.0
        if self.whitened and found and (together := torch.cat(found)).numel() > 1:
            mean, deviation = float(together.mean()), float(together.std()) + EPSILON
        ready = []
        for batch, own, advantage in zip(batches, said, found, strict=True):
            streams = {"value": own, "return": advantage + own, "advantage": (advantage - mean) / deviation}
            for name, numbers in streams.items():
                batch = with_value(batch, name, numbers)
            ready.append(batch)
        return tuple(ready)


def estimated(rewards: Tensor, said: Tensor, attempts: Tensor, discount: float, decay: float) -> Tensor:
    """Generalised advantages of tokens, (N,).

    Args:
        rewards: (N,) the reward of each token's attempt, which comes with its last token.
        said: (N,) what the critic expected before each token.
        attempts: (N,) the number of each token's attempt; an attempt's tokens stand together, in order.
        discount: of later rewards, for each token.
        decay: lambda.
    """
    found, after, advantage = torch.zeros_like(said), 0.0, 0.0
    for t in reversed(range(len(said))):
        last = t + 1 == len(said) or int(attempts[t + 1]) != int(attempts[t])
        reward = float(rewards[t]) if last else 0.0
        after, advantage = (0.0, 0.0) if last else (after, advantage)
        advantage = reward + discount * after - float(said[t]) + discount * decay * advantage
        found[t], after = advantage, float(said[t])
    return found
