"""One adapter for each experience: the old ones stay as they are, and all are added up."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from everlearn.method import Context, Method
from everlearn.methods.growing import Growing
from everlearn.models.bank import Shape
from everlearn.types import Memory


@dataclass(frozen=True)
class IncLoRA(Growing, Method):
    """A new adapter for each experience, on top of the frozen old ones (IncLoRA, a baseline of arXiv:2310.14152).

    y = W x + (alpha / rank) sum_i B_i A_i x, without any task identity. Folds into the base exactly. A version grows
    by 4 rank (in + out) bytes for each experience and adapted layer.

    Args:
        rank: of each adapter.
        alpha: scales each update by alpha / rank; None takes 2 * rank.
        targets: leaf names of the layers to adapt, such as ("q_proj", "v_proj"); "all-linear" takes all but the head.
        dropout: probability of dropping each input of the adapter that learns.
    """

    keeps: ClassVar[str] = "a count; a version gains an adapter"
    computes: ClassVar[str] = "all adapters, each pass"


@dataclass(frozen=True)
class SDLoRA(Growing, Method):
    """Freeze the directions of old adapters and learn how far to go along each (SD-LoRA, arXiv:2501.13198).

    y = W x + sum_{i<t} a_i B_i A_i / (||B_i||_F ||A_i||_F) x + a_t B_t A_t x: all a learn in every experience, with the
    last adapter alone. As in the official code the last adapter, whose B is zero at first, is not normalised while it
    learns. Folds into the base exactly. A version grows by 4 rank (in + out) + 4 bytes for each experience and adapted
    layer.

    Reconstruction: an adapter is normalised when its experience ends, and its length goes into its a, so that a new
    experience starts from the function that the last one has reached. There is no alpha: a takes its place.

    Args:
        rank: of each adapter.
        alpha: a at first is alpha / rank; None takes the official code's 0.8.
        targets: leaf names of the layers to adapt, such as ("q_proj", "v_proj"); "all-linear" takes all but the head.
        dropout: probability of dropping each input of all adapters while learning, since all have an a that learns.
    """

    keeps: ClassVar[str] = "a count; a version gains an adapter"
    computes: ClassVar[str] = "all adapters, each pass"

    def shape(self) -> Shape:
        """An adapter with a learned factor."""
        return Shape(self.rank, gain=0.8 if self.alpha is None else self.alpha / self.rank)

    def merge(
        self, memory: Memory, before: Mapping[str, Tensor], after: Mapping[str, Tensor], ctx: Context
    ) -> Mapping[str, Tensor]:
        """The same function, with the new adapter's length in its factor."""
        last, merged = memory["count"] - 1, dict(after)
        for name in after:
            layer, found, _ = name.rpartition(f".A.{last}")
            if found:
                merged |= _normalised(layer, last, after)
        return merged


def _normalised(layer: str, last: int, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    a, b, gain = (f"{layer}.{part}.{last}" for part in ("A", "B", "gain"))
    long, wide = weights[a].norm(), weights[b].norm()
    if not long * wide > 0:  # it has learned nothing, and has no direction
        return {}
    return {a: weights[a] / long, b: weights[b] / wide, gain: weights[gain] * long * wide}
