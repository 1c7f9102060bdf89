"""An adapter with a routing matrix between its two factors (C-LoRA, arXiv:2502.17920)."""

from typing import ClassVar

import torch
from torch import nn

from everlearn.models.adapted import Pairs
from everlearn.models.lora import Paired


class RoutingLinear(Paired):
    """A frozen linear layer and one adapter: y = W x + b + scale B (old + R) A x.

    R (rank, rank), which learns, is the identity at first, and `old`, which is fixed, is zero: a plain adapter. A and B
    learn through R alone: the old path takes part in the value and in no gradient. The arguments are those of `Paired`.
    """

    learns: ClassVar[tuple[str, ...]] = ("A", "B", "R")

    def __init__(self, base: nn.Module, rank: int, scale: float, dropout: float = 0.0) -> None:
        super().__init__(base, rank, scale, dropout)
        self.R = nn.Parameter(torch.eye(rank, dtype=self.kind, device=self.weight.device))
        self.old = nn.Parameter(torch.zeros_like(self.R), requires_grad=False)

    def pairs(self) -> Pairs:
        """The old path, without gradients, and the new one, each with its routing in A."""
        old = (self.scale * self.old @ self.A).detach()
        return (old, self.scale * self.R @ self.A), (self.B.detach(), self.B)


def routings(module: nn.Module) -> dict[str, RoutingLinear]:
    """The layers with such an adapter, by name."""
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, RoutingLinear)}
