"""Intervals and paired tests on scores in arrays: how much a number, or a difference, can be trusted.

Dimensions: V versions of a model that were scored on the same n items; B resamples.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]

BLOCK = 2**22
"""Most random draws held in memory at once."""
ROUNDING = 1e-9
"""Differences smaller than this are floating point's: 0.8 - 0.7 is more than 0.1 there."""


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds.

    Args:
        n: number of seeds.
        mean: their mean.
        std: sample standard deviation (n - 1); None for a single seed.
        low: lower end of the t-interval; None for a single seed.
        high: upper end of the t-interval; None for a single seed.
    """

    n: int
    mean: float
    std: float | None
    low: float | None
    high: float | None


def wilson(successes: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Score interval of a proportion, right for few items and near 0 and 1 (Wilson 1927).

    (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n), p = successes/n, z the normal quantile of the level.
    """
    z = NormalDist().inv_cdf(0.5 + level / 2)
    share, scale = successes / n, 1 + z * z / n
    centre = (share + z * z / (2 * n)) / scale
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / scale
    # Exact at the ends, where rounding could leave the interval short of the proportion.
    return (0.0 if successes == 0 else centre - half), (1.0 if successes == n else centre + half)


def _blocks(resamples: int, n: int) -> list[int]:
    size = max(1, BLOCK // n)
    return [min(size, resamples - start) for start in range(0, resamples, size)]


def resampled_means(scores: Scores, resamples: int, rng: np.random.Generator) -> Scores:
    """Means over items drawn with replacement, (B, V); one draw serves all versions, so they stay paired.

    Args:
        scores: (V, n), one row for each version; a NaN makes its version's means NaN.
        resamples: B.
        rng: the source of the draws.
    """
    n = scores.shape[1]
    means = []
    for size in _blocks(resamples, n):
        drawn = rng.integers(n, size=(size, n)) + n * np.arange(size)[:, None]
        times = np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n)
        means.append(times.astype(np.float64) @ scores.T / n)
    return np.concatenate(means)


def swapped_means(before: Scores, after: Scores, resamples: int, rng: np.random.Generator) -> tuple[Scores, Scores]:
    """Means of two runs whose items were swapped between them by fair coins, (B, V) each.

    The null hypothesis of the paired permutation test: it does not matter which run an item's scores come from.

    Args:
        before: (V, n), one run's scores; an item's are swapped together.
        after: (V, n), the other run's scores on the same items.
        resamples: B.
        rng: the source of the coins.
    """
    n = before.shape[1]
    centre, half = ((before + after) / 2).mean(axis=1), ((after - before) / 2).T / n
    swing = np.concatenate([(2.0 * rng.integers(2, size=(size, n)) - 1.0) @ half for size in _blocks(resamples, n)])
    return centre - swing, centre + swing


def percentile_interval(draws: Scores, level: float = 0.95) -> tuple[float, float]:
    """The bootstrap's percentile interval (Efron & Tibshirani 1993, ch. 13) of draws (B,)."""
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def permutation_p(draws: Scores, observed: float) -> float:
    """Two-sided p: how often chance alone gives a difference as large, the observed one counted in."""
    # The slack keeps draws that equal the observed difference but for rounding.
    extreme = int((np.abs(draws) >= abs(observed) - 1e-12).sum())
    return (1 + extreme) / (1 + len(draws))


def is_binary(*scores: Scores) -> bool:
    """Whether every score is 0 or 1, so that flips can be counted and proportions have exact tests."""
    return all(bool(np.isin(s, (0.0, 1.0)).all()) for s in scores)


def mean_interval(
    scores: Sequence[float], level: float = 0.95, resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Interval of the mean score of some items: Wilson's for right or wrong, else the bootstrap's."""
    values = np.asarray(scores, dtype=np.float64)
    if is_binary(values):
        return wilson(int(values.sum()), len(values), level)
    draws = resampled_means(values[None], resamples, np.random.default_rng(seed))
    return percentile_interval(draws[:, 0], level)


def mcnemar(lost: int, gained: int) -> float:
    """Exact two-sided p that items lost and gained are equally likely (McNemar 1947, binomial form).

    min(1, 2 P[X <= min(lost, gained)]), X ~ Binomial(lost + gained, 1/2).
    """
    flips = lost + gained
    tail = sum(math.comb(flips, k) for k in range(min(lost, gained) + 1))
    return min(1.0, 2 * tail / (1 << flips))


def student_cdf(t: float, freedom: int) -> float:
    """Student's t distribution function for whole degrees of freedom, a finite sum.

    Abramowitz & Stegun 1964, 26.7.3 and 26.7.4, with theta = atan(t / sqrt(freedom)).
    """
    theta = math.atan(t / math.sqrt(freedom))
    odd = freedom % 2
    term = math.cos(theta) if odd else 1.0
    total = term if freedom > 1 else 0.0
    for k in range(2 + odd, freedom - 1, 2):
        term *= math.cos(theta) ** 2 * (k - 1) / k
        total += term
    inside = 2 / math.pi * (theta + math.sin(theta) * total) if odd else math.sin(theta) * total
    return 0.5 + inside / 2


def student_quantile(share: float, freedom: int) -> float:
    """The t below which `share` of Student's distribution lies, by bisection on atan(t / sqrt(freedom))."""
    low, high = -math.pi / 2, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        below = student_cdf(math.sqrt(freedom) * math.tan(middle), freedom) < share
        low, high = (middle, high) if below else (low, middle)
    return math.sqrt(freedom) * math.tan((low + high) / 2)


def mean_over_seeds(values: Sequence[float], level: float = 0.95) -> Estimate:
    """Mean of a measure over seeds with Student's t-interval: mean +- t std / sqrt(n).

    The interval holds for new seeds on the same items; it is wide for two or three seeds, as it must be.
    """
    n, mean = len(values), math.fsum(values) / len(values)
    if n == 1:
        return Estimate(1, mean, None, None, None)
    std = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1))
    half = student_quantile(0.5 + level / 2, n - 1) * std / math.sqrt(n)
    return Estimate(n, mean, std, mean - half, mean + half)


def paired_t(differences: Estimate) -> float | None:
    """Two-sided p of the paired t-test (Student 1908) that the mean difference is 0: t = mean sqrt(n) / std.

    None where it says nothing: for one pair, or where all pairs differ alike.
    """
    if not differences.std:
        return 1.0 if differences.n > 1 and differences.mean == 0 else None
    t = abs(differences.mean) * math.sqrt(differences.n) / differences.std
    return min(1.0, 2 * (1 - student_cdf(t, differences.n - 1)))
