"""Weighted distances from anchors: what all penalties on the movement of weights are made of.

Anchors and importances are kept in float32 at least, whatever the parameters are stored in. A penalty is a sum, or a
mean over the parameters, of importance times squared drift; it and its gradient are zero at the anchor.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from everlearn.errors import ConfigError
from everlearn.method import Method

Tensors = Mapping[str, Tensor]


def copies(parameters: Tensors) -> dict[str, Tensor]:
    """Copies without gradients, in float32 at least: 4 bytes a parameter, 8 where it is float64."""
    return {name: p.detach().to(precise(p), copy=True) for name, p in parameters.items()}


def zeros(parameters: Tensors) -> dict[str, Tensor]:
    """Zeros of the same shapes, in float32 at least."""
    return {name: torch.zeros_like(p, dtype=precise(p)) for name, p in parameters.items()}


def precise(tensor: Tensor) -> torch.dtype:
    """The dtype in which sums over a tensor like this one are kept: its own, or float32 for half precision."""
    return torch.promote_types(tensor.dtype, torch.float32)


def drift(parameters: Tensors, anchor: Tensors, weight: Tensors | None = None, mean: bool = False) -> Tensor:
    """Sum of weight * (theta - anchor)^2 over the parameters that have an anchor and a weight; differentiable.

    Args:
        parameters: theta, by name.
        anchor: where they are pulled to.
        weight: importance of each element; None takes 1.
        mean: whether the sum is divided by the number of elements it goes over.
    """
    known = anchor.keys() if weight is None else anchor.keys() & weight.keys()
    held = {name: p for name, p in parameters.items() if name in known}
    terms = [_square(p, anchor[name], None if weight is None else weight[name]) for name, p in held.items()]
    return total(terms) / (max(1, count(held)) if mean else 1)


def total(terms: list[Tensor]) -> Tensor:
    """The sum of scalars; 0 where there are none."""
    return torch.stack(terms).sum() if terms else torch.zeros(())


def count(tensors: Tensors) -> int:
    """Number of elements in all."""
    return sum(t.numel() for t in tensors.values())


def mean(tensors: Tensors) -> float:
    """The mean over all elements of all tensors."""
    return float(total([t.sum() for t in tensors.values()])) / max(1, count(tensors))


def with_mean_one(tensors: Tensors) -> dict[str, Tensor]:
    """The same up to a factor, with mean 1 over all elements of all tensors; zeros stay zeros."""
    scale = max(mean(tensors), torch.finfo(torch.float32).tiny)
    return {name: t / scale for name, t in tensors.items()}


def plus(a: Tensors, b: Tensors) -> dict[str, Tensor]:
    """The sum by name; what stands on one side only stays as it is."""
    return dict(a) | {name: a[name] + t if name in a else t for name, t in b.items()}


def require_strength(method: Method, strength: float) -> None:
    """Refuse a strength that is negative, infinite or no number.

    Raises:
        ConfigError: naming the method.
    """
    if not 0 <= strength < float("inf"):
        raise ConfigError(f"{method}: strength is 0 or more, and finite.")


def _square(parameter: Tensor, anchor: Tensor, weight: Tensor | None) -> Tensor:
    moved = (parameter.to(anchor.dtype) - anchor.to(parameter.device)) ** 2
    return moved.sum() if weight is None else (weight.to(parameter.device) * moved).sum()
