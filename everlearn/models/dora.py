"""DoRA: a weight as the length of each of its rows times a direction, which an adapter turns (arXiv:2402.09353)."""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from everlearn.models.lora import Paired


class DoRALinear(Paired):
    """A frozen linear layer, its adapter, and a learned length of each row: y = m (W' / ||W'||) x + b, W' = W + s B A.

    The norm is that of each row of W', and a constant in the backward pass. Dropout acts on the input of A alone; PEFT
    drops inputs of W too, in the part (m / ||W'|| - 1) W x.

    The arguments are those of `Paired`.
    """

    learns: ClassVar[tuple[str, ...]] = ("A", "B", "length")

    def __init__(self, base: nn.Module, rank: int, scale: float, dropout: float = 0.0) -> None:
        super().__init__(base, rank, scale, dropout)
        self.length = nn.Parameter(self.norms())

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
