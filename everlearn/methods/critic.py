"""A critic for policy gradients that need one."""

from dataclasses import dataclass
from typing import ClassVar

from everlearn.errors import ConfigError
from everlearn.method import Method
from everlearn.models.language_model import LanguageModel
from everlearn.models.value_head import attach
from everlearn.types import Memory


@dataclass(frozen=True)
class Critic(Method):
    """A value head beside the language model's own (the critic of actor-critic methods, PPO, arXiv:1707.06347).

    A network with one hidden layer on the last hidden states, which it does not change: it reads what the policy has,
    and its error does not reach the policy. It begins at 0, is learned by an objective that has use for it
    (`ActorCritic`), at the recipe's rate, and is handed on from experience to experience. In a chain it stands behind
    adapters, which freeze all else.

    Differs from the paper: there the policy's layers are shared and learn from the value's error too.

    Memory: none; a version holds the head, 4 (D + 2) hidden bytes.

    Args:
        hidden: width of the hidden layer.
    """

    keeps: ClassVar[str] = "nothing"
    computes: ClassVar[str] = "a forward pass, each batch of an objective that asks it"

    hidden: int = 256

    def __post_init__(self) -> None:
        """Refuse a width that is none."""
        if self.hidden < 1:
            raise ConfigError(f"{self}: hidden is 1 or more.")

    def params(self, memory: Memory, model: LanguageModel) -> LanguageModel:
        """Put the head in, unless it is there."""
        attach(model, self.hidden).requires_grad_(True)
        return model
