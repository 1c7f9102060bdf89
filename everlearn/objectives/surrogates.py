"""What a policy gradient lowers: the loss of each drawn token by its advantage, old and new log-probability.

N drawn tokens of S attempts; rho = exp(lp - old) is how much more probable a token has become since it was drawn. A
log-ratio beyond +-20 is cut there, so that no exponential overflows.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from everlearn.errors import ConfigError

WIDEST = 20.0


class Surrogate(Protocol):
    """Frozen data."""

    def loss(self, logprobs: Tensor, old: Tensor, advantages: Tensor, attempts: Tensor) -> Tensor:
        """The loss of each token, (N,), differentiable in `logprobs`.

        Args:
            logprobs: (N,) under the model as it learns, in nats.
            old: (N,) when they were drawn.
            advantages: (N,) of the attempt or the token.
            attempts: (N,) number of each token's attempt, from 0.
        """


@dataclass(frozen=True)
class Reinforce:
    """-A log p (Williams 1992, doi:10.1007/BF00992696): no ratio, right for tokens that the present model drew."""

    def loss(self, logprobs: Tensor, old: Tensor, advantages: Tensor, attempts: Tensor) -> Tensor:
        """See `Surrogate`."""
        return -advantages * logprobs


@dataclass(frozen=True)
class Clip:
    """-min(rho A, clip(rho, 1 - low, 1 + high) A) (PPO, arXiv:1707.06347, eq. 7; GRPO).

    Args:
        low: epsilon below 1.
        high: epsilon above 1; DAPO (arXiv:2503.14476) takes 0.28, so that improbable tokens may rise.
        dual: c of the dual clip (arXiv:1912.09729): where A < 0 the loss is at most -c A; None has no such bound.
    """

    low: float = 0.2
    high: float = 0.2
    dual: float | None = None

    def __post_init__(self) -> None:
        """Refuse bounds without a meaning."""
        if not (0 <= self.low <= 1 and self.high >= 0) or (self.dual is not None and self.dual <= 1):
            raise ConfigError(f"{self}: 0 <= low <= 1, high >= 0, and dual is None or more than 1.")

    def loss(self, logprobs: Tensor, old: Tensor, advantages: Tensor, attempts: Tensor) -> Tensor:
        """See `Surrogate`."""
        return clipped(_ratio(logprobs - old), advantages, self)


@dataclass(frozen=True)
class SequenceClip:
    """GSPO (arXiv:2507.18071, eq. 5): as `Clip`, with one ratio for an attempt, exp(mean(lp - old)) over its tokens.

    Args:
        low: epsilon below 1; ratios of whole attempts are far nearer to 1 than those of tokens.
        high: epsilon above 1.
    """

    low: float = 3e-4
    high: float = 4e-4

    def __post_init__(self) -> None:
        """Refuse bounds without a meaning."""
        Clip(self.low, self.high)

    def loss(self, logprobs: Tensor, old: Tensor, advantages: Tensor, attempts: Tensor) -> Tensor:
        """See `Surrogate`."""
        mean = means(logprobs - old, attempts)
        return clipped(_ratio(mean)[attempts], advantages, Clip(self.low, self.high))


@dataclass(frozen=True)
class CISPO:
    """-sg(min(rho, 1 + high)) A log p (arXiv:2506.13585, eq. 4): every token keeps a gradient, its weight is bounded.

    Args:
        high: epsilon above 1.
    """

    high: float = 4.0

    def __post_init__(self) -> None:
        """Refuse a bound that turns the gradient."""
        if self.high < 0:
            raise ConfigError(f"{self}: high >= 0.")

    def loss(self, logprobs: Tensor, old: Tensor, advantages: Tensor, attempts: Tensor) -> Tensor:
        """See `Surrogate`."""
        return -_ratio(logprobs - old).clamp(max=1 + self.high).detach() * advantages * logprobs


def clipped(ratio: Tensor, advantages: Tensor, clip: Clip) -> Tensor:
    """The clipped loss of ratios, (N,)."""
    loss = -torch.minimum(ratio * advantages, ratio.clamp(1 - clip.low, 1 + clip.high) * advantages)
    if clip.dual is None:
        return loss
    return torch.where(advantages < 0, torch.minimum(loss, -clip.dual * advantages), loss)


def moved(
    surrogate: Surrogate, logprobs: Tensor, old: Tensor, advantages: Tensor, attempts: Tensor
) -> dict[str, float]:
    """How far a model has moved since its attempts were drawn, and how much of them no longer teaches.

    Args:
        surrogate: whose loss it is.
        logprobs: (N,), without gradient; these and the others as `Surrogate.loss` takes them.
        old: (N,).
        advantages: (N,).
        attempts: (N,).

    Returns:
        `kl_old`, an estimate of KL(old || model) in nats a token, the mean of rho - 1 - log rho (k3 of tokens that the
        old one drew); and `clipped`, the share of tokens with an advantage whose loss has no slope.
    """
    own = logprobs.clone().requires_grad_()
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(surrogate.loss(own, old, advantages, attempts).sum(), own)
    d, teaching = (logprobs - old).clamp(-WIDEST, WIDEST), advantages != 0
    clipped = ((slope == 0) & teaching).sum() / teaching.sum().clamp(min=1)
    return {"kl_old": float((d.exp() - 1 - d).mean()), "clipped": float(clipped)}


def means(values: Tensor, attempts: Tensor) -> Tensor:
    """The mean of the tokens' values in each attempt, (S,), differentiable."""
    count = int(attempts.max()) + 1
    total = values.new_zeros(count).index_add(0, attempts, values)
    return total / torch.bincount(attempts, minlength=count)


def _ratio(difference: Tensor) -> Tensor:
    return difference.clamp(-WIDEST, WIDEST).exp()
