"""Longer contexts: rotary positions that reach as far as the longest experience learned so far.

How long an experience is says its `length`, or else the recipe. While it is within what the model was trained to, all
these methods are plain fine-tuning, to the bit; beyond that the factor s is their quotient. The length is part of the
memory, and so of each version, which is rebuilt with it. A version that is refused takes its length with it.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from everlearn.errors import ConfigError
from everlearn.method import Context, Method
from everlearn.models.language_model import LanguageModel
from everlearn.models.rope import (
    base,
    by_parts,
    by_parts_of_index,
    context,
    interpolated,
    ntk_ratio,
    rebased,
    temperature,
    turn,
)
from everlearn.types import Memory


@dataclass(frozen=True)
class _Longer(ABC):
    """What the methods have in common: the memory, and when frequencies change."""

    keeps: ClassVar[str] = "one number"
    computes: ClassVar[str] = "nothing"
    shardings: ClassVar[frozenset[str] | None] = frozenset({"replicated", "sharded"})

    original: int | None = None

    def __post_init__(self) -> None:
        """Refuse a context of nothing."""
        if self.original is not None and self.original < 1:
            raise ConfigError(f"{self}: original is a number of tokens, 1 or more; None takes what the model says.")

    @abstractmethod
    def turned(self, frequencies: Tensor, factor: float, original: int, own: float) -> tuple[Tensor, float]:
        """Frequencies for a context that is `factor` times the original, and by what queries and keys are multiplied.

        Args:
            frequencies: (D / 2,) of the model.
            factor: s, above 1.
            original: tokens that the model was trained to.
            own: base of the frequencies.
        """

    def init(self, model: LanguageModel) -> Memory:
        """Nothing was read yet."""
        return {"length": 0}

    def begin(self, memory: Memory, ctx: Context) -> Memory:
        """The longest so far."""
        return {"length": max(memory["length"], ctx.plan.length)}

    def params(self, memory: Memory, model: LanguageModel) -> LanguageModel:
        """Change the frequencies, always from the model's own.

        Raises:
            ModelError: if the model's positions cannot be changed, or another method has changed them.
        """
        original, own = self.original or context(model.module), base(model.module)
        factor = memory["length"] / original
        change = None if factor <= 1 else lambda theta: self.turned(theta, factor, original, own)
        turn(model.module, type(self).__name__, change, memory["length"])
        return model


@dataclass(frozen=True)
class PositionInterpolation(_Longer, Method):
    """Longer contexts by positions that are divided by s (Chen et al. 2023, arXiv:2306.15595).

    That is: all frequencies of the rotary embedding are, theta / s.

    Args:
        original: tokens that the model was trained to; None takes what its configuration says.
    """

    def turned(self, frequencies: Tensor, factor: float, original: int, own: float) -> tuple[Tensor, float]:
        """Divided by the factor."""
        return interpolated(frequencies, factor), 1.0


@dataclass(frozen=True)
class AdjustedBase(_Longer, Method):
    """Longer contexts by a larger base of the rotary frequencies (ABF, Xiong et al. 2023, arXiv:2309.16039, sec. 4.1).

    Without `base`, it grows so that the slowest frequency is interpolated and the fastest is not: by s to the power of
    D / (D - 2) ("NTK-aware", arXiv:2309.00071, sec. 3.1).

    Args:
        original: tokens that the model was trained to; None takes what its configuration says.
        base: beyond them; Llama 3 has 500,000 (arXiv:2407.21783).
    """

    base: float | None = None

    def __post_init__(self) -> None:
        """Refuse a base that none of the frequencies would follow."""
        if self.base is not None and self.base <= 1:
            raise ConfigError(f"{self}: base is above 1; None takes one by the factor.")
        _Longer.__post_init__(self)

    def turned(self, frequencies: Tensor, factor: float, original: int, own: float) -> tuple[Tensor, float]:
        """Powers of another base."""
        ratio = ntk_ratio(len(frequencies), factor) if self.base is None else self.base / own
        return rebased(frequencies, ratio), 1.0


@dataclass(frozen=True)
class YaRN(_Longer, Method):
    """Longer contexts by parts: slow rotations are interpolated, fast ones stay (Peng et al. 2023, arXiv:2309.00071).

    And attention gets a temperature: queries and keys are multiplied by 0.1 ln s + 1 (sec. 3.4).

    Args:
        original: L, tokens that the model was trained to; None takes what its configuration says.
        slow: alpha: dimensions that turn round less often in L tokens are interpolated.
        fast: beta: dimensions that turn round more often stay as they are.
        tempered: whether attention gets its temperature.
        formula: of the ramp between the two: "paper" is linear in the number of turns (sec. 3.2), "repo" in the number
            of the dimension, as the authors' code and transformers have it.
    """

    slow: float = 1.0
    fast: float = 32.0
    tempered: bool = True
    formula: Literal["paper", "repo"] = "paper"

    def __post_init__(self) -> None:
        """Refuse a ramp that does not rise, and a formula of nobody."""
        if not 0 < self.slow < self.fast or self.formula not in ("paper", "repo"):
            raise ConfigError(f"{self}: slow is above 0 and below fast, and formula is paper or repo.")
        _Longer.__post_init__(self)

    def turned(self, frequencies: Tensor, factor: float, original: int, own: float) -> tuple[Tensor, float]:
        """Interpolated by parts, with the temperature."""
        ramp = by_parts if self.formula == "paper" else by_parts_of_index
        changed = ramp(frequencies, factor, original, self.slow, self.fast)
        return changed, temperature(factor) if self.tempered else 1.0
