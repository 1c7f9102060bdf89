"""Task vectors made sparse before they are added: by size, by chance, or both.

Memory as in `everlearn.methods.task_vectors`: 4 N bytes for the base's values and 4 N for each running tensor, of which
a sum is one and an election of signs four. All need the whole of each parameter in every process.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from everlearn.errors import ConfigError
from everlearn.merge_rules import Draw, Facts, Share, TaskVectors
from everlearn.merging import (
    Running,
    Vector,
    band,
    by_sign,
    dropped,
    elected,
    every,
    majority,
    ranked,
    top_threshold,
    weighted_sum,
)
from everlearn.method import Method

Formula = Literal["paper", "mergekit"]


@dataclass(frozen=True)
class TIES(TaskVectors):
    """Trim, elect a sign for each weight, and average what agrees with it (TIES, arXiv:2306.01708).

    Keeps the largest entries of each tau over the whole flattened vector, elects the sign of their sum, and averages
    those of that sign. Where a sum is exactly zero the sign of most others counts. Sums of what is above and below zero
    replace the experts themselves without any loss, so memory does not grow: 20 N bytes.

    The threshold is exact, and entries equal to it are all kept, in whichever number; the official code keeps one more.

    Args:
        density: the fraction k kept of each tau.
        scale: lambda.
        formula: "mergekit" trims each tensor by itself, and takes zero sums as positive.
        begins: where an expert's training begins: "base", "last" or "merged".
    """

    keeps: ClassVar[str] = "20 N in all"
    computes: ClassVar[str] = "a threshold of N, at the end"

    density: float = 0.2
    scale: float = 1.0
    formula: Formula = "paper"

    def __post_init__(self) -> None:
        """Refuse a density that keeps nothing."""
        _require(self, 0 < self.density <= 1, "density is in (0, 1]")

    def survey(self, vector: Vector, draw: Draw) -> Facts:
        """The smallest magnitude that is kept: one for all, or one for each tensor."""
        if self.formula == "paper":
            return {"": top_threshold(every(vector), self.density)}
        return {name: top_threshold(blocks, self.density) for name, blocks in vector.items()}

    def fold(self, running: Running | None, block: Tensor, share: Share) -> Running:
        """The trimmed entries, by sign."""
        return by_sign(running, band(block, share.fact), share.weight)

    def gather(self, folded: Iterable[tuple[str, Tensor, Running]], surveys: Sequence[Facts]) -> Facts:
        """The sign of most sums."""
        return {"": majority(r for _, _, r in folded) if self.formula == "paper" else 1.0}

    def close(self, base: Tensor, running: Running, fact: Any) -> Tensor:
        """The base plus the elected mean."""
        return base + self.scale * elected(running, fact)


@dataclass(frozen=True)
class DARE(TaskVectors):
    """Drop most of each task vector at random and enlarge the rest (DARE, arXiv:2311.03099), then add up or elect.

    Each entry stays with chance 1 - p and is divided by it. Works up to high p where changes are small, as after
    fine-tuning, and fails after continued pre-training, says the paper. Memory: 8 N bytes, 20 N with `elect`.

    Args:
        drop: p.
        elect: whether signs are elected as in TIES, of all entries left; else what is left is added up.
        scale: lambda.
        formula: "mergekit" enlarges the rest so that each tensor keeps its sum of magnitudes, in place of 1 / (1 - p).
        begins: where an expert's training begins: "base", "last" or "merged".
    """

    keeps: ClassVar[str] = "8 N (20 N with elect), in all"
    computes: ClassVar[str] = "sums over N, at the end"

    drop: float = 0.9
    elect: bool = False
    scale: float = 1.0
    formula: Formula = "paper"

    def __post_init__(self) -> None:
        """Refuse a chance that drops everything."""
        _require(self, 0 <= self.drop < 1, "drop is in [0, 1)")

    def survey(self, vector: Vector, draw: Draw) -> Facts:
        """For mergekit's form, by how much to enlarge what is left of each tensor."""
        return _growth(vector, draw, self._thinned) if self.formula == "mergekit" else {}

    def fold(self, running: Running | None, block: Tensor, share: Share) -> Running:
        """What is left, added up or by sign."""
        left = self._thinned(block, share.rng, share.fact)
        return (by_sign if self.elect else weighted_sum)(running, left, share.weight)

    def close(self, base: Tensor, running: Running, fact: Any) -> Tensor:
        """The base plus the sum or the elected mean."""
        return base + self.scale * (elected(running) if self.elect else running[0])

    def _thinned(self, block: Tensor, rng: torch.Generator, growth: float | None = 1.0) -> Tensor:
        if self.formula == "paper":
            return dropped(block, self.drop, rng)
        return dropped(block, self.drop, rng, rescale=False) * (growth if growth is not None else 1.0)


