"""DoRA: a weight as the length of each of its rows times a direction, which an adapter turns (arXiv:2402.09353)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from everlearn.errors import ModelError
from everlearn.models.adapted import Adapted, Pairs
from everlearn.models.lora import chosen, fresh_pair, replace


class DoRALinear(Adapted):
    """A frozen linear layer, its adapter, and a learned length of each row: y = m (W' / ||W'||) x + b, W' = W + s B A.

    The norm is that of each row of W', and a constant in the backward pass. Dropout acts on the input of A alone; PEFT
    drops inputs of W too, in the part (m / ||W'|| - 1) W x.

    Args:
        base: the layer to adapt, linear or GPT-2's transposed kind; it is frozen.
        rank: r, the inner width of the adapter.
        scale: s.
        dropout: probability of dropping each input of A while learning.

    Raises:
        ModelError: if the layer's weight is quantised.
    """

    def __init__(self, base: nn.Module, rank: int, scale: float, dropout: float = 0.0) -> None:
        super().__init__(base, dropout)
        self.rank, self.scale = rank, scale
        self.A, self.B = fresh_pair(self, rank)
        self.length = nn.Parameter(self.norms())

    def pairs(self) -> Pairs:
        """The one pair."""
        return (self.scale * self.A,), (self.B,)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        y = self.output(x, None) * (self.length / self.norms()).to(x.dtype)
        return y if self.bias is None else y + self.bias

    def folded(self) -> Tensor:
        """(out, in) the weight of the linear layer that does the same."""
        with torch.no_grad():
            return (self.length / self.norms())[:, None] * super().folded()

    def norms(self) -> Tensor:
        """(out,) the lengths of the rows of W + s B A, without a gradient.

        ||w + s b A||^2 = ||w||^2 + 2 s b A w + s^2 b A A^T b: no matrix of the weight's size is made.
        """
        with torch.no_grad():
            weight, a, b = self.weight, self.scale * self.A, self.B
            square = torch.linalg.vector_norm(weight, dim=1, dtype=self.kind) ** 2
            inner = 2 * linear(weight, a.to(weight.dtype)).to(self.kind) + b @ (a @ a.T)
            total: Tensor = square + (inner * b).sum(1)
            return total.clamp_min(0).sqrt()


def wrap_dora(module: nn.Module, targets: str | Sequence[str], rank: int, scale: float, dropout: float = 0.0) -> None:
    """Give each target layer a DoRA adapter and freeze everything else; a layer that has one like it keeps it.

    Args:
        module: a model.
        targets: see `everlearn.models.lora.wrap`.
        rank: of each adapter.
        scale: see `DoRALinear`.
        dropout: see `DoRALinear`.

    Raises:
        ModelError: if a target names no linear layer, or one with an adapter that is not alike.
    """
    module.requires_grad_(False)
    for name in chosen(module, targets):
        layer = module.get_submodule(name)
        if not isinstance(layer, Adapted):
            layer = DoRALinear(layer, rank, scale, dropout)
            replace(module, name, layer)
        if not isinstance(layer, DoRALinear) or (layer.rank, layer.scale, layer.dropout) != (rank, scale, dropout):
            raise ModelError(
                f"{name} has another adapter already; fold it into its layer, or ask for rank, scale and dropout as it "
                "has them."
            )
        for parameter in (layer.A, layer.B, layer.length):
            parameter.requires_grad_(True)
