"""Herding and k-means by hand in two dimensions."""

import pytest
import torch

from everlearn.data.selection import Formula, herd, proportional, representatives


def test_herding_by_hand() -> None:
    # The mean of (0, 0), (4, 0), (0, 4), (1, 1), (5, 5) is (2, 2).
    points = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0], [1.0, 1.0], [5.0, 5.0]])
    # k = 1: (1, 1) is nearest, at sqrt 2.
    # k = 2: with (1, 1) the means are (.5, .5), (2.5, .5), (.5, 2.5), (3, 3): at sqrt 4.5, 2.5, 2.5, 2. (5, 5) wins.
    # k = 3: with (6, 6) the means are (2, 2), (10/3, 2), (2, 10/3): the first is exact.
    # k = 4: with (6, 6) the means are (2.5, 1.5), (1.5, 2.5): alike, so the first of them.
    assert herd(points, 5) == [3, 4, 0, 1, 2]
    assert herd(points, 2) == [3, 4]
    assert herd(points, 9) == [3, 4, 0, 1, 2]


def test_herding_by_the_authors_code_goes_by_the_scalar_product() -> None:
    # The mean of (1, 0), (0, 1), (.6, .8) is (1.6, 1.8) / 3, of length 2.4083 / 3; scaled: w = (.6644, .7474).
    points = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    # w . x = .664, .747, .997: the third. Then w = 2 (.6644, .7474) - (.6, .8) = (.729, .695): the first.
    assert herd(points, 3, "repo") == [2, 0, 1]


@pytest.mark.parametrize("formula", ["paper", "repo"])
def test_herding_takes_no_example_twice_even_among_equals(formula: Formula) -> None:
    assert sorted(herd(torch.ones(4, 3), 4, formula)) == [0, 1, 2, 3]


def test_representatives_by_hand() -> None:
    # Two clusters: four points around (0, 0) with the mean (0.1, 0), and two around (10, 0).
    points = torch.tensor([[0.0, 1.0], [0.0, -1.0], [0.4, 0.0], [0.0, 0.0], [10.0, 0.0], [10.2, 0.0]])
    # The larger cluster first: (0, 0) at 0.1 from its centre; then (10, 0) and (10.2, 0) are both 0.1 away.
    assert representatives(points, 2) == [3, 4]
    assert representatives(points, 1) == [2]  # the mean of all is (3.43, 0)


def test_as_many_clusters_as_points_are_all_points() -> None:
    points = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    assert sorted(representatives(points, 7)) == sorted(representatives(points, 20)) == list(range(7))
    assert sorted(representatives(torch.ones(5, 2), 5)) == list(range(5))
    assert representatives(points, 0) == []


def test_clusters_have_a_share_by_their_size() -> None:
    # Clusters of 6 around 0 and of 3 around 10 on a line, the nearest to the centre first: 0, 1, ... and 6, 7, 8.
    line = torch.tensor([0.0, -0.1, 0.2, -0.3, 0.4, -0.5, 10.0, 10.1, 9.7])
    # (rank - 1/2) / size: 1/12, 3/12, 5/12, ... and 1/6, 3/6, 5/6.
    assert proportional(line[:, None], 2, 3) == [0, 6, 1]
    assert proportional(line[:, None], 2, 6) == [0, 6, 1, 2, 7, 3]
    assert sorted(proportional(line[:, None], 2, 99)) == list(range(9))
    assert proportional(line[:, None], 2, 0) == []
