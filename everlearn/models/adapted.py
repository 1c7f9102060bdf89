"""A frozen linear layer and what adapters add to it: one matrix product that half precision does not swallow.

In half precision, W x is rounded before B A x is added to it, and what is smaller than half a unit in the last place
of W x is lost: a young adapter is scored as if it had learned half of what it has. Here both are one matrix product
over joined inputs, [x | A x] [W | B]^T, accumulated in float32 and rounded once. With a float32 or float64 layer the
plain formula is exact enough.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn.functional import dropout, linear

from everlearn.errors import ModelError

HALF = (torch.bfloat16, torch.float16)
KINDS = (*HALF, torch.float32, torch.float64)

Join = Callable[[int], Tensor]
"""Gives (out, in + width), a layer's weight with room for so many columns beside it."""

Pairs = tuple[Sequence[Tensor], Sequence[Tensor]]


class Adapted(nn.Module, ABC):
    """A frozen linear layer and a sum of low-rank updates: y = W x + b + sum_i B_i A_i x.

    What the updates are is said by `pairs`; the forward pass, its gradients and folding are here.

    Args:
        base: the layer to adapt, linear or GPT-2's transposed kind; it is frozen.
        dropout: probability of dropping each input of what learns, while learning.

    Raises:
        ModelError: if the layer's weight is quantised.
    """

    def __init__(self, base: nn.Module, dropout: float = 0.0) -> None:
        super().__init__()
        self.base, self.dropout = base.requires_grad_(False), dropout
        if self.weight.dtype not in KINDS:
            raise ModelError(
                f"a linear layer's weights are {self.weight.dtype}, and adapters go on floating-point ones; load the "
                "model without quantisation."
            )
        self._joined: Tensor | None = None
        self._apart = False
        self._settled: Tensor | None = None

    @abstractmethod
    def pairs(self) -> Pairs:
        """The A, each (rank, in) and scaled, and the B, each (out, rank), in the adapters' precision.

        All ranks together are the columns beside W. Pairs of which nothing learns get no gradient and no dropout.
        """

    def weigh(self, inner: Tensor, x: Tensor) -> Tensor:
        """Side for updates that depend on the input otherwise than linearly.

        Args:
            inner: (..., ranks), the A x of all pairs beside each other.
            x: (..., in).
        """
        return inner

    @property
    def weight(self) -> Tensor:
        """(out, in) of the frozen layer alone; a view."""
        return matrix(self.base)

    @property
    def bias(self) -> Tensor | None:
        """(out,) of the frozen layer, or None."""
        bias = self.base.bias
        assert bias is None or isinstance(bias, Tensor)
        return bias

    @property
    def in_features(self) -> int:
        """Width of the input."""
        return self.weight.shape[1]

    @property
    def out_features(self) -> int:
        """Width of the output."""
        return self.weight.shape[0]

    @property
    def kind(self) -> torch.dtype:
        """The adapters' precision: float32, or float64 for a float64 layer."""
        return torch.float32 if self.weight.dtype in HALF else self.weight.dtype

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        return self.output(x, self.bias)

    def output(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """W x + bias + what is added, (..., out)."""
        if self._settled is not None and self._joined is not None:
            inner = self.weigh(linear(x, self._settled), x)
            return linear(torch.cat([x, inner], -1), self._joined, bias)
        downs, ups = self.pairs()
        if not downs:
            return linear(x, self.weight, bias)
        inner = self.weigh(self._inner(x, downs, ups), x)
        if self.weight.dtype in HALF:
            return _Joined.apply(x, inner, self._join, bias, *ups)  # type: ignore[no-any-return, no-untyped-call]
        y = linear(x, self.weight, bias)
        for part, up in zip(torch.split(inner, [up.shape[1] for up in ups], -1), ups, strict=True):
            y = y + linear(part, up)
        return y

    def delta(self) -> Tensor:
        """(out, in) what the adapters add to the weight, in their precision."""
        total = torch.zeros(self.weight.shape, dtype=self.kind, device=self.weight.device)
        with torch.no_grad():
            for down, up in zip(*self.pairs(), strict=True):
                total = total.addmm_(up, down)
        return total

    def folded(self) -> Tensor:
        """(out, in) the weight of the linear layer that does the same, in the adapters' precision.

        Raises:
            ModelError: if no linear layer does.
        """
        return self.weight.to(self.kind) + self.delta()

    def separate(self) -> None:
        """Give W a place of its own for good: one that is sharded is there during a pass alone, and copied in each."""
        self._apart, self._joined = True, None
        self.base.weight.data = self.weight.T.contiguous() if is_transposed(self.base) else self.weight.contiguous()

    def settle(self) -> None:
        """Write the B beside W and keep the scaled A, as `forward` does in each pass, until `unsettle`.

        For half precision in evaluation alone: until then a change of A or B is not seen, and nothing has a gradient.
        """
        if self.weight.dtype in HALF:
            with torch.no_grad():
                downs, ups = self.pairs()
                _write(self._join(sum(up.shape[1] for up in ups)), ups)
                self._settled = torch.cat([d.to(self.weight.dtype) for d in downs]) if downs else None

    def unsettle(self) -> None:
        """Follow A and B again."""
        self._settled = None

    def _inner(self, x: Tensor, downs: Sequence[Tensor], ups: Sequence[Tensor]) -> Tensor:
        parts = []
        for down, up in zip(downs, ups, strict=True):
            learns = down.requires_grad or up.requires_grad
            kept = dropout(x, self.dropout, self.training) if learns else x
            parts.append(linear(kept, down.to(x.dtype)))
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)

    def _join(self, width: int) -> Tensor:
        """(out, in + width), whose first columns are W: it lives there, so that it is not copied in each pass."""
        weight, joined = self.weight, self._joined
        if self._apart:
            return torch.cat([weight, weight.new_zeros(self.out_features, width)], 1).detach()
        size = self.in_features + width
        if joined is None or joined.data_ptr() != weight.data_ptr() or joined.shape[1] != size:
            with torch.inference_mode(False), torch.no_grad():  # else a first pass in inference could not be followed
                joined = self._joined = torch.cat([weight, weight.new_zeros(self.out_features, width)], 1)
                view = joined[:, : size - width]
                self.base.weight.data = view.T if is_transposed(self.base) else view
        return joined


