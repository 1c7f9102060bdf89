"""Linear algebra of subspaces: bases that grow, and what is left of a tensor outside of them."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from everlearn.weights import Tensors

DEPENDENT = 1e-6
"""A vector is as good as inside a subspace if no more of its length than this is outside."""


def extended_directions(basis: Tensors, vector: Tensors) -> dict[str, Tensor]:
    """Orthonormal directions, (k, *shape) for each name, and the vector's own beside them where it has one."""
    rest = {n: torch.zeros_like(b[0]) for n, b in basis.items()} | dict(vector)
    for _ in range(2):  # what rounding leaves of the basis in the first pass, the second takes out
        rest = off_directions(rest, basis)
    length, count = _length(rest), max((len(b) for b in basis.values()), default=0)
    if length <= DEPENDENT * _length(vector):
        return dict(basis)
    old = {n: basis[n].to(t.device) if n in basis else t.new_zeros(count, *t.shape) for n, t in rest.items()}
    return {n: torch.cat([old[n], t[None] / length]) for n, t in rest.items()}


def off_directions(update: Tensors, basis: Tensors) -> dict[str, Tensor]:
    """A movement without its part in the span of orthonormal directions, (k, *shape) for each name."""
    known = {n: b.to(update[n].device, update[n].dtype).flatten(1) for n, b in basis.items() if n in update}
    if not known:
        return dict(update)
    along = torch.stack([b @ update[n].flatten() for n, b in known.items()]).sum(0)
    if len(known) < len(basis):  # a part of each direction lies in parameters that stand still now
        along = torch.linalg.pinv(torch.stack([b @ b.T for b in known.values()]).sum(0), hermitian=True) @ along
    return {n: u - (along @ known[n]).view_as(u) if n in known else u for n, u in update.items()}


def off_inputs(update: Tensor, basis: Tensor, turned: bool = False) -> Tensor:
    """A weight's movement (out, in), or (in, out) where turned, without its effect on inputs in a basis (in, k)."""
    if turned:
        return update - basis @ (basis.T @ update)
    return update - (update @ basis) @ basis.T


def extended_basis(basis: Tensor | None, vectors: Tensor, share: float) -> Tensor:
    """The fewest singular vectors beside a basis that hold, with it, a share of the vectors' energy.

    Args:
        basis: (d, k) orthonormal columns, or None.
        vectors: (d, n).
        share: of their squared length, in (0, 1].

    Returns:
        (d, k + what is new) orthonormal columns.
    """
    known = vectors.new_zeros(len(vectors), 0) if basis is None else basis.to(vectors.device)
    rest = vectors - known @ (known.T @ vectors)
    total, outside = float((vectors**2).sum()), float((rest**2).sum())
    slack = 10 * torch.finfo(vectors.dtype).eps
    left, values, _ = torch.linalg.svd(rest, full_matrices=False)
    held = total - outside + torch.cat([values.new_zeros(1), (values**2).cumsum(0)])
    count = int((held < (share - slack) * total).sum())
    count = min(count, len(vectors) - known.shape[1], left.shape[1])
    return laid_out(torch.linalg.qr(torch.cat([known, left[:, :count]], 1)).Q)


def laid_out(tensor: Tensor) -> Tensor:
    """A copy as a file would give it back: another order in memory would round products otherwise."""
    return tensor.clone(memory_format=torch.contiguous_format)


def precise(tensor: Tensor) -> torch.dtype:
    """A dtype in which sums keep their digits: float32, or float64 for float64."""
    return torch.promote_types(tensor.dtype, torch.float32)


def _length(vector: Mapping[str, Tensor]) -> float:
    return math.sqrt(sum(float((t**2).sum()) for t in vector.values()))
