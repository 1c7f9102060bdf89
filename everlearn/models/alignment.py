"""Embeddings of two versions in one space: how far they have drifted apart, and back by a rotation.

Training on may turn the whole space of embeddings without changing what they mean to each other; what was computed from
the old ones (an index, a model that takes them as features) is then worthless. The orthogonal Procrustes problem
(Schonemann 1966) finds the rotation that brings one set nearest to the other, from rows that both have.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from everlearn.errors import ModelError


@dataclass(frozen=True)
class Drift:
    """How far rows have moved, as they are and after the rotation that brings them nearest.

    Args:
        rows: how many were compared.
        moved: ||after - before|| / ||before||, Frobenius.
        residual: the same after rotation: what is no turn of the whole space.
        cosine: mean over rows between before and after.
        aligned_cosine: the same after rotation.
        turned: ||R - I|| / (2 sqrt(D)): 0 where nothing turned, 1 where every axis was reversed.
    """

    rows: int
    moved: float
    residual: float
    cosine: float
    aligned_cosine: float
    turned: float


def rotation(source: Tensor, target: Tensor) -> Tensor:
    """(D, D) the orthogonal R that makes ||source R - target|| least: U V^T, where source^T target = U S V^T.

    Args:
        source: (N, D) rows.
        target: (N, D) the same rows in the other space.

    Raises:
        ModelError: if they are not of one shape.
    """
    if source.shape != target.shape or source.ndim != 2:
        raise ModelError(
            f"rows of {tuple(source.shape)} and {tuple(target.shape)} cannot be aligned; give those that both have."
        )
    left, _, right = torch.linalg.svd(source.double().T @ target.double())
    found: Tensor = left @ right
    return found.to(source.dtype)


def drift(before: Tensor, after: Tensor) -> Drift:
    """Report how rows have moved between two versions.

    Args:
        before: (N, D) rows of the older version.
        after: (N, D) the same rows of the newer one.

    Raises:
        ModelError: if they are not of one shape.
    """
    turn = rotation(after, before).double()
    old, new = before.double(), after.double()
    back, length, size = new @ turn, old.norm(), len(turn)
    return Drift(
        rows=len(old),
        moved=float((new - old).norm() / length),
        residual=float((back - old).norm() / length),
        cosine=float(cosine_similarity(new, old).mean()),
        aligned_cosine=float(cosine_similarity(back, old).mean()),
        turned=float((turn - torch.eye(size, dtype=turn.dtype, device=turn.device)).norm() / (2 * size**0.5)),
    )


def aligned(rows: Tensor, old: Tensor, shared: int | Tensor) -> Tensor:
    """(M, D) all rows of a newer version in an older one's space.

    Args:
        rows: (M, D) of the newer version, new tokens included.
        old: (N, D) of the older one.
        shared: the rows that both have: the first so many, or their numbers.
    """
    own = torch.arange(shared) if isinstance(shared, int) else shared
    return rows @ rotation(rows[own], old[own])
