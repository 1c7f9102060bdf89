"""The arithmetic of merging against numbers worked by hand, and wherever blocks are cut."""

import math
from collections.abc import Iterator, Mapping

import pytest
import torch
from torch import Tensor

from everlearn.errors import MethodError
from everlearn.merging import (
    Running,
    apart_from,
    band,
    by_sign,
    cocktail_weights,
    dropped,
    elected,
    every,
    greedy_soup,
    larger,
    majority,
    ranked,
    rows_of,
    slerp_weights,
    stock_ratio,
    top_threshold,
    truncated,
    weighted_sum,
)


def row(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


def signs(*rows: Tensor, weights: tuple[float, ...] = ()) -> Running:
    running = None
    for block, weight in zip(rows, weights or (1.0,) * len(rows), strict=True):
        running = by_sign(running, block, weight)
    assert running is not None
    return running


def test_a_block_has_two_dimensions() -> None:
    assert [tuple(rows_of(torch.zeros(s)).shape) for s in ((), (3,), (2, 3), (2, 3, 4))] == [
        (1, 1),
        (1, 3),
        (2, 3),
        (2, 12),
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("size", [1, 7, 5000])
def test_the_threshold_is_the_magnitude_of_that_rank_however_blocks_are_cut(size: int, dtype: torch.dtype) -> None:
    torch.manual_seed(size)
    values = torch.randn(size, dtype=torch.float64).to(dtype)
    values[size // 2 :: 3] = 0.0
    sizes = values.double().abs().sort(descending=True).values
    for fraction in (0.01, 0.2, 0.5, 1.0):
        rank = int(fraction * size + 0.5)
        expected = float(sizes[rank - 1]) if rank else math.inf
        for cut in (1, 3, 10):
            parts = values.reshape(1, -1).split(math.ceil(size / cut), dim=1)
            assert top_threshold(lambda parts=parts: parts, fraction) == expected


def test_the_threshold_over_several_tensors_is_one() -> None:
    # Of 5, 1 | 3, 2: the two largest are 5 and 3.
    vector = {"a": lambda: [row(5.0, -1.0)], "b": lambda: [row(3.0, 2.0)]}
    assert top_threshold(every(vector), 0.5) == 3.0
    assert top_threshold(list, 0.5) == math.inf


def test_what_is_not_finite_is_refused() -> None:
    with pytest.raises(MethodError, match="nan or infinity"):
        top_threshold(lambda: [row(1.0, math.nan)], 0.5)


def test_a_band_keeps_its_lower_end_alone() -> None:
    assert band(row(1.0, -2.0, 3.0, -4.0), 2.0, 4.0).tolist() == [[0.0, -2.0, 3.0, 0.0]]


def test_a_weighted_sum_keeps_the_weights() -> None:
    total, weights = weighted_sum(weighted_sum(None, row(1.0, 2.0), 0.5), row(3.0, -2.0), 2.0)
    assert (total.tolist(), weights.tolist()) == ([[6.5, -3.0]], [[2.5]])


def test_signs_are_elected_by_sums_and_the_mean_is_of_those_that_agree() -> None:
    # 3, 1, -1: the sum 3 is positive, mean (3 + 1) / 2. 0, -2, 1: negative, -2. 0, 0, 0: nothing.
    running = signs(row(3.0, 0.0, 0.0), row(1.0, -2.0, 0.0), row(-1.0, 1.0, 0.0))
    assert elected(running).tolist() == [[2.0, -2.0, 0.0]]


def test_weights_count_in_the_election_and_in_the_mean() -> None:
    # 1 * 2 - 3 * 1 = -1: negative, and -3 / 3 = -1. With equal weights: 2 - 1 = 1, and 2.
    pair = row(2.0), row(-1.0)
    assert elected(signs(*pair, weights=(1.0, 3.0))).tolist() == [[-1.0]]
    assert elected(signs(*pair)).tolist() == [[2.0]]


def test_a_sum_of_zero_takes_the_sign_of_most_others() -> None:
    # Sums 0, -1, -2: most are negative, so the first is -1 of (1, -1).
    running = signs(row(1.0, -1.0, -2.0), row(-1.0, 0.0, 0.0))
    assert majority([running]) == -1.0
    assert elected(running, -1.0).tolist() == [[-1.0, -1.0, -2.0]]
    assert elected(running, 1.0).tolist() == [[1.0, -1.0, -2.0]]
    assert majority([signs(row(1.0, -1.0))]) == 1.0


def test_the_larger_entry_stays_and_the_later_of_two_alike() -> None:
    # |-2| > |1|; |3| > |-1|; of 2 and -2 the later.
    assert larger(larger(None, row(1.0, 3.0, 2.0)), row(-2.0, -1.0, -2.0))[0].tolist() == [[-2.0, 3.0, -2.0]]


def test_dropping_keeps_the_mean_and_the_number() -> None:
    block = torch.ones(200, 500)
    left = dropped(block, 0.9, torch.Generator().manual_seed(0))
    assert left.unique().tolist() == pytest.approx([0.0, 10.0])
    assert float(left.mean()) == pytest.approx(1.0, abs=0.03)  # standard error 3 / sqrt(100000) = 0.0095
    assert set(dropped(block, 0.9, torch.Generator(), rescale=False).unique().tolist()) == {0.0, 1.0}
    assert torch.equal(dropped(block, 0.0, torch.Generator()), block)


def test_draws_do_not_depend_on_where_a_tensor_is_cut() -> None:
    block = torch.randn(50, 33)
    whole = dropped(block, 0.5, torch.Generator().manual_seed(3))
    for rows in (1, 7, 49):
        rng = torch.Generator().manual_seed(3)
        assert torch.equal(torch.cat([dropped(part, 0.5, rng) for part in block.split(rows)]), whole)


def test_the_chance_of_dropping_falls_with_the_rank_in_each_row() -> None:
    # p = 0.5, spread 0.2: 0.6 for the smallest, then 0.5, 0.4 for the largest.
    chances = ranked(torch.tensor([[3.0, -1.0, 2.0], [0.0, -5.0, 5.0]], dtype=torch.float64), 0.5, 0.2)
    torch.testing.assert_close(chances, torch.tensor([[0.4, 0.6, 0.5], [0.6, 0.5, 0.4]], dtype=torch.float64))
    assert ranked(row(4.0), 0.5, 0.2).tolist() == [[0.5]]


def test_the_arc_between_right_angles() -> None:
    # (1, 0) and (0, 1) at t = 1/2: sin(45) / sin(90) = sqrt(1/2) of both.
    assert slerp_weights(0.0, 1.0, 1.0, 0.5) == pytest.approx((math.sqrt(0.5), math.sqrt(0.5)))
    # At 60 degrees and t = 1/3: sin(40) / sin(60) and sin(20) / sin(60).
    sixty = math.sin(math.radians(60))
    expected = (math.sin(math.radians(40)) / sixty, math.sin(math.radians(20)) / sixty)
    assert slerp_weights(0.5 * 2 * 3, 4.0, 9.0, 1 / 3) == pytest.approx(expected)


@pytest.mark.parametrize("ends", [(1.0, 1.0, 1.0), (-1.0, 1.0, 1.0), (0.0, 0.0, 1.0)])
def test_parallel_ends_and_a_zero_end_are_joined_by_a_line(ends: tuple[float, float, float]) -> None:
    assert slerp_weights(*ends, 0.25) == (0.75, 0.25)


def test_the_way_to_the_mean_depends_on_the_angle() -> None:
    # 2 * 0.5 / (1 + 0.5) = 2/3; 3 * 0.5 / (1 + 2 * 0.5) = 3/4.
    assert stock_ratio(0.5, 2) == pytest.approx(2 / 3)
    assert stock_ratio(0.5, 3) == pytest.approx(3 / 4)
    assert (stock_ratio(1.0, 5), stock_ratio(0.0, 5), stock_ratio(-0.3, 2), stock_ratio(0.2, 1)) == (1.0, 0.0, 0.0, 1.0)


def test_what_is_new_in_a_matrix_leaves_out_what_is_merged() -> None:
    # merged = diag(3, 1): U = V = I up to signs, 3/4 > 0.5, so nothing but the diagonal goes.
    merged = torch.diag(torch.tensor([3.0, 1.0], dtype=torch.float64))
    new = torch.tensor([[5.0, 6.0], [7.0, 8.0]], dtype=torch.float64)
    expected = torch.tensor([[0.0, 6.0], [7.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(apart_from(merged, new, 0.5), expected)
    # With alpha = 0.8, 3/4 is not above it and 4/4 is: split 1, whose square is on the diagonal already.
    torch.testing.assert_close(apart_from(merged, new, 0.8), expected)
    # Three singular values 4, 3, 1: 4/8 and 7/8 are at most 0.9, so the first 2 x 2 goes, and the diagonal.
    merged = torch.diag(torch.tensor([4.0, 3.0, 1.0], dtype=torch.float64))
    new = torch.arange(1.0, 10.0, dtype=torch.float64).reshape(3, 3)
    expected = torch.tensor([[0.0, 0.0, 3.0], [0.0, 0.0, 6.0], [7.0, 8.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(apart_from(merged, new, 0.9), expected)


def test_what_a_wide_matrix_has_beyond_the_merged_directions_all_passes() -> None:
    # merged = 2 e1 e1^T of 2 x 3: full V has a third direction, which no diagonal reaches.
    merged = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]], dtype=torch.float64)
    new = torch.ones(2, 3, dtype=torch.float64)
    expected = torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(apart_from(merged, new, 0.5), expected)
    assert torch.equal(apart_from(torch.zeros(2, 3), new, 0.5), new)


def test_shares_fall_with_the_loss() -> None:
    # exp(0) : exp(-ln 2) = 2 : 1.
    assert cocktail_weights([1.0, 1.0 + 2 * math.log(2)], 2.0) == pytest.approx([2 / 3, 1 / 3])


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 5), (2, 7)])
def test_a_matrix_is_cut_back_to_its_nearest_of_a_rank(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    dense = torch.randn(shape, dtype=torch.float64)
    u, s, vh = torch.linalg.svd(dense, full_matrices=False)
    for rank in (1, 2, 3):
        kept = min(rank, len(s))
        left, right, lost = truncated(dense, rank)
        assert (left.shape, right.shape) == ((shape[0], rank), (rank, shape[1]))
        torch.testing.assert_close(left @ right, (u[:, :kept] * s[:kept]) @ vh[:kept])
        assert lost == pytest.approx(float((s[kept:] ** 2).sum()), abs=1e-12)
        torch.testing.assert_close(left.norm(dim=0), right.norm(dim=1))


def test_a_matrix_of_the_rank_loses_nothing_and_zero_stays_zero() -> None:
    torch.manual_seed(0)
    dense = torch.randn(6, 2, dtype=torch.float64) @ torch.randn(2, 5, dtype=torch.float64)
    left, right, lost = truncated(dense, 3)
    torch.testing.assert_close(left @ right, dense)
    assert lost == pytest.approx(0.0, abs=1e-12)
    assert not right[2].any()
    left, right, lost = truncated(torch.zeros(4, 3), 2)
    assert (float(left.norm()), float(right.norm()), lost) == (0.0, 0.0, 0.0)


def test_a_greedy_soup_leaves_out_what_does_not_help() -> None:
    # Score: -|w - 1|. Models 0.8 (-0.2), 1.4 (-0.4), -3 (-4): (0.8 + 1.4) / 2 = 1.1 (-0.1) is better, -0.27 is not.
    models = [{"w": row(-3.0)}, {"w": row(1.4)}, {"w": row(0.8)}]

    def score(weights: Mapping[str, Tensor]) -> float:
        return -abs(float(weights["w"]) - 1)

    soup, chosen = greedy_soup(models, score)
    assert (float(soup["w"]), chosen) == (pytest.approx(1.1), [2, 1])
    with pytest.raises(MethodError, match="no models"):
        greedy_soup([], score)


def test_blocks_are_read_again_whenever_they_are_asked() -> None:
    passes = []

    def blocks() -> Iterator[Tensor]:
        passes.append(1)
        yield row(1.0, 2.0).float()

    top_threshold(blocks, 0.5)
    assert len(passes) == 3  # one look at the dtype, and 16 bits at a time
