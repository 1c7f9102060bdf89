"""Policy gradient: the model attempts tasks, rewards say how good that was, and what did better becomes more probable.

One loss with arguments. The field's names, as expressions (`reward=...` left out; 256 is the most tokens of an answer):

    REINFORCE  PolicyGradient(surrogate=Reinforce(), baseline="none")                            doi:10.1007/BF00992696
    RLOO       PolicyGradient(surrogate=Reinforce(), baseline="leave-one-out", average="sums")   arXiv:2402.14740
    GRPO       PolicyGradient(scale="group", average="attempts", kl=0.04)                        arXiv:2402.03300
    Dr. GRPO   PolicyGradient(average="constant")                                                arXiv:2503.20783
    DAPO       PolicyGradient(scale="group", surrogate=Clip(0.2, 0.28), retries=8,
                              reward=Weighted(... Length(...)))                                  arXiv:2503.14476
    GSPO       PolicyGradient(scale="group", surrogate=SequenceClip(), average="attempts")       arXiv:2507.18071
    CISPO      PolicyGradient(scale="group", surrogate=CISPO())                                  arXiv:2506.13585
    TTRL       PolicyGradient(reward=MajorityVote(), group=64, learned=32, scale="group")        arXiv:2504.16084

Attempts at one prompt share its forward pass where the model can pack documents, in sampling and in learning.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal, get_args

from torch import Tensor

from everlearn.data.packing import collate, split_by_tokens
from everlearn.errors import ConfigError, ModelError
from everlearn.examples import Batch, Example, Plan, Step
from everlearn.models.language_model import LanguageModel
from everlearn.objectives.advantages import Baseline, Scale, advantages
from everlearn.objectives.groups import Attempt, attempts_of, judged, noted, reward_notes, rows_of, with_reference
from everlearn.objectives.on_policy import Lesson, passed, require_prompts
from everlearn.objectives.rollouts import Rollout, SingleTurn
from everlearn.objectives.surrogates import Clip, Surrogate, means, moved
from everlearn.randomness import permutation, seed_of
from everlearn.rewards.reward import Reward, require_reward
from everlearn.types import Model

Average = Literal["tokens", "attempts", "constant", "sums"]
Estimator = Literal["k1", "k2", "k3"]
Anchor = Literal["start", "base", "ema"]
Truncated = Literal["keep", "mask"]
CHOICES = {"baseline": Baseline, "scale": Scale, "average": Average, "estimator": Estimator, "reference": Anchor}
KEYS = ("task", "origin", "agent", "turn", "prompt")
"""What attempts may share that are compared with each other."""


@dataclass(frozen=True)
class PolicyGradient:
    """Raise the probability of what earned more reward than other attempts at the same task; see the module.

    Each step takes `batch_size` prompts of the recipe, draws `group` attempts at each with the live model, scores them,
    and learns from those whose group tells better from worse. A step in which no group does changes nothing. A row that
    nobody has answered, for a reward that asks for no right answer, ends with an empty turn of the assistant's.

    Args:
        reward: how good an attempt's last answer is; added to what the rollout's environment gave, where there is one.
            None takes the environment's alone. None for an attempt is "cannot be told": it is left out, and not
            counted as 0.
        group: attempts at each prompt.
        rollout: how the model attempts.
        baseline: what is subtracted from a reward; see `advantages`.
        scale: what the difference is divided by.
        key: what attempts share that are compared with each other: any of task (the example), origin (its experience),
            agent, turn, prompt (the very tokens); () compares the whole batch.
        surrogate: the loss of a token.
        average: how tokens' losses become one: their mean over all "tokens" of the step (DAPO), the mean over its
            "attempts" of the mean over their tokens (GRPO), the sum divided by the number of attempts times the
            rollout's limit, a "constant" (Dr. GRPO), or the mean over attempts of their "sums" (the likelihood of whole
            attempts, as RLOO). All attempts that could be scored and are not masked count, those of groups that teach
            nothing too, but for "tokens".
        kl: strength of staying near a reference, in nats; 0 asks for no reference.
        estimator: of KL(model || reference) at the drawn tokens, with d = log p_ref - log p: "k3", exp(d) - d - 1, and
            "k2", d^2 / 2, are added to the loss; "k1", -d, is subtracted from the advantage, since the gradient of its
            mean over drawn tokens is 0 on average (Schulman 2020, http://joschu.net/blog/kl-approx.html).
        reference: the version "start" that the experience began with, the "base" model before anything was learned,
            or the "ema", a running mean of the weights that begins at the start.
        decay: of the running mean, in each step.
        iterations: steps that learn from the same attempts; above 1, ratios are taken to when they were drawn, and each
            step notes how far the model has moved since, and what is clipped (`surrogates.moved`).
        learned: learn from so many of each group alone, the first ones; None from all. All take part in the reward, as
            in a vote.
        retries: draw other prompts, so many times at most, in place of those whose attempts all did as well (DAPO's
            dynamic sampling); 0 leaves them out.
        truncated: whether attempts that ended at the limit are learned from ("keep") or left out ("mask").
    """

    reward: Reward | None = None
    group: int = 8
    rollout: Rollout = field(default_factory=SingleTurn)
    baseline: Baseline = "mean"
    scale: Scale = "none"
    key: tuple[str, ...] = ("task",)
    surrogate: Surrogate = field(default_factory=Clip)
    average: Average = "tokens"
    kl: float = 0.0
    estimator: Estimator = "k3"
    reference: Anchor = "start"
    decay: float = 0.99
    iterations: int = 1
    learned: int | None = None
    retries: int = 0
    truncated: Truncated = "keep"

    def __post_init__(self) -> None:
        """Refuse a metric as the reward, choices that there are not, and numbers without a meaning."""
        require_reward(self.reward)
        for name, choices in (CHOICES | {"truncated": Truncated}).items():
            if getattr(self, name) not in get_args(choices):
                raise ConfigError(f"{name}={getattr(self, name)!r}: choose among {get_args(choices)}.")
        unknown = [name for name in self.key if name not in KEYS]
        if unknown:
            raise ConfigError(f"key={self.key}: attempts do not know {unknown}; choose among {KEYS}.")
        counts = min(self.group, self.iterations, self.retries + 1, 1 if self.learned is None else self.learned)
        if counts < 1 or self.kl < 0 or not 0 <= self.decay <= 1:
            raise ConfigError(
                f"group={self.group}, iterations={self.iterations}, learned={self.learned}, retries={self.retries}, "
                f"kl={self.kl}, decay={self.decay}: counts are 1 at least (retries 0), kl is not negative, and decay "
                "lies in [0, 1]."
            )

    @property
    def references(self) -> Mapping[str, float]:
        """The versions that it looks at, with the decay of each one's running mean."""
        return {self.reference: self.decay if self.reference == "ema" else 1.0} if self.kl else {}

    def steps(self, model: Model, examples: Sequence[Example], plan: Plan) -> Iterator[Step]:
        """One pass over the prompts, `plan.batch_size` of them in a step, attempted by the live model.

        Raises:
            DataError: if an example is a document, which asks for nothing.
            ModelError: if the model cannot be sampled from, or the rollout does not number its attempts.
        """

        def taught(live: LanguageModel, chosen: Sequence[Example], seed: int) -> Lesson:
            tried = self._tried(live, chosen, examples, seed)
            batches = self.batches(live, self._teaching(tried), plan, sum(map(self.takes, tried)))
            return Lesson(batches, noted(tried), tuple(a.trace.row(a.advantage) for a in tried))

        return passed(model, examples, plan, taught, self.iterations)

    def loss(self, model: Model, batch: Batch) -> Tensor:
        """Scalar: the surrogate's mean, as `average` says, and the divergence from the reference."""
        logprobs = model.token_logprobs(batch, temperature=self.rollout.sampling.temperature)
        value = partial(_value, batch, logprobs)
        old = value("old") if "old" in batch.values else logprobs.detach()
        advantage, attempts = value("advantage"), attempts_of(batch).to(logprobs.device)
        if self.kl and self.estimator == "k1":
            advantage = advantage - self.kl * (logprobs.detach() - value("reference"))
        losses = self.surrogate.loss(logprobs, old, advantage, attempts)
        if "old" in batch.values:
            batch.told.update(moved(self.surrogate, logprobs.detach(), old, advantage, attempts))
        if self.kl and self.estimator != "k1":
            d = value("reference") - logprobs
            losses = losses + self.kl * (d.exp() - d - 1 if self.estimator == "k3" else d.square() / 2)
        return self.averaged(losses, attempts, batch.weight)

    def averaged(self, losses: Tensor, attempts: Tensor, weight: float) -> Tensor:
        """The mean of tokens' losses, as `average` says.

        Args:
            losses: (N,) of drawn tokens.
            attempts: (N,) the number of each token's attempt.
            weight: of the batch in its step: attempts, or drawn tokens where their mean is taken.
        """
        match self.average:
            case "tokens":
                return losses.mean()
            case "attempts":
                return means(losses, attempts).sum() / weight
            case "sums":
                return losses.sum() / weight
        return losses.sum() / (weight * self.rollout.sampling.limit)

    def count(self, attempts: int, share: float = 1.0) -> float | None:
        """What a row of so many attempts counts for in its step; None stands for its drawn tokens.

        Args:
            attempts: in the row.
            share: of all attempts by those that are learned from, inverted.
        """
        return None if self.average == "tokens" else share * attempts

    def attempt(
        self, model: LanguageModel, examples: Sequence[Example], seed: int, group: int | None = None
    ) -> list[Attempt]:
        """See `Attempting`; what an example's last turn says is seen by the reward alone.

        Raises:
            DataError: if an example is a document, which asks for nothing.
        """
        require_prompts(examples)
        wanted, found = group or self.group, list[Attempt]()
        learned = wanted if group or self.learned is None else self.learned
        for example, traces in zip(examples, self.rollout.run(model, examples, wanted, seed), strict=True):
            if (count := len({t.attempt for t in traces})) != wanted:
                raise ModelError(f"{self.rollout} numbered {count} attempts, not {wanted}: set Trace.attempt.")
            notes = reward_notes(example, traces, self.reward)
            scored = judged(example, traces, self.reward)
            found += [Attempt(example, t, notes=notes) for t in scored if t.attempt < learned]
        return self._compared(found)

    def _compared(self, attempts: Sequence[Attempt]) -> list[Attempt]:
        """The attempts with their advantages over each other."""
        rewards, groups = [a.trace.reward for a in attempts], [self._group(a) for a in attempts]
        better = advantages(rewards, groups, self.baseline, self.scale)
        return [replace(a, advantage=b) for a, b in zip(attempts, better, strict=True)]

    def _tried(
        self, model: LanguageModel, chosen: Sequence[Example], examples: Sequence[Example], seed: int
    ) -> list[Attempt]:
        """The attempts of a step; of prompts that teach nothing, other ones' in their place while tries are left."""
        found = self.attempt(model, chosen, seed)
        for again in range(self.retries):
            teach = {a.example.key for a in self._teaching(found)}
            wanted = len({e.key for e in chosen}) - len(teach)
            if wanted <= 0:
                break
            order = permutation(len(examples), seed, "more", again)
            known = {a.example.key for a in found}
            others = [examples[i] for i in order if examples[i].key not in known][:wanted]
            found += self.attempt(model, others, seed_of(seed, "again", again)) if others else []
        return self._compared(found)

    def _teaching(self, attempts: Sequence[Attempt]) -> list[Attempt]:
        """The attempts of groups that tell better from worse, those among them whose own advantage is 0 included.

        Where a group is not its own baseline, any that earned nothing is as much of the mean as one that did.
        """
        uneven = {self._group(a) for a in attempts if a.advantage and self.takes(a)}
        alone = self.baseline in ("mean", "leave-one-out")
        return [a for a in attempts if uneven and self.takes(a) and (not alone or self._group(a) in uneven)]

    def _group(self, attempt: Attempt) -> tuple[object, ...]:
        return tuple(getattr(attempt.trace, name) for name in self.key)

    def takes(self, attempt: Attempt) -> bool:
        """Whether an attempt may be learned from: it was scored, has drawn something, and is not masked."""
        masked = self.truncated == "mask" and not attempt.trace.finished
        return attempt.trace.reward is not None and attempt.trace.length > 0 and not masked

    def batches(
        self, model: LanguageModel, attempts: Sequence[Attempt], plan: Plan, total: int | None = None
    ) -> tuple[Batch, ...]:
        """Attempts as batches, with what the loss needs of the reference.

        Args:
            model: the policy.
            attempts: each with an advantage.
            plan: its bound on tokens, and the reference.
            total: attempts that a mean over attempts is over, those that teach nothing included; None takes these.
        """
        share = 1.0 if total is None else total / max(len(attempts), 1)
        counts = partial(self.count, share=share)
        rows = rows_of(attempts, model.packs, plan.tokens, self.iterations > 1, counts)
        batches = [collate([rows[i] for i in group], model.packs) for group in split_by_tokens(rows, plan.tokens)]
        if not self.kl:
            return tuple(batches)
        version = plan.references.get(self.reference, {})
        return tuple(with_reference(model, batches, version, self.rollout.sampling.temperature))


def _value(batch: Batch, like: Tensor, name: str) -> Tensor:
    return batch.at_targets(name).to(like.device, like.dtype)
