"""First rows by hand, and their spread."""

import torch

from everlearn.models.warm_starts import (
    covariance_noise,
    mean_rows,
    nearest,
    piece_means,
    random_rows,
    weighted_means,
)

ROWS = torch.tensor([[1.0, 0.0], [3.0, 2.0], [5.0, 4.0]])


def test_means_by_hand() -> None:
    assert mean_rows(ROWS, 2).tolist() == [[3, 2], [3, 2]]
    # (1 + 5) / 2, (0 + 4) / 2; and row 1 twice with row 0: (3 + 3 + 1) / 3
    assert piece_means(ROWS, [[0, 2], [1]]).tolist() == [[3, 2], [3, 2]]
    assert torch.allclose(piece_means(ROWS, [[1, 1, 0]]), torch.tensor([[7 / 3, 4 / 3]]))
    # weights 1 and 3 of rows 0 and 2: (1 + 15) / 4, (0 + 12) / 4
    assert weighted_means(ROWS, torch.tensor([[1.0, 0.0, 3.0]])).tolist() == [[4, 3]]


def test_the_nearest_keep_their_likeness_and_others_lose_it() -> None:
    likeness = torch.tensor([[0.2, 0.9, 0.5]])
    assert torch.equal(nearest(likeness, 2), torch.tensor([[0.0, 0.9, 0.5]]))
    assert torch.equal(nearest(likeness, 9), likeness)


def test_noise_has_the_covariance_of_the_rows_even_where_it_is_singular() -> None:
    # the rows lie on a line along (1, 1), with variance (4 + 0 + 4) / 2 = 4 in each feature and covariance 4
    drawn = covariance_noise(ROWS, 20_000, 0.5, torch.Generator().manual_seed(0))
    assert torch.allclose(drawn[:, 0], drawn[:, 1], atol=1e-5)
    assert torch.allclose(drawn.T.cov(), torch.full((2, 2), 0.25 * 4), rtol=0.03)
    again = covariance_noise(ROWS, 20_000, 0.5, torch.Generator().manual_seed(0))
    assert torch.equal(drawn, again)


def test_random_rows_are_of_the_usual_spread() -> None:
    drawn = random_rows(ROWS, 20_000, torch.Generator().manual_seed(0))
    assert abs(float(drawn.std()) - 0.02) < 3e-4
    assert abs(float(drawn.mean())) < 3e-4
