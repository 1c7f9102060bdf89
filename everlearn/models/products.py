"""Sums over the entries of B A without the matrix: it is made, and its gradient taken, a block of rows at a time."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

ENTRIES = 1 << 20
"""Most entries of B A that are there at once."""

Term = Callable[[Tensor, int], tuple[Tensor, Tensor]]
"""From rows of B A and the number of the first to the sum of their terms and each term's derivative."""


def product_l1(b: Tensor, a: Tensor) -> Tensor:
    """Sum of |entry| over B A; the derivative at 0 is 0.

    Args:
        b: (out, rank).
        a: (rank, in).
    """

    def term(rows: Tensor, start: int) -> tuple[Tensor, Tensor]:
        return rows.abs().sum(), rows.sign()

    return _sum(b, a, term)


def product_overlap(b: Tensor, a: Tensor, old_b: Tensor, old_a: Tensor) -> Tensor:
    """Sum of the squares of the elementwise product of B A and a fixed B' A'.

    Args:
        b: (out, rank).
        a: (rank, in).
        old_b: (out, ranks); it gets no gradient.
        old_a: (ranks, in); it gets no gradient.
    """

    def term(rows: Tensor, start: int) -> tuple[Tensor, Tensor]:
        weight = (old_b[start : start + len(rows)] @ old_a) ** 2
        return (weight * rows**2).sum(), 2 * weight * rows

    return _sum(b, a, term)


def product_square(b: Tensor, a: Tensor) -> Tensor:
    """Sum of the squares of B A: tr(B'B A A'), which needs nothing larger than the ranks.

    Args:
        b: (out, rank).
        a: (rank, in).
    """
    return ((b.T @ b) * (a @ a.T)).sum()


def _sum(b: Tensor, a: Tensor, term: Term) -> Tensor:
    found: Tensor = _Sum.apply(b, a, term)  # type: ignore[no-untyped-call]
    return found


class _Sum(torch.autograd.Function):
    """The gradient is known as soon as the value is, and takes no more room than A and B."""

    @staticmethod
    def forward(ctx: FunctionCtx, b: Tensor, a: Tensor, term: Term) -> Tensor:
        grad_b, grad_a, total = torch.zeros_like(b), torch.zeros_like(a), a.new_zeros(())
        step = max(1, ENTRIES // a.shape[1])
        for start in range(0, len(b), step):
            part = b[start : start + step]
            value, slope = term(part @ a, start)
            total += value
            grad_b[start : start + step] = slope @ a.T
            grad_a += part.T @ slope
        ctx.save_for_backward(grad_b, grad_a)
        return total

    @staticmethod
    def backward(ctx: FunctionCtx, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        grad_b, grad_a = ctx.saved_tensors  # type: ignore[attr-defined]
        (grad,) = upstream
        return grad * grad_b, grad * grad_a, None
