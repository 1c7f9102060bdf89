"""TIES, DARE, Breadcrumbs and DELLA on weights of a few numbers, worked by hand."""

import pytest
import torch

from everlearn.errors import ConfigError
from everlearn.merge_rules import Share
from everlearn.method import Method
from everlearn.methods.sparse_vectors import DARE, DELLA, TIES, Breadcrumbs
from everlearn.randomness import generator
from tests.methods.two_numbers import after_all

ZERO = (0.0, 0.0, 0.0, 0.0)
BLOCK = torch.tensor([[4.0, -3.0, 2.0, -1.0], [0.5, 6.0, -0.5, 8.0]], dtype=torch.float64)


def test_ties_by_hand() -> None:
    # density 1/2 keeps (4, -3, 0, 0) and (-1, 0, 0, 2) of (-1, 0.5, 0, 2); sums 3, -3, 0, 2.
    # Agreeing: 4; -3; nothing; 2. Twice that.
    method = TIES(density=0.5, scale=2.0)
    assert after_all(method, ZERO, (4.0, -3.0, 1.0, 0.5), (-1.0, 0.5, 0.0, 2.0)) == [8.0, -6.0, 0.0, 4.0]


def test_ties_averages_those_that_agree_alone() -> None:
    # 3, 1, -1: positive, (3 + 1) / 2; from the base 10.
    assert after_all(TIES(density=1.0), (10.0,), (13.0,), (11.0,), (9.0,)) == [12.0]


def test_a_sum_of_zero_follows_the_majority_in_the_paper_and_is_positive_in_mergekit() -> None:
    # Sums 0, -1, -2: the first entry is -1 in the paper and +1 in mergekit.
    trained = (1.0, -1.0, -2.0), (-1.0, 0.0, 0.0)
    assert after_all(TIES(density=1.0), ZERO[:3], *trained) == [-1.0, -1.0, -2.0]
    assert after_all(TIES(density=1.0, formula="mergekit"), ZERO[:3], *trained) == [1.0, -1.0, -2.0]


def test_the_paper_trims_the_whole_vector_and_mergekit_each_tensor() -> None:
    vector = {"a": lambda: [BLOCK[:1]], "b": lambda: [BLOCK[1:]]}  # 4 3 2 1 | 0.5 6 0.5 8
    assert TIES(density=0.5).survey(vector, generator) == {"": 3.0}
    assert TIES(density=0.5, formula="mergekit").survey(vector, generator) == {"a": 3.0, "b": 6.0}


def test_dare_enlarges_what_it_keeps_by_the_chance_or_to_the_sum_of_magnitudes() -> None:
    paper = DARE(drop=0.5).fold(None, BLOCK, Share(1.0, None, generator(1)))[0]
    assert all(x in (0.0, 2 * y) for x, y in zip(paper.flatten().tolist(), BLOCK.flatten().tolist(), strict=True))
    method = DARE(drop=0.5, formula="mergekit")
    facts = method.survey({"a": lambda: BLOCK.split(1)}, lambda name: generator(1))
    kept = method.fold(None, BLOCK, Share(1.0, facts["a"], generator(1)))[0]
    assert float(kept.abs().sum()) == pytest.approx(float(BLOCK.abs().sum()))
    assert torch.equal(kept != 0, paper != 0)
    assert 0 < int((kept == 0).sum()) < 8


def test_dare_adds_up_or_elects() -> None:
    trained = (3.0, 1.0), (-1.0, 2.0)
    assert after_all(DARE(drop=0.0), ZERO[:2], *trained) == [2.0, 3.0]
    assert after_all(DARE(drop=0.0, elect=True), ZERO[:2], *trained) == [3.0, 1.5]


def test_breadcrumbs_by_hand() -> None:
    # Of 4, -3, 2, -1 a quarter of outliers is 4, and half of all that is kept are -3 and 2.
    method = Breadcrumbs(density=0.5, outliers=0.25, scale=2.0)
    assert after_all(method, (1.0, 1.0, 1.0, 1.0), (5.0, -2.0, 3.0, 0.0)) == [1.0, -5.0, 5.0, 1.0]
    everything = Breadcrumbs(density=1.0, outliers=0.0, scale=1.0)
    assert after_all(everything, ZERO, (5.0, -2.0, 3.0, 0.0)) == [5.0, -2.0, 3.0, 0.0]


def test_della_divides_each_entry_by_its_own_chance() -> None:
    # p = 0.5, spread 0.3: of 4, 3, 2, 1 the chances of staying are 0.65, 0.55, 0.45, 0.35.
    method, stays = DELLA(drop=0.5, spread=0.3), (0.65, 0.55, 0.45, 0.35)
    seen = torch.zeros(4, dtype=torch.float64)
    for seed in range(2000):
        up, down, _, _ = method.fold(None, BLOCK[:1], Share(1.0, None, generator(seed)))
        kept = (up + down)[0]
        expected = BLOCK[0] / torch.tensor(stays, dtype=torch.float64)
        torch.testing.assert_close(kept[kept != 0], expected[kept != 0])
        seen += kept != 0
    assert (seen / 2000).tolist() == pytest.approx(list(stays), abs=0.035)  # three standard errors


def test_mergekits_della_spreads_twice_as_far_and_keeps_the_sum_of_magnitudes() -> None:
    method = DELLA(drop=0.5, spread=0.3, formula="mergekit")
    facts = method.survey({"a": lambda: BLOCK.split(1)}, lambda name: generator(5))
    up, down, _, _ = method.fold(None, BLOCK, Share(1.0, facts["a"], generator(5)))
    assert float((up - down).sum()) == pytest.approx(float(BLOCK.abs().sum()))
    with pytest.raises(ConfigError, match="chances leave"):
        DELLA(drop=0.5, spread=0.5, formula="mergekit")


@pytest.mark.parametrize(
    "make",
    [
        lambda: TIES(density=0.0),
        lambda: DARE(drop=1.0),
        lambda: Breadcrumbs(density=0.9, outliers=0.2),
        lambda: DELLA(drop=0.05, spread=0.2),
    ],
)
def test_numbers_without_a_meaning_are_refused(make: type[Method]) -> None:
    with pytest.raises(ConfigError):
        make()
