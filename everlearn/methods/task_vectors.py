"""Task vectors: what each experience has changed, added to the base.

N is the number of trained weights. Memory is 4 N bytes for the base's values and 4 N for each running tensor, however
many experiences there are. For adapters of rank r on (out, in) layers it is 4 r (in + out) bytes for each layer and
experience instead; see `everlearn.merge_rules`. All need the whole of each parameter in every process.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from everlearn.errors import ConfigError
from everlearn.merge_rules import Begins, Draw, Facts, Merging, Share, TaskVectors
from everlearn.merging import (
    Running,
    Vector,
    apart_from,
    every,
    larger,
    slerp_weights,
)
from everlearn.method import Method


@dataclass(frozen=True)
class TaskArithmetic(TaskVectors):
    """Add up what the experiences have changed (task arithmetic, arXiv:2212.04089): theta_0 + scale sum_i tau_i.

    In a stream each expert is trained from the base, as in the paper. A negative scale unlearns: merge what a model
    learned into its base with `TaskArithmetic(scale=-1)`. Memory: 8 N bytes.

    Args:
        scale: lambda; the paper tunes it, and finds 0.3 to 0.4 for eight tasks.
        begins: where an expert's training begins: "base", "last" or "merged".
    """

    keeps: ClassVar[str] = "8 N in all"
    computes: ClassVar[str] = "sums over N, at the end"

    scale: float = 0.4

    def close(self, base: Tensor, running: Running, fact: Any) -> Tensor:
        """The base plus the scaled sum."""
        return base + self.scale * running[0]


@dataclass(frozen=True)
class MagMax(TaskVectors):
    """Take for each weight the largest change that any experience made (MagMax, arXiv:2407.06322).

    Training goes on from the last expert, unmerged; tau_t = theta_t - theta_0 holds all of what was changed so far, and
    of the running entry and the new one the larger in magnitude stays, the new one where they are alike.
    Memory: 12 N bytes.

    Args:
        scale: lambda.
        begins: where an expert's training begins: "last", or "base" for the paper's independent experts.
    """

    keeps: ClassVar[str] = "12 N in all"
    computes: ClassVar[str] = "sums over N, at the end"

    scale: float = 0.5
    begins: Begins = field(default="last", kw_only=True)

    def __post_init__(self) -> None:
        """Refuse changes that are not counted from the base."""
        _require(self, self.begins != "merged", "begins is 'last' or 'base'")

    def fold(self, running: Running | None, block: Tensor, share: Share) -> Running:
        """The larger entries."""
        return larger(running, share.weight * block)

    def close(self, base: Tensor, running: Running, fact: Any) -> Tensor:
        """The base plus the largest changes."""
        return base + self.scale * running[0]


@dataclass(frozen=True)
class OPCM(TaskVectors):
    """Add of each expert what is orthogonal to those merged before (OPCM, arXiv:2501.09522).

    For each matrix, W_t = W_0 + (lambda_{t-1} (W_{t-1} - W_0) + P(tau_t)) / lambda_t, where P drops the main singular
    directions of what is merged, and its whole diagonal. lambda_t keeps the merged norm, over all tensors, at the mean
    norm of the experts; directions do not depend on it, so the sum is kept without it. Vectors are added up as they
    are, so that of identical models matrices alone stay what they were. Differs from the paper: written for CLIP, whose
    linear layers alone are projected; here every matrix is, embeddings too. Takes whole tensors at once, and one
    singular value decomposition of each. Memory: 8 N bytes.

    Args:
        share: alpha, the share of the singular values' sum that counts as main.
        begins: where an expert's training begins: "base", "last" or "merged".
    """

    keeps: ClassVar[str] = "8 N in all"
    computes: ClassVar[str] = "an SVD a matrix, at the end"
    whole: ClassVar[bool] = True

    share: float = 0.5

    def __post_init__(self) -> None:
        """Refuse a share above all."""
        _require(self, 0 <= self.share <= 1, "share is in [0, 1]")

    def survey(self, vector: Vector, draw: Draw) -> Facts:
        """The square norm of all that an expert has changed."""
        return {"": sum(float((block.double() ** 2).sum()) for block in every(vector)())}

    def fold(self, running: Running | None, block: Tensor, share: Share) -> Running:
        """The sum so far and what is new in this expert."""
        block = share.weight * block
        if running is None:
            return (block,)
        return (running[0] + (apart_from(running[0], block, self.share) if len(block) > 1 else block),)

    def gather(self, folded: Iterable[tuple[str, Tensor, Running]], surveys: Sequence[Facts]) -> Facts:
        """1 / lambda_t, from the norm of the sum and those of the experts."""
        total = sum(float((r[0].double() ** 2).sum()) for _, _, r in folded) ** 0.5
        mean = sum(s[""] ** 0.5 for s in surveys) / len(surveys)
        return {"": mean / total if total else 1.0}

    def close(self, base: Tensor, running: Running, fact: Any) -> Tensor:
        """The base plus the sum at the experts' norm."""
        merged: Tensor = base + fact * running[0]
        return merged


@dataclass(frozen=True)
class SLERP(Merging):
    """Go along the arc between the weights before and after each experience, tensor by tensor (Shoemake 1985).

    sin((1 - t) omega) / sin omega theta_a + sin(t omega) / sin omega theta_b, linear where the angle omega between the
    two is near zero, which it nearly always is after fine-tuning. Merges two models; no memory.

    Args:
        mixing: t, from before to after; on the command line from the base to the other model.
    """

    keeps: ClassVar[str] = "nothing"
    computes: ClassVar[str] = "products of P, at the end"
    weighs: ClassVar[bool] = False
    mixing: float = 0.5

    def __post_init__(self) -> None:
        """Refuse a place off the arc."""
        _require(self, 0 <= self.mixing <= 1, "mixing is in [0, 1]")

    def gather(self, folded: Iterable[tuple[str, Tensor, Running]], surveys: Sequence[Facts]) -> Facts:
        """Factors of both for each tensor, from their inner products."""
        _require(self, len(surveys) == 1, f"an arc has two ends, and these are {len(surveys) + 1} models")
        sums: dict[str, tuple[float, float, float]] = {}
        for name, a, running in folded:
            a, b = a.double(), a.double() + running[0].double()
            new = (float((a * b).sum()), float((a * a).sum()), float((b * b).sum()))
            old = sums.get(name, (0.0, 0.0, 0.0))
            sums[name] = (old[0] + new[0], old[1] + new[1], old[2] + new[2])
        return {name: slerp_weights(*found, self.mixing) for name, found in sums.items()}

    def close(self, base: Tensor, running: Running, fact: Any) -> Tensor:
        """The point on the arc."""
        merged: Tensor = fact[0] * base + fact[1] * (base + running[0])
        return merged


def _require(method: Method, holds: bool, otherwise: str) -> None:
    if not holds:
        raise ConfigError(f"{method}: {otherwise}.")
