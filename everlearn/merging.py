"""The arithmetic of merging: functions on tensors. No files, no models; what is random comes from a given source.

Several fine-tuned models theta_i of one base theta_0 become one. What is merged is mostly what each has changed,
tau_i = theta_i - theta_0 (a task vector, arXiv:2212.04089). A block is (rows, columns): some rows of a matrix, or all
of a vector as one row. Blocks are as large as memory allows; a result does not depend on where they are cut.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from everlearn.errors import MethodError

Blocks = Callable[[], Iterable[Tensor]]
"""Gives a tensor's blocks in order, again whenever it is called."""

Vector = Mapping[str, Blocks]
"""All weights of a model, or what it has changed, by name."""

Running = tuple[Tensor, ...]
"""What is known of the models seen so far, in tensors that do not grow with their number."""

PARALLEL = 0.9995
"""Cosine from which two directions count as one."""


def rows_of(tensor: Tensor) -> Tensor:
    """A tensor as a block: a matrix as it is, a vector as one row, dimensions after the first as one."""
    return tensor.reshape(1, -1) if tensor.ndim < 2 else tensor.flatten(1)


def fresh(tensor: Tensor) -> Tensor:
    """A copy in float64: products of matrices differ in their last bit by where their tensors lie in memory."""
    return tensor.detach().to(torch.float64, copy=True)


def every(vector: Vector) -> Blocks:
    """All blocks of all tensors of a vector, as one."""
    return lambda: (block for blocks in vector.values() for block in blocks())


def top_threshold(blocks: Blocks, fraction: float) -> float:
    """The magnitude of the round(fraction n)-th largest of all n entries, exactly; infinity where that is none.

    A magnitude is ordered as its bits are, so entries are counted by 16 bits at a time, from the highest: two passes
    over float32, four over float64, and memory for 65536 counts whatever n is.

    Args:
        blocks: all in one of these dtypes.
        fraction: in [0, 1].

    Raises:
        MethodError: if what is found is not finite.
    """
    wide = any(block.dtype == torch.float64 for block in itertools.islice(blocks(), 1))
    floats, whole = (torch.float64, torch.int64) if wide else (torch.float32, torch.int32)
    prefix, rank = 0, -1
    for shift in range(floats.itemsize * 8 - 16, -1, -16):
        counts = torch.zeros(2**16, dtype=torch.int64)
        for block in blocks():
            bits = block.detach().cpu().to(floats).abs().reshape(-1).view(whole) >> shift
            counts += torch.bincount(bits[bits >> 16 == prefix] & 0xFFFF, minlength=2**16)
        rank = int(fraction * int(counts.sum()) + 0.5) if rank < 0 else rank
        if rank == 0:
            return math.inf
        above = counts.flip(0).cumsum(0)  # entries in this bucket or a higher one, from the highest
        place = int((above < rank).sum())
        bucket = 2**16 - 1 - place
        rank -= int(above[place] - counts[bucket])
        prefix = prefix << 16 | bucket
    found = float(torch.tensor([prefix], dtype=whole).view(floats)[0])
    if not math.isfinite(found):
        raise MethodError("what is to be merged holds nan or infinity; find the model that does, and leave it out.")
    return found


def band(block: Tensor, low: float, high: float = math.inf) -> Tensor:
    """Entries whose magnitude is in [low, high); zero elsewhere."""
    size = block.abs()
    return torch.where((size >= low) & (size < high), block, 0)


def weighted_sum(running: Running | None, block: Tensor, weight: float) -> Running:
    """Sum of w tau so far, and of w."""
    total, weights = running or (torch.zeros_like(block), block.new_zeros(1, 1))
    return total + weight * block, weights + weight


