"""Intervals and paired tests: published tables, numbers by hand, and what must hold for any input."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlearn.statistics import (
    BLOCK,
    mcnemar,
    mean_interval,
    mean_over_seeds,
    paired_t,
    percentile_interval,
    permutation_p,
    resampled_means,
    student_cdf,
    student_quantile,
    swapped_means,
    wilson,
)


def rng():
    return np.random.default_rng(0)


def test_wilson_by_hand():
    assert wilson(8, 10) == pytest.approx((0.4901625, 0.9433178), abs=1e-6)
    square = 1.959963984540054**2
    assert wilson(0, 10) == pytest.approx((0, square / (10 + square)), abs=1e-12)


@given(st.integers(1, 10_000), st.floats(0, 1), st.floats(0.5, 0.999))
def test_wilson_contains_the_proportion_and_stays_within_0_and_1(n, share, level):
    successes = round(share * n)
    low, high = wilson(successes, n, level)
    assert 0 <= low <= successes / n <= high <= 1


def test_wilson_covers_as_often_as_it_says():
    n, p = 30, 0.2
    chance = [math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]
    covered = sum(c for k, c in enumerate(chance) if wilson(k, n)[0] <= p <= wilson(k, n)[1])
    assert 0.93 < covered < 0.98


@pytest.mark.parametrize(
    ("share", "freedom", "quantile"),
    [
        (0.975, 1, 12.706204736),
        (0.975, 2, 4.302652730),
        (0.975, 3, 3.182446305),
        (0.975, 4, 2.776445105),
        (0.975, 9, 2.262157163),
        (0.95, 5, 2.015048373),
        (0.975, 29, 2.045229642),
    ],
)
def test_student_quantiles_are_those_of_the_tables(share, freedom, quantile):
    assert student_quantile(share, freedom) == pytest.approx(quantile, abs=1e-6)
    assert student_quantile(1 - share, freedom) == pytest.approx(-quantile, abs=1e-6)


def test_student_distribution_nears_the_normal_one():
    assert student_cdf(1.959963984540054, 10_000) == pytest.approx(0.975, abs=1e-4)
    assert student_cdf(1.0, 1) == pytest.approx(0.75, abs=1e-12)


def test_mean_over_three_seeds_by_hand():
    found = mean_over_seeds([0.1, 0.2, 0.6])
    std = math.sqrt((0.04 + 0.01 + 0.09) / 2)
    half = 4.302652730 * std / math.sqrt(3)
    assert (found.n, found.mean, found.std) == (3, pytest.approx(0.3), pytest.approx(std))
    assert (found.low, found.high) == (pytest.approx(0.3 - half, abs=1e-6), pytest.approx(0.3 + half, abs=1e-6))


def test_one_seed_has_no_interval():
    found = mean_over_seeds([0.4])
    assert (found.mean, found.std, found.low, found.high) == (0.4, None, None, None)


def test_mcnemar_by_hand():
    assert mcnemar(5, 15) == pytest.approx(2 * 21700 / 2**20, abs=1e-15)
    assert mcnemar(1, 0) == mcnemar(0, 0) == mcnemar(3, 3) == 1.0
    assert mcnemar(0, 6) == pytest.approx(2 / 64)


def test_bootstrap_of_a_mean_is_as_wide_as_its_standard_error_says():
    scores = np.linspace(0, 1, 400)
    draws = resampled_means(scores[None], 4000, rng())[:, 0]
    error = scores.std() / math.sqrt(400)
    assert draws.std() == pytest.approx(error, rel=0.05)
    assert percentile_interval(draws) == pytest.approx((0.5 - 1.96 * error, 0.5 + 1.96 * error), abs=0.1 * error)


def test_versions_are_resampled_together():
    scores = rng().random(50)
    draws = resampled_means(np.stack([scores, scores + 0.25]), 200, rng())
    assert draws.shape == (200, 2)
    np.testing.assert_allclose(draws[:, 1] - draws[:, 0], 0.25, atol=1e-12)


def test_more_draws_than_fit_into_one_block_are_as_good():
    resamples = 2 * BLOCK // 100 + 1
    draws = resampled_means(np.array([[0.0] * 25 + [1.0] * 75]), resamples, rng())
    assert draws.shape == (resamples, 1)
    assert draws.mean() == pytest.approx(0.75, abs=0.002)


def test_a_version_that_was_not_measured_leaves_the_others_alone():
    draws = resampled_means(np.array([[0.0, 1.0], [np.nan, np.nan]]), 50, rng())
    assert np.isnan(draws[:, 1]).all()
    assert not np.isnan(draws[:, 0]).any()


def test_permutation_p_of_four_items_that_all_rose():
    before, after = swapped_means(np.zeros((1, 4)), np.ones((1, 4)), 20_000, rng())
    assert permutation_p((after - before)[:, 0], 1.0) == pytest.approx(2 / 16, abs=0.01)


def test_permutation_p_of_no_difference_is_1():
    same = rng().random((1, 30))
    before, after = swapped_means(same, same, 100, rng())
    assert permutation_p((after - before)[:, 0], 0.0) == 1.0


def test_swapping_keeps_what_the_two_runs_have_together():
    a, b = rng().random((2, 3, 40))
    before, after = swapped_means(a, b, 100, rng())
    np.testing.assert_allclose(before + after, np.broadcast_to(a.mean(1) + b.mean(1), (100, 3)), atol=1e-12)


def test_interval_of_a_mean_is_wilsons_for_right_or_wrong_and_the_bootstraps_else():
    assert mean_interval([1.0] * 8 + [0.0] * 2) == wilson(8, 10)
    low, high = mean_interval([0.5, 0.25, 0.75, 0.5])
    assert 0.25 <= low < 0.5 < high <= 0.75
    assert mean_interval([0.5, 0.25, 0.75, 0.5]) == (low, high)


def test_the_paired_t_test_by_hand():
    assert paired_t(mean_over_seeds([1.0, 2.0, 3.0])) == pytest.approx(0.0741799, abs=1e-6)  # t = 2 sqrt(3), 2 degrees
    assert paired_t(mean_over_seeds([-1.0, 0.0])) == pytest.approx(0.5)
    assert paired_t(mean_over_seeds([0.0, 0.0])) == 1.0
    assert paired_t(mean_over_seeds([0.5, 0.5])) is None
    assert paired_t(mean_over_seeds([0.5])) is None
