"""What a preference objective lowers: the loss of judged answers by their log-probabilities and a reference's.

S answers; of a pair the chosen one stands before the rejected one. r is an answer's implicit reward, which each
criterion defines, and d = r_chosen - r_rejected.
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from everlearn.errors import ConfigError


@dataclass(frozen=True)
class Judged:
    """Answers as a criterion sees them.

    Args:
        logprobs: (S,) log-probability in nats of each whole answer, differentiable.
        reference: (S,) the same by the reference; 0 where none is asked.
        lengths: (S,) tokens of each answer, the one that ends it counted.
        good: (S,) bool.
        baseline: (S,) how far the model is from the reference on answers to other prompts, in nats; see `KTO`.
    """

    logprobs: Tensor
    reference: Tensor
    lengths: Tensor
    good: Tensor
    baseline: Tensor

    @property
    def ratios(self) -> Tensor:
        """(S,) log of how much more probable each answer is than to the reference."""
        return self.logprobs - self.reference


class Criterion(Protocol):
    """Frozen data.

    `paired` says whether answers come in pairs, `anchored` whether a reference is looked at, and `compared` whether the
    distance from it on answers to other prompts is.
    """

    paired: ClassVar[bool]
    anchored: ClassVar[bool]
    compared: ClassVar[bool]

    def rewards(self, answers: Judged) -> Tensor:
        """(S,) the implicit rewards, differentiable."""

    def losses(self, answers: Judged) -> Tensor:
        """The loss of each pair, (S / 2,), or of each answer, (S,), differentiable."""


@dataclass(frozen=True)
class DPO:
    """-log sigmoid(d), with r = beta log(p / p_ref) (arXiv:2305.18290, eq. 7).

    Args:
        beta: how much a reward weighs against staying near the reference.
        smoothing: the share e of pairs that are taken to be the wrong way round: cDPO (Mitchell 2023,
            https://ericmitchell.ai/cdpo.pdf), -(1 - e) log sigmoid(d) - e log sigmoid(-d), which stops where
            sigmoid(d) = 1 - e.
    """

    paired: ClassVar[bool] = True
    anchored: ClassVar[bool] = True
    compared: ClassVar[bool] = False

    beta: float = 0.1
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        """Refuse numbers without a meaning."""
        require_beta(self.beta)
        _require_smoothing(self.smoothing)

    def rewards(self, answers: Judged) -> Tensor:
        """See `Criterion`."""
        return self.beta * answers.ratios

    def losses(self, answers: Judged) -> Tensor:
        """See `Criterion`."""
        d = margins(self.rewards(answers))
        return -(1 - self.smoothing) * logsigmoid(d) - self.smoothing * logsigmoid(-d)


@dataclass(frozen=True)
class RobustDPO:
    """(-(1 - e) log sigmoid(d) + e log sigmoid(-d)) / (1 - 2 e), r as `DPO` (arXiv:2403.00409, eq. 12).

    Its mean over pairs of which a share e is the wrong way round is DPO's over the right ones.

    Args:
        beta: as in `DPO`.
        smoothing: e, below 1/2.
    """

    paired: ClassVar[bool] = True
    anchored: ClassVar[bool] = True
    compared: ClassVar[bool] = False

    beta: float = 0.1
    smoothing: float = 0.1

    def __post_init__(self) -> None:
        """Refuse numbers without a meaning."""
        require_beta(self.beta)
        _require_smoothing(self.smoothing)

    def rewards(self, answers: Judged) -> Tensor:
        """See `Criterion`."""
        return self.beta * answers.ratios

    def losses(self, answers: Judged) -> Tensor:
        """See `Criterion`."""
        d, e = margins(self.rewards(answers)), self.smoothing
        return (-(1 - e) * logsigmoid(d) + e * logsigmoid(-d)) / (1 - 2 * e)


@dataclass(frozen=True)
class Hinge:
    """max(0, 1 - d), r as `DPO`: SLiC's loss (arXiv:2305.10425) with a reference, as in RSO (arXiv:2309.06657).

    Args:
        beta: as in `DPO`; 1 / beta is the margin in log-probabilities.
    """

    paired: ClassVar[bool] = True
    anchored: ClassVar[bool] = True
    compared: ClassVar[bool] = False

    beta: float = 0.1

    def __post_init__(self) -> None:
        """Refuse a number without a meaning."""
        require_beta(self.beta)

    def rewards(self, answers: Judged) -> Tensor:
        """See `Criterion`."""
        return self.beta * answers.ratios

    def losses(self, answers: Judged) -> Tensor:
        """See `Criterion`."""
        return torch.relu(1 - margins(self.rewards(answers)))


@dataclass(frozen=True)
class IPO:
    """(d / beta - 1 / (2 beta))^2, r = beta log(p / p_ref) (arXiv:2310.12036, eq. 17): a margin to reach, not to pass.

    Args:
        beta: the paper's tau.
        normalised: take log(p / p_ref) by token of an answer, as TRL does, which says that the paper's authors did so
            too; else its sum, as the equation stands.
    """

    paired: ClassVar[bool] = True
    anchored: ClassVar[bool] = True
    compared: ClassVar[bool] = False

    beta: float = 0.1
    normalised: bool = False

    def __post_init__(self) -> None:
        """Refuse a number without a meaning."""
        require_beta(self.beta)

    def rewards(self, answers: Judged) -> Tensor:
        """See `Criterion`."""
        return self.beta * answers.ratios / (answers.lengths if self.normalised else 1)

    def losses(self, answers: Judged) -> Tensor:
        """See `Criterion`."""
        return (margins(self.rewards(answers)) / self.beta - 1 / (2 * self.beta)).square()


@dataclass(frozen=True)
class SimPO:
    """-log sigmoid(d - margin), with r = beta log p by token, and no reference (arXiv:2405.14734, eq. 6).

    Args:
        beta: scale of the rewards; far above DPO's, since rewards are by token.
        margin: gamma, by how much the chosen answer's reward has to be larger; half of beta is a good begin.
    """

    paired: ClassVar[bool] = True
    anchored: ClassVar[bool] = False
    compared: ClassVar[bool] = False

    beta: float = 2.0
    margin: float = 1.0

    def __post_init__(self) -> None:
        """Refuse a number without a meaning."""
        require_beta(self.beta)

    def rewards(self, answers: Judged) -> Tensor:
        """See `Criterion`."""
        return self.beta * answers.logprobs / answers.lengths

    def losses(self, answers: Judged) -> Tensor:
        """See `Criterion`."""
        return -logsigmoid(margins(self.rewards(answers)) - self.margin)


@dataclass(frozen=True)
class KTO:
    """1 - sigmoid(r - z) of a good answer, 1 - sigmoid(z - r) of a bad one (arXiv:2402.01306, eq. 8); r as `DPO`.

    z = beta max(0, mean log(p / p_ref)) over a step's prompts, each with the answers of the next one: the paper's
    estimate of the divergence from the reference, through which no gradient goes. Where a step has one preference
    alone, no answer belongs to another prompt, and z is 0. A pair counts as a good and a bad answer.

    Args:
        beta: as in `DPO`.
        desirable: weight of good answers; where there are few of them, more: the paper wants desirable * good answers
            to be 1 to 4/3 of undesirable * bad ones.
        undesirable: weight of bad answers.
    """

    paired: ClassVar[bool] = False
    anchored: ClassVar[bool] = True
    compared: ClassVar[bool] = True

    beta: float = 0.1
    desirable: float = 1.0
    undesirable: float = 1.0

    def __post_init__(self) -> None:
        """Refuse numbers without a meaning."""
        require_beta(self.beta)
        if min(self.desirable, self.undesirable) < 0:
            raise ConfigError(f"{self}: weights are not negative.")

    def rewards(self, answers: Judged) -> Tensor:
        """See `Criterion`."""
        return self.beta * answers.ratios

    def losses(self, answers: Judged) -> Tensor:
        """See `Criterion`."""
        above = self.rewards(answers) - self.beta * answers.baseline
        weight = torch.where(answers.good, self.desirable, self.undesirable).to(above)
        return weight * (1 - torch.sigmoid(torch.where(answers.good, above, -above)))


def margins(values: Tensor) -> Tensor:
    """(S / 2,) by how much the chosen answer's value is larger than the rejected one's."""
    return values[::2] - values[1::2]


def require_beta(beta: float) -> None:
    """Refuse a scale that is not positive.

    Raises:
        ConfigError: if it is not.
    """
    if not 0 < beta < float("inf"):
        raise ConfigError(f"beta is {beta}; give a positive number, such as 0.1.")


def _require_smoothing(smoothing: float) -> None:
    if not 0 <= smoothing < 0.5:
        raise ConfigError(f"smoothing is {smoothing}; give the share of wrong pairs, in [0, 0.5).")
