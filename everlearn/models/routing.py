"""An adapter with a routing matrix between its two factors (C-LoRA, arXiv:2502.17920)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from everlearn.errors import ModelError
from everlearn.models.adapted import Adapted, Pairs
from everlearn.models.lora import chosen, fresh_pair, replace


class RoutingLinear(Adapted):
    """A frozen linear layer and one adapter: y = W x + b + scale B (old + R) A x.

    R (rank, rank), which learns, is the identity at first, and `old`, which is fixed, is zero: a plain adapter.

    Args:
        base: the layer to adapt, linear or GPT-2's transposed kind; it is frozen.
        rank: r, the inner width of the adapter.
        scale: factor of the adapter's output.
        dropout: probability of dropping each input of A while learning.

    Raises:
        ModelError: if the layer's weight is quantised.
    """

    old: Tensor

    def __init__(self, base: nn.Module, rank: int, scale: float, dropout: float = 0.0) -> None:
        super().__init__(base, dropout)
        self.rank, self.scale = rank, scale
        self.A, self.B = fresh_pair(self, rank)
        self.R = nn.Parameter(torch.eye(rank, dtype=self.kind, device=self.weight.device))
        self.register_buffer("old", torch.zeros_like(self.R), persistent=False)

    def pairs(self) -> Pairs:
        """The one pair, with the routing in A."""
        return (self.scale * (self.old + self.R) @ self.A,), (self.B,)


def wrap_routing(
    module: nn.Module, targets: str | Sequence[str], rank: int, scale: float, dropout: float = 0.0
) -> dict[str, RoutingLinear]:
    """Give each target layer such an adapter and freeze everything else; a layer that has one like it keeps it.

    Args:
        module: a model.
        targets: see `everlearn.models.lora.wrap`.
        rank: of each adapter.
        scale: see `RoutingLinear`.
        dropout: see `RoutingLinear`.

    Returns:
        The adapted layers by name.

    Raises:
        ModelError: if a target names no linear layer, or one with an adapter that is not alike.
    """
    module.requires_grad_(False)
    for name in chosen(module, targets):
        layer = module.get_submodule(name)
        if not isinstance(layer, Adapted):
            layer = RoutingLinear(layer, rank, scale, dropout)
            replace(module, name, layer)
        if not isinstance(layer, RoutingLinear) or (layer.rank, layer.scale, layer.dropout) != (rank, scale, dropout):
            raise ModelError(
                f"{name} has another adapter already; fold it into its layer, or ask for rank, scale and dropout as it "
                "has them."
            )
        for parameter in (layer.A, layer.B, layer.R):
            parameter.requires_grad_(True)
    return routings(module)


def routings(module: nn.Module) -> dict[str, RoutingLinear]:
    """The layers with such an adapter, by name."""
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, RoutingLinear)}