def by_sign(running: Running | None, block: Tensor, weight: float = 1.0) -> Running:
    """What electing signs needs (TIES, arXiv:2306.01708): sums and weights of what is above zero and of what is below.

    The four tensors give for any number of models what the models themselves would: see `elected`.
    """
    up, down, above, below = running or tuple(torch.zeros_like(block) for _ in range(4))
    moved = weight * block
    return (
        up + moved.clamp_min(0),
        down + moved.clamp_max(0),
        above + torch.where(moved > 0, weight, 0.0),
        below + torch.where(moved < 0, weight, 0.0),
    )


def majority(folded: Iterable[Running]) -> float:
    """The sign, 1 or -1, of most entries' sums: that of sums of zero, as TIES has it; 1 in a draw."""
    score = sum(int(torch.sign(up + down).sum()) for up, down, _, _ in folded)
    return -1.0 if score < 0 else 1.0


def elected(running: Running, otherwise: float = 1.0) -> Tensor:
    """The mean of those entries that have the sign of the sum of all (TIES: elect and disjoint mean).

    Args:
        running: of `by_sign`.
        otherwise: the sign where the sum is zero.
    """
    up, down, above, below = running
    total = up + down
    positive = (total > 0) | ((total == 0) & (otherwise > 0))
    value, weight = torch.where(positive, up, down), torch.where(positive, above, below)
    return torch.where(weight != 0, value / torch.where(weight != 0, weight, 1.0), 0.0)


def larger(running: Running | None, block: Tensor) -> Running:
    """Entry by entry the one of largest magnitude, the later one where two are alike (MagMax, arXiv:2407.06322)."""
    return (block if running is None else torch.where(block.abs() >= running[0].abs(), block, running[0]),)


def dropped(block: Tensor, fraction: float | Tensor, rng: torch.Generator, rescale: bool = True) -> Tensor:
    """Entries set to zero at random, the others divided by their chance of staying (DARE, arXiv:2311.03099).

    Draws go on from where the source is, row by row, so that they do not depend on how a tensor is cut.

    Args:
        block: of tau.
        fraction: the chance p of being dropped, one for all or one for each.
        rng: on the CPU.
        rescale: whether to divide by 1 - p.
    """
    kept = torch.rand(block.shape, generator=rng).to(block.device) >= fraction
    return torch.where(kept, block / (1 - fraction) if rescale else block, 0)


def ranked(block: Tensor, fraction: float, spread: float) -> Tensor:
    """The chance of being dropped by rank of magnitude in each row (MagPrune of DELLA, arXiv:2406.11617).

    From fraction + spread / 2 for the smallest of a row to fraction - spread / 2 for the largest, in equal steps.
    """
    order = block.abs().argsort(dim=1, stable=True).argsort(1).to(block.dtype)  # 0 is the smallest
    last = max(block.shape[1] - 1, 1)
    middle = 0.0 if block.shape[1] > 1 else spread / 2
    chances: Tensor = fraction + spread / 2 - spread * order / last - middle
    return chances


def slerp_weights(dot: float, square_a: float, square_b: float, fraction: float) -> tuple[float, float]:
    """Factors of a and b in their spherical interpolation (Shoemake 1985), from <a, b>, <a, a> and <b, b>.

    omega is the angle between them; sin((1 - t) omega) / sin omega and sin(t omega) / sin omega. Linear where they are
    parallel within `PARALLEL`, or one is zero.
    """
    size = math.sqrt(square_a * square_b)
    cosine = max(-1.0, min(1.0, dot / size)) if size else 1.0
    if abs(cosine) > PARALLEL:
        return 1 - fraction, fraction
    angle = math.acos(cosine)
    return math.sin((1 - fraction) * angle) / math.sin(angle), math.sin(fraction * angle) / math.sin(angle)


def stock_ratio(cosine: float, count: int) -> float:
    """How far from the base towards the mean of k models (model stock, arXiv:2403.19522): k c / (1 + (k - 1) c).

    Args:
        cosine: c, the mean one between what two models changed; below zero counts as zero.
        count: k.
    """
    c = max(0.0, min(1.0, cosine))
    return count * c / (1 + (count - 1) * c) if count > 1 else 1.0


