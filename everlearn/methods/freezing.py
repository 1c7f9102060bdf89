"""Freezing: parts of a model that do not learn."""

from dataclasses import dataclass
from typing import ClassVar

from everlearn.errors import ConfigError, MethodError
from everlearn.method import Context, Method, Tensors
from everlearn.models.language_model import LanguageModel
from everlearn.models.layers import below, decoder_layers
from everlearn.models.lora import take_away_unlearned
from everlearn.types import Memory


@dataclass(frozen=True)
class Freeze(Method):
    """Train only what lies above the lowest layers (Zheng et al. 2025, arXiv:2501.13453, "freeze").

    The token embedding and the lowest `below` layers stand still; an output head that is tied to the embedding stands
    still with it. Later epochs, replay and the matrix then begin at the lowest layer that learns: what the frozen ones
    make of a text is computed once (see `everlearn.models.engine.Engine.activations`).

    In a chain it stands behind the method that says what learns, as in `LoRA(rank=16), Freeze(below=15)`; adapters of
    frozen layers, which would never learn, are taken away. It keeps no memory.

    Args:
        below: number of layers that are frozen, from the lowest up.
    """

    keeps: ClassVar[str] = "nothing"
    computes: ClassVar[str] = "saves passes of frozen layers"
    shardings: ClassVar = frozenset({"replicated", "sharded"})  # acts before parameters are sharded

    below: int = 1

    def __post_init__(self) -> None:
        """Refuse a negative number."""
        if self.below < 0:
            raise ConfigError(f"{self}: below is a number of layers, 0 or more.")

    def params(self, memory: Memory, model: LanguageModel) -> LanguageModel:
        """Freeze the embedding and the lowest layers.

        Raises:
            MethodError: if the model has too few layers, or does not keep them in one list.
        """
        layers = decoder_layers(model.module)
        if self.below >= len(layers):
            have = f"has {len(layers)} layers, and one has to learn" if layers else "keeps its layers in no list"
            raise MethodError(f"{self}: {model.name} {have}; freeze fewer, or leave the method out.")
        if self.below:
            take_away_unlearned(model.module, layers[: self.below])
            for parameter in below(model.module, self.below).values():
                parameter.requires_grad_(False)
        return model


@dataclass(frozen=True)
class Slow(Method):
    """Let the lowest layers move a fraction of the way that the optimiser proposes (arXiv:1912.01100, sec. 3).

    The front of a network that replays states at a cut above it; or a softer `Freeze`. It is the movement that is
    scaled, since Adam would undo a scaled gradient. Extra compute: copies of what learns in each step. No memory.

    Args:
        below: number of layers that are slowed, from the lowest up, and with them the token embedding.
        factor: of their movement, in [0, 1].
    """

    keeps: ClassVar[str] = "nothing"
    computes: ClassVar[str] = "copies of P, each step"

    below: int = 1
    factor: float = 0.01

    def __post_init__(self) -> None:
        """Refuse a negative number of layers, and a factor that would not slow."""
        if self.below < 0 or not 0 <= self.factor <= 1:
            raise ConfigError(f"{self}: below is a number of layers, 0 or more, and factor is in [0, 1].")

    def update(self, memory: Memory, update: Tensors, ctx: Context) -> Tensors:
        """Scale the movement of the lowest layers."""
        slowed = below(ctx.model.module, self.below) if self.below else {}
        return {name: u * self.factor if name in slowed else u for name, u in update.items()}
