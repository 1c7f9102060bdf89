"""CPPO: a policy gradient that decides by attempt how much to learn from it and how much to stay as it was there."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, pstdev

from torch import Tensor

from everlearn.errors import ConfigError
from everlearn.examples import Batch, Example, Plan, Step
from everlearn.models.language_model import LanguageModel
from everlearn.objectives.groups import Attempt, attempts_of, noted, with_reference, with_value
from everlearn.objectives.on_policy import Lesson, passed
from everlearn.objectives.policy_gradient import PolicyGradient
from everlearn.objectives.surrogates import moved
from everlearn.types import Model

START = "start"


@dataclass(frozen=True)
class CPPO:
    """Continual proximal policy optimisation (Zhang et al., ICLR 2024, https://openreview.net/forum?id=86zAUE80pP).

    An attempt with reward R and mean log-probability P of its drawn tokens is "high" in either where it lies more than
    `width` standard deviations above the mean of the step's attempts, and "low" where it lies so far below:

        R high, P high (performs well)   learn much,   retain much
        R low,  P high (overfits)        learn much,   retain little
        R high, P low  (varies)          learn much,   retain little
        R low,  P low  (is noise)        learn little, retain little
        all others                       1,            1

    The loss is the policy's, with an attempt's advantage times its weight of learning, plus the mean of `retention`
    times its weight of retaining times (log p - log p_start)^2 at its drawn tokens, where p_start is the version that
    the experience began with: the policy of the task before. Attempts without an advantage are retained too.

    A reconstruction: the kinds of attempts, the direction of their weights and the squared term are the paper's; the
    numbers of the weights, `width` and `retention` are those of a public port. Open choices, taken so: P by token, and
    weights from the very attempts that they act on. The paper's critic is left out; advantages are the policy's.

    Args:
        policy: how tasks are attempted, scored and learned from; without `kl`, whose place retention takes, and
            `retries`.
        retention: strength of staying near the last version; 0 leaves the weights of learning alone.
        width: standard deviations from the mean at which an attempt is no longer one of all others.
        much: a large weight.
        little: a small weight.
    """

    policy: PolicyGradient
    retention: float = 0.1
    width: float = 0.5
    much: float = 2.0
    little: float = 0.2

    def __post_init__(self) -> None:
        """Refuse numbers without a meaning, and a policy that stays near a reference in its own way."""
        if self.retention < 0 or self.width < 0 or not 0 <= self.little <= 1 <= self.much:
            raise ConfigError(
                f"retention={self.retention}, width={self.width}, little={self.little}, much={self.much}: retention "
                "and width are not negative, and 0 <= little <= 1 <= much."
            )
        if self.policy.kl or self.policy.retries:
            raise ConfigError("CPPO's policy takes neither kl, whose place retention takes, nor retries; leave both 0.")

    @property
    def references(self) -> Mapping[str, float]:
        """The version that the experience began with."""
        return {START: 1.0} if self.retention else {}

    def steps(self, model: Model, examples: Sequence[Example], plan: Plan) -> Iterator[Step]:
        """One pass over the prompts, `plan.batch_size` of them in a step, attempted by the live model.

        Raises:
            DataError: if an example is a document, which asks for nothing.
            ModelError: if the model cannot be sampled from.
        """

        def taught(live: LanguageModel, chosen: Sequence[Example], seed: int) -> Lesson:
            tried = self.policy.attempt(live, chosen, seed)
            taken = [a for a in tried if self.policy.takes(a)]
            weights = self.weights(taken)
            batches = self.batches(live, taken, weights, plan)
            return Lesson(batches, noted(tried) | _shares(weights), tuple(a.trace.row(a.advantage) for a in tried))

        return passed(model, examples, plan, taught, self.policy.iterations)

    def attempt(
        self, model: LanguageModel, examples: Sequence[Example], seed: int, group: int | None = None
    ) -> list[Attempt]:
        """See `Attempting`: the policy's."""
        return self.policy.attempt(model, examples, seed, group)

    def loss(self, model: Model, batch: Batch) -> Tensor:
        """Scalar: the policy's loss, and the distance from the last version."""
        logprobs = model.token_logprobs(batch, temperature=self.policy.rollout.sampling.temperature)
        values = {name: batch.at_targets(name).to(logprobs.device, logprobs.dtype) for name in batch.values}
        attempts = attempts_of(batch).to(logprobs.device)
        old = values.get("old", logprobs.detach())
        losses = self.policy.surrogate.loss(logprobs, old, values["advantage"], attempts)
        if "old" in values:
            batch.told.update(moved(self.policy.surrogate, logprobs.detach(), old, values["advantage"], attempts))
        if self.retention:
            losses = losses + self.retention * values["retained"] * (logprobs - values["reference"]).square()
        return self.policy.averaged(losses, attempts, batch.weight)

    def weights(self, attempts: Sequence[Attempt]) -> list[tuple[float, float]]:
        """For each scored attempt of a step, its weights of learning and of retaining."""
        rewards = _signs([a.trace.reward or 0.0 for a in attempts], self.width)
        chances = _signs([sum(a.trace.logprobs) / a.trace.length for a in attempts], self.width)
        return [self._weights(r, p) for r, p in zip(rewards, chances, strict=True)]

    def _weights(self, reward: int, chance: int) -> tuple[float, float]:
        """Of an attempt whose reward and probability are high (1), low (-1) or neither (0)."""
        if not reward or not chance:
            return 1.0, 1.0
        learn = self.little if reward < 0 and chance < 0 else self.much
        return learn, self.much if reward > 0 and chance > 0 else self.little

    def batches(
        self, model: LanguageModel, attempts: Sequence[Attempt], weights: Sequence[tuple[float, float]], plan: Plan
    ) -> tuple[Batch, ...]:
        """Attempts as batches, with their weights and what the last version says of them."""
        pairs = list(zip(attempts, weights, strict=True))
        learned = [replace(a, advantage=learn * (a.advantage or 0.0)) for a, (learn, _) in pairs]
        found = self.policy.batches(model, learned, plan)
        if not self.retention:
            return found
        # The same attempts lie in the same rows, so that their other weight can take the place of the advantage.
        kept = self.policy.batches(model, [replace(a, advantage=retain) for a, (_, retain) in pairs], plan)
        start, temperature = plan.references.get(START, {}), self.policy.rollout.sampling.temperature
        said = with_reference(model, found, start, temperature)
        return tuple(with_value(b, "retained", k.at_targets("advantage")) for b, k in zip(said, kept, strict=True))


def _signs(values: Sequence[float], width: float) -> list[int]:
    """1 for values far above the mean, -1 for those far below, 0 for all others."""
    if not values:
        return []
    mean, far = fmean(values), width * pstdev(values)
    return [(v > mean + far) - (v < mean - far) for v in values]


def _shares(weights: Sequence[tuple[float, float]]) -> dict[str, float]:
    """The means of both weights, for the notes."""
    if not weights:
        return {}
    learned, retained = zip(*weights, strict=True)
    return {"learned_weight": fmean(learned), "retained_weight": fmean(retained)}
