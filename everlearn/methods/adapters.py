"""Low-rank adapters: what learns is small, and a version costs megabytes."""

import math
from dataclasses import dataclass
from typing import ClassVar

from everlearn.errors import ConfigError
from everlearn.method import Method
from everlearn.models.dora import DoRALinear
from everlearn.models.language_model import LanguageModel
from everlearn.models.lora import wrap, wrap_with
from everlearn.types import Memory


@dataclass(frozen=True)
class LoRA(Method):
    """Train a low-rank update of each linear layer and freeze the rest (Hu et al. 2021, arXiv:2106.09685).

    y = W x + (alpha / rank) B A x, with A (rank, in) drawn as in the reference code and B (out, rank) zero at first.
    One adapter is trained on through all experiences. Folds into the base exactly. Differs from the paper: all linear
    layers but the head by default, which learns more (arXiv:2405.09673).

    Args:
        rank: r.
        alpha: scales the update by alpha / rank; None takes 2 * rank.
        targets: leaf names of the layers to adapt, such as ("q_proj", "v_proj"); "all-linear" takes all but the head.
        dropout: probability of dropping each input of A while learning.
    """

    keeps: ClassVar[str] = "nothing"
    computes: ClassVar[str] = "nothing"
    shardings: ClassVar = frozenset({"replicated", "sharded"})  # acts before parameters are sharded

    rank: int = 16
    alpha: float | None = None
    targets: str | tuple[str, ...] = "all-linear"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        """Refuse a rank below one."""
        require_rank(self, self.rank, self.dropout)

    def params(self, memory: Memory, model: LanguageModel) -> LanguageModel:
        """Wrap the target layers and freeze everything else."""
        alpha = 2.0 * self.rank if self.alpha is None else self.alpha
        wrap(model.module, self.targets, self.rank, alpha, self.dropout)
        return model


@dataclass(frozen=True)
class RSLoRA(Method):
    """LoRA whose update is scaled so that its size does not depend on the rank (rsLoRA, arXiv:2312.03732).

    y = W x + (alpha / sqrt(rank)) B A x. Folds into the base exactly. All linear layers but the head by default, as in
    `LoRA`.

    Args:
        rank: r.
        alpha: scales the update by alpha / sqrt(rank); the default is that of LoRA with rank 16 and alpha 32.
        targets: as in `LoRA`.
        dropout: probability of dropping each input of A while learning.
    """

    keeps: ClassVar[str] = "nothing"
    computes: ClassVar[str] = "nothing"
    shardings: ClassVar = frozenset({"replicated", "sharded"})  # acts before parameters are sharded

    rank: int = 16
    alpha: float = 8.0
    targets: str | tuple[str, ...] = "all-linear"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        """Refuse a rank below one."""
        require_rank(self, self.rank, self.dropout)

    def params(self, memory: Memory, model: LanguageModel) -> LanguageModel:
        """Wrap the target layers and freeze everything else."""
        wrap(model.module, self.targets, self.rank, self.alpha * math.sqrt(self.rank), self.dropout)
        return model


@dataclass(frozen=True)
class DoRA(Method):
    """LoRA for the direction of each row of a weight, and a learned length for it (DoRA, arXiv:2402.09353, eq. 5).

    y = m (W + s B A) / ||W + s B A|| x, row by row of the output, with s = alpha / rank and m = ||W|| at first. As in
    the paper's section 4.3 and in PEFT, no gradient passes through the norm. Folds into the base exactly.

    Args:
        rank: r.
        alpha: scales the update by alpha / rank; None takes 2 * rank.
        targets: as in `LoRA`.
        dropout: probability of dropping each input of A while learning.
    """

    keeps: ClassVar[str] = "nothing"
    computes: ClassVar[str] = "norms of rows, each pass"

    rank: int = 16
    alpha: float | None = None
    targets: str | tuple[str, ...] = "all-linear"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        """Refuse a rank below one."""
        require_rank(self, self.rank, self.dropout)

    def params(self, memory: Memory, model: LanguageModel) -> LanguageModel:
        """Wrap the target layers and freeze everything else."""
        alpha = 2.0 * self.rank if self.alpha is None else self.alpha
        wrap_with(DoRALinear, model.module, self.targets, self.rank, alpha / self.rank, self.dropout)
        return model


def require_rank(method: object, rank: int, dropout: float) -> None:
    """Refuse a rank below one, and a dropout that is no probability or drops all.

    Raises:
        ConfigError: naming the method.
    """
    if rank < 1 or not 0 <= dropout < 1:
        raise ConfigError(f"{method}: rank is 1 or more, dropout in [0, 1).")