class _Joined(torch.autograd.Function):
    """y = [x | inner] [W | B_1 | B_2 | ...]^T + bias; no gradient for W, bias and a frozen B.

    The B are written beside W anew in each pass, forward and backward, since in between it may have been another's
    turn.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, inner: Tensor, join: Join, bias: Tensor | None, *ups: Tensor) -> Tensor:
        joined = join(inner.shape[-1])
        _write(joined, ups)
        ctx.save_for_backward(inner, *ups)
        ctx.join = join  # type: ignore[attr-defined]  # [W | B] saved would be refused once B is written again
        return linear(torch.cat([x, inner], -1), joined, bias)

    @staticmethod
    def backward(ctx: FunctionCtx, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        inner, *ups = ctx.saved_tensors  # type: ignore[attr-defined]
        width, (grad,) = inner.shape[-1], upstream
        joined = ctx.join(width)  # type: ignore[attr-defined]
        _write(joined, ups)
        both = grad @ joined
        parts = torch.split(inner, [up.shape[1] for up in ups], -1)
        needed = ctx.needs_input_grad[4:]  # type: ignore[attr-defined]
        grads = [
            (grad.flatten(0, -2).T @ part.flatten(0, -2)).to(up.dtype) if needs else None
            for part, up, needs in zip(parts, ups, needed, strict=True)
        ]
        return both[..., :-width], both[..., -width:], None, None, *grads


def adapted(module: nn.Module) -> dict[str, Adapted]:
    """The adapted layers of any kind, by name."""
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, Adapted)}


def is_transposed(layer: nn.Module) -> bool:
    """Whether a layer is GPT-2's kind of linear layer, which keeps its weight as (in, out)."""
    return type(layer).__name__ == "Conv1D"


def matrix(layer: nn.Module) -> Tensor:
    """A linear layer's weight as (out, in); a view."""
    weight = layer.get_parameter("weight")
    return weight.T if is_transposed(layer) else weight


def _write(joined: Tensor, ups: Sequence[Tensor]) -> None:
    end = joined.shape[1] - sum(up.shape[1] for up in ups)
    for up in ups:
        joined[:, end : end + up.shape[1]] = up
        end += up.shape[1]
