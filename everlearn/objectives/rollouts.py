"""How a policy attempts tasks: `Rollout`, and the plain one, a prompt and its completions."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from everlearn.errors import ConfigError
from everlearn.examples import Example
from everlearn.models.language_model import LanguageModel
from everlearn.models.sampling import Sampling, sample
from everlearn.rewards.reward import question
from everlearn.traces import Trace


class Rollout(Protocol):
    """Frozen data."""

    @property
    def sampling(self) -> Sampling:
        """How tokens are drawn; its seed is not used."""

    def run(self, model: LanguageModel, examples: Sequence[Example], n: int, seed: int) -> list[list[Trace]]:
        """The traces of `n` attempts at each example, in the examples' order; an attempt leaves one trace or more.

        Args:
            model: the policy.
            examples: the tasks.
            n: attempts at each.
            seed: decides all randomness.
        """


@dataclass(frozen=True)
class SingleTurn:
    """The model completes the prompt, and that is the attempt.

    Args:
        sampling: how tokens are drawn. A policy gradient needs the distribution that was drawn from, so that the
            temperature is positive and nothing is left out (`top_p`).
    """

    sampling: Sampling = field(default_factory=Sampling)

    def __post_init__(self) -> None:
        """Refuse what has no log-probabilities."""
        require_policy(self.sampling)

    def run(self, model: LanguageModel, examples: Sequence[Example], n: int, seed: int) -> list[list[Trace]]:
        """See `Rollout`."""
        prompts = [model.encode_prompt(question(e)) for e in examples]
        groups = sample(model, prompts, replace(self.sampling, seed=seed), n)
        triples = zip(examples, prompts, groups, strict=True)
        return [
            [
                Trace(p, c.tokens, (True,) * len(c.tokens), c.logprobs, c.text, c.finished, e.key, e.origin, attempt=i)
                for i, c in enumerate(group)
            ]
            for e, p, group in triples
        ]


def require_policy(sampling: Sampling) -> None:
    """Refuse a sampling whose draws no policy gradient can use.

    Raises:
        ConfigError: if it is greedy, or draws from a part of the distribution.
    """
    if sampling.temperature == 0 or sampling.top_p not in (None, 1.0):
        raise ConfigError(
            f"{sampling}: a policy gradient needs log-probabilities of what was drawn from; give a temperature above "
            "0, and no top_p."
        )
