"""Subspaces that grow: those of inputs, by second moments (GPM, arXiv:2103.09762; DualGPM, arXiv:2404.00228)."""

from dataclasses import dataclass

import torch
from torch import Tensor

NOTHING = 1e-10
"""Directions with a smaller share of the largest energy are rounding."""


@dataclass(frozen=True)
class Subspace:
    """A subspace by an orthonormal basis of it, or of its complement, whichever is smaller.

    Args:
        basis: (in, k).
        complement: whether the basis is that of the complement.
    """

    basis: Tensor
    complement: bool = False

    @classmethod
    def empty(cls, like: Tensor) -> "Subspace":
        """The subspace {0} of the space of a moment, (in, in)."""
        return cls(like.new_zeros(len(like), 0))

    def off(self, x: Tensor) -> Tensor:
        """(in, n) columns without their part in the subspace."""
        inside = self.basis @ (self.basis.T @ x)
        return inside if self.complement else x - inside

    def grown(self, directions: Tensor) -> "Subspace":
        """The subspace with more directions.

        Args:
            directions: (in, r), orthonormal and orthogonal to the subspace.
        """
        if not directions.shape[1]:
            return self
        if self.complement:
            return Subspace(self.basis @ _rest(self.basis.T @ directions), True)
        both = torch.linalg.qr(torch.cat([self.basis, directions], 1))[0]
        return Subspace(_rest(both), True) if both.shape[1] > len(both) / 2 else Subspace(both)


def spectrum(moment: Tensor, old: Subspace, squared: bool) -> tuple[Tensor, Tensor]:
    """The strongest directions off a subspace, (in, n) from the strongest on, and the energy of each, (n,).

    Args:
        moment: (in, in), of inputs.
        old: what the directions are orthogonal to.
        squared: whether the singular value decomposition is that of the moment with its columns projected, and the
            energy a squared singular value: a fourth power of the inputs' size. Otherwise that of the projected inputs
            themselves, whose energy is their mean square along a direction.
    """
    if squared:
        vectors, values, _ = torch.linalg.svd(old.off(moment))
        energy = values**2
    else:
        values, vectors = torch.linalg.eigh(old.off(old.off(moment).T))
        energy, vectors = values.flip(0).clamp_min(0), vectors.flip(1)
    there = energy > NOTHING * _total(moment, squared)
    return old.off(vectors[:, there]), energy[there]


def grow(old: Subspace, moment: Tensor, threshold: float, squared: bool) -> Subspace:
    """The subspace with the fewest directions more that hold a fraction of the energy of a moment.

    Args:
        old: the subspace so far.
        moment: (in, in), of new inputs.
        threshold: the fraction.
        squared: see `spectrum`.
    """
    vectors, energy = spectrum(moment, old, squared)
    total = _total(moment, squared)
    covered: Tensor = total - energy.sum()
    lacking = covered + torch.cat([energy.new_zeros(1), energy.cumsum(0)]) < threshold * total - NOTHING * total
    return old.grown(vectors[:, : int(lacking.sum())])


def _total(moment: Tensor, squared: bool) -> Tensor:
    total: Tensor = moment.square().sum() if squared else moment.trace()
    return total


def _rest(basis: Tensor) -> Tensor:
    """(n, n - k) an orthonormal basis of what is orthogonal to the columns of (n, k)."""
    whole: Tensor = torch.linalg.qr(basis, mode="complete")[0]
    return whole[:, basis.shape[1] :]
