"""What methods with one adapter for each experience have in common."""

from abc import ABC
from dataclasses import dataclass

from everlearn.method import Context
from everlearn.methods.adapters import require_rank
from everlearn.models.bank import Shape, grow
from everlearn.models.language_model import LanguageModel
from everlearn.types import Memory


@dataclass(frozen=True)
class Growing(ABC):  # noqa: B024 - complete, and no method of its own
    """One adapter for each experience: the old ones are frozen, all are added up (as in O-LoRA, arXiv:2310.14152).

    The memory is a number; the frozen adapters are part of the version: for each experience and adapted layer
    4 rank (in + out) bytes.
    """

    rank: int = 16
    alpha: float | None = None
    targets: str | tuple[str, ...] = "all-linear"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        """Refuse a rank below one."""
        require_rank(self, self.rank, self.dropout)

    def init(self, model: LanguageModel) -> Memory:
        """No adapter."""
        return {"count": 0}

    def begin(self, memory: Memory, ctx: Context) -> Memory:
        """One adapter more."""
        return memory | {"count": memory["count"] + 1}

    def params(self, memory: Memory, model: LanguageModel) -> LanguageModel:
        """A bank on each target layer, of which the last adapter learns; everything else is frozen."""
        grow(model.module, self.targets, [self.shape()] * memory["count"], self.dropout)
        return model

    def shape(self) -> Shape:
        """What each adapter is."""
        return Shape(self.rank, 2.0 if self.alpha is None else self.alpha / self.rank)
