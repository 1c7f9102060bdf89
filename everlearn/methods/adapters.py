"""Low-rank adapters: what learns is small, and a version costs megabytes."""

from dataclasses import dataclass
from typing import ClassVar

from everlearn.errors import ConfigError
from everlearn.method import Method
from everlearn.models.language_model import LanguageModel
from everlearn.models.lora import wrap
from everlearn.types import Memory


@dataclass(frozen=True)
class LoRA(Method):
    """Train a low-rank update of each linear layer and freeze the rest (Hu et al. 2021, arXiv:2106.09685).

    y = W x + (alpha / rank) B A x, with A (rank, in) drawn as in the reference code and B (out, rank) zero at first.
    One adapter is trained on through all experiences. Differs from the paper: all linear layers but the head by
    default, which learns more (arXiv:2405.09673).

    Args:
        rank: r.
        alpha: scales the update by alpha / rank; None takes 2 * rank.
        targets: leaf names of the layers to adapt, such as ("q_proj", "v_proj"); "all-linear" takes all but the head.
        dropout: probability of dropping each input of A while learning.
    """

    shardings: ClassVar = frozenset({"replicated", "sharded"})  # acts before parameters are sharded

    rank: int = 16
    alpha: float | None = None
    targets: str | tuple[str, ...] = "all-linear"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        """Refuse a rank below one."""
        if self.rank < 1 or not 0 <= self.dropout < 1:
            raise ConfigError(f"{self}: rank is 1 or more, dropout in [0, 1).")

    def params(self, memory: Memory, model: LanguageModel) -> LanguageModel:
        """Wrap the target layers and freeze everything else."""
        alpha = 2.0 * self.rank if self.alpha is None else self.alpha
        wrap(model.module, self.targets, self.rank, alpha, self.dropout)
        return model