@dataclass(frozen=True)
class Breadcrumbs(TaskVectors):
    """Drop of each layer the outliers and the small changes, and add up the rest (arXiv:2312.06795).

    Of each tensor the round(outliers n) largest magnitudes go, and of the others the round(density n) largest stay.
    Memory: 8 N bytes.

    Args:
        density: the fraction of a tensor that stays.
        outliers: gamma, the fraction of the largest that goes.
        scale: alpha; the paper tunes it.
        begins: where an expert's training begins: "base", "last" or "merged".
    """

    keeps: ClassVar[str] = "8 N in all"
    computes: ClassVar[str] = "thresholds of N, at the end"

    density: float = 0.14
    outliers: float = 0.01
    scale: float = 0.3

    def __post_init__(self) -> None:
        """Refuse fractions that exceed a tensor."""
        fits = self.density > 0 and self.outliers >= 0 and self.density + self.outliers <= 1
        _require(self, fits, "density is above 0, outliers 0 or more, their sum at most 1")

    def survey(self, vector: Vector, draw: Draw) -> Facts:
        """The band of magnitudes that stays, for each tensor."""
        low, high = self.outliers + self.density, self.outliers
        return {n: (top_threshold(blocks, low), top_threshold(blocks, high)) for n, blocks in vector.items()}

    def fold(self, running: Running | None, block: Tensor, share: Share) -> Running:
        """The sum of what stays."""
        return weighted_sum(running, band(block, *share.fact), share.weight)

    def close(self, base: Tensor, running: Running, fact: Any) -> Tensor:
        """The base plus the scaled sum."""
        return base + self.scale * running[0]


@dataclass(frozen=True)
class DELLA(TaskVectors):
    """Drop small changes more often than large ones, enlarge the rest, elect and average (DELLA, arXiv:2406.11617).

    In each row of a matrix the chance of being dropped falls with the rank of the magnitude, evenly from
    p + spread / 2 to p - spread / 2 (MagPrune); what stays is divided by its own chance of staying. Then as TIES.
    Both ends are reached, by the smallest and the largest of a row, as in the authors' code (declare-lab/della,
    mergekit/sparsify.py, rank_magnitude, where a row's ranks are scaled to [0, 1]). Memory: 20 N bytes.

    Args:
        drop: p, the mean chance of being dropped.
        spread: epsilon, the code's window_size, from the least to the most likely; its example drops 0.3 with 0.14.
        scale: lambda; 1.1 in that example.
        formula: "mergekit" spreads twice as far, and enlarges so that each tensor keeps its sum of magnitudes.
        begins: where an expert's training begins: "base", "last" or "merged".
    """

    keeps: ClassVar[str] = "20 N in all"
    computes: ClassVar[str] = "ranks of rows of N, at the end"

    drop: float = 0.7
    spread: float = 0.2
    scale: float = 1.0
    formula: Formula = "paper"

    def __post_init__(self) -> None:
        """Refuse chances outside [0, 1)."""
        half = self._width / 2
        _require(self, self.spread >= 0 and self.drop - half >= 0 and self.drop + half < 1, "chances leave [0, 1)")

    def survey(self, vector: Vector, draw: Draw) -> Facts:
        """For mergekit's form, by how much to enlarge what is left of each tensor."""
        return _growth(vector, draw, self._thinned) if self.formula == "mergekit" else {}

    def fold(self, running: Running | None, block: Tensor, share: Share) -> Running:
        """What is left, by sign."""
        return by_sign(running, self._thinned(block, share.rng, share.fact), share.weight)

    def close(self, base: Tensor, running: Running, fact: Any) -> Tensor:
        """The base plus the elected mean."""
        return base + self.scale * elected(running)

    @property
    def _width(self) -> float:
        return self.spread * (2 if self.formula == "mergekit" else 1)

    def _thinned(self, block: Tensor, rng: torch.Generator, growth: float | None = 1.0) -> Tensor:
        chances = ranked(block, self.drop, self._width)
        if self.formula == "paper":
            return dropped(block, chances, rng)
        return dropped(block, chances, rng, rescale=False) * (growth if growth is not None else 1.0)


def _growth(vector: Vector, draw: Draw, thinned: Any) -> Mapping[str, float]:
    """For each tensor, its sum of magnitudes over that of what is left of it."""
    found = {}
    for name, blocks in vector.items():
        rng, whole, left = draw(name), 0.0, 0.0
        for block in blocks():
            whole += float(block.abs().double().sum())
            left += float(thinned(block, rng).abs().double().sum())
        found[name] = whole / left if left else 1.0
    return found


def _require(method: Method, holds: bool, otherwise: str) -> None:
    if not holds:
        raise ConfigError(f"{method}: {otherwise}.")
