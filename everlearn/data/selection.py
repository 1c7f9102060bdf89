"""Which examples stand for all of a set, by their features: herding, and the centres of k-means.

Everything is computed in double precision and draws nothing at random, so that the same features always give the same
choice.
"""

from typing import Literal

import torch
from torch import Tensor

Formula = Literal["paper", "repo"]


def herd(features: Tensor, count: int, formula: Formula = "paper") -> list[int]:
    """Examples in an order in which the mean of the first k is close to the mean of all, for every k (iCaRL, alg. 4).

    "paper" takes next what brings the mean of those taken closest to the mean of all: the argmin over x of
    |mu - (x + sum of those taken) / k| (arXiv:1611.07725). "repo" is the authors' code: the argmax of w . x, where w is
    mu / |mu| at first and grows by mu / |mu| - x with each x taken.

    Args:
        features: (N, D).
        count: how many to take; N at most are.
        formula: see above.
    """
    points = features.double()
    mean = points.mean(0)
    if formula == "repo":
        mean = mean / mean.norm().clamp_min(torch.finfo(mean.dtype).tiny)
    free, total, taken = torch.ones(len(points), dtype=torch.bool), torch.zeros_like(mean), list[int]()
    for k in range(1, min(count, len(points)) + 1):
        near = points @ (k * mean - total) if formula == "repo" else -(mean - (points + total) / k).norm(dim=1)
        taken.append(int(near.masked_fill(~free, -torch.inf).argmax()))
        free[taken[-1]] = False
        total = total + points[taken[-1]]
    return taken


def representatives(features: Tensor, count: int, rounds: int = 20) -> list[int]:
    """For each of `count` clusters of k-means the example nearest to its centre, those of the largest clusters first.

    Args:
        features: (N, D).
        count: clusters; N at most.
        rounds: most times that the centres are moved.
    """
    points = features.double()
    if not min(count, len(points)):
        return []
    return _nearest(torch.cdist(points, _centres(points, min(count, len(points)), rounds)))


def proportional(features: Tensor, clusters: int, count: int, rounds: int = 20) -> list[int]:
    """From each cluster of k-means as large a share as it has of all, what is nearest to its centre first.

    The order is that of (rank in the cluster - 1/2) / size of the cluster, so that any beginning of it is divided among
    the clusters in proportion, as seats are among parties by Sainte-Lague's rule.

    Args:
        features: (N, D).
        clusters: N at most.
        count: how many to take; N at most are.
        rounds: most times that the centres are moved.
    """
    points = features.double()
    if not min(count, len(points)):
        return []
    distances = torch.cdist(points, _centres(points, min(clusters, len(points)), rounds))
    places = torch.zeros(len(points), dtype=torch.float64)
    for cluster in range(distances.shape[1]):
        mine = (distances.argmin(1) == cluster).nonzero()[:, 0]
        order = mine[distances[mine, cluster].argsort(stable=True)]
        places[order] = (torch.arange(len(order)) + 0.5).double() / max(len(order), 1)
    return [int(i) for i in places.argsort(stable=True)[:count]]


def _centres(points: Tensor, count: int, rounds: int) -> Tensor:
    """The centres of k-means by Lloyd's rule, (count, D); one that loses all its points stays where it is."""
    centres = points[_spread(points, count)]
    for _ in range(rounds):
        nearest = torch.cdist(points, centres).argmin(1)
        sizes = torch.bincount(nearest, minlength=count)[:, None]
        sums = torch.zeros_like(centres).index_add_(0, nearest, points)
        moved = torch.where(sizes > 0, sums / sizes.clamp_min(1), centres)
        if torch.equal(moved, centres):
            break
        centres = moved
    return centres


def _spread(points: Tensor, count: int) -> list[int]:
    """The point nearest to the mean, then again and again the one farthest from those taken (Gonzalez 1985)."""
    taken = [int((points - points.mean(0)).norm(dim=1).argmin())]
    distance = (points - points[taken[0]]).norm(dim=1)
    while len(taken) < count:
        taken.append(int(distance.argmax()))
        distance = torch.minimum(distance, (points - points[taken[-1]]).norm(dim=1))
        distance[taken] = -1.0  # equal points are taken last, and none twice
    return taken


def _nearest(distances: Tensor) -> list[int]:
    """For each centre, the largest cluster first, the nearest point that no centre before it has taken."""
    sizes = torch.bincount(distances.argmin(1), minlength=distances.shape[1])
    taken: list[int] = []
    for centre in sizes.argsort(descending=True, stable=True).tolist():
        column = distances[:, centre].clone()
        column[taken] = torch.inf
        taken.append(int(column.argmin()))
    return taken