def apart_from(merged: Tensor, block: Tensor, fraction: float) -> Tensor:
    """What a matrix changes outside of what is merged already (OPCM, arXiv:2501.09522).

    With merged = U S V^T, in the bases U and V the diagonal of the new matrix is dropped, and the square of the first
    singular directions that come before the sum of singular values exceeds `fraction` of all.

    Args:
        merged: (out, in) what was merged so far; zero lets everything through.
        block: (out, in) what the next model changed.
        fraction: alpha.
    """
    u, s, vh = torch.linalg.svd(fresh(merged), full_matrices=False)
    if not float(s.sum()):
        return block
    split = int((s.cumsum(0) / s.sum() <= fraction).sum())
    inner = u.T @ fresh(block) @ vh.T
    known = torch.diag(inner.diagonal())  # directions past the smaller side have no counterpart, and all pass
    known[:split, :split] = inner[:split, :split]
    rest: Tensor = block.double() - u @ known @ vh
    return rest.to(block.dtype)


def cocktail_weights(losses: Sequence[float], temperature: float) -> list[float]:
    """softmax(-loss / temperature): the shares of models by their losses on a few examples (arXiv:2311.13534)."""
    shares: list[float] = torch.softmax(-torch.tensor(losses, dtype=torch.float64) / temperature, 0).tolist()
    return shares


def truncated(dense: Tensor, rank: int) -> tuple[Tensor, Tensor, float]:
    """The two factors of the nearest matrix of a rank, (out, rank) and (rank, in), and the square norm it lacks.

    Both factors carry the root of the singular values; a direction that is not there is zero in both.
    """
    wide = fresh(dense)
    tall = wide if dense.shape[0] <= dense.shape[1] else wide.T
    values, vectors = torch.linalg.eigh(tall @ tall.T)  # the smaller side: fast, and squares do no harm in float64
    left = vectors[:, -rank:].flip(1) if rank < len(values) else vectors.flip(1)
    right = left.T @ tall
    sizes = right.norm(dim=1)
    there = sizes > torch.finfo(torch.float32).eps * sizes.max().clamp_min(torch.finfo(torch.float32).tiny)
    root = torch.where(there, sizes, 1.0).sqrt()
    left, right = torch.where(there, left * root, 0.0), torch.where(there[:, None], right / root[:, None], 0.0)
    lost = max(0.0, float((tall**2).sum() - (sizes[there] ** 2).sum()))
    missing = rank - left.shape[1]
    left, right = torch.nn.functional.pad(left, (0, missing)), torch.nn.functional.pad(right, (0, 0, 0, missing))
    return (left, right, lost) if dense.shape[0] <= dense.shape[1] else (right.T, left.T, lost)


def greedy_soup(
    models: Sequence[Mapping[str, Tensor]], score: Callable[[Mapping[str, Tensor]], float]
) -> tuple[dict[str, Tensor], list[int]]:
    """Add to the mean, best first, each model with which the mean scores no worse (arXiv:2203.05482, recipe 1).

    Args:
        models: weights by name.
        score: of weights on held-out data; higher is better. Called once for each model and each mean.

    Returns:
        The mean's weights, and which models are in it, best first.

    Raises:
        MethodError: if there is no model.
    """
    if not models:
        raise MethodError("a soup of no models; give at least one.")
    scores = [score(model) for model in models]
    order = sorted(range(len(models)), key=lambda i: -scores[i])
    chosen, best = order[:1], scores[order[0]]
    soup = dict(models[order[0]])
    for index in order[1:]:
        trial = {n: soup[n] + (w - soup[n]) / (len(chosen) + 1) for n, w in models[index].items()}
        if (value := score(trial)) >= best:
            soup, best, chosen = trial, value, [*chosen, index]
    return soup, chosen


def iterate(vector: Vector) -> Iterator[tuple[str, Tensor]]:
    """Each tensor's name with each of its blocks."""
    for name, blocks in vector.items():
        for block in blocks():
            yield name, block
