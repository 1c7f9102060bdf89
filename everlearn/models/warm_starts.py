"""First rows for new tokens, made of old ones: V old rows, K new ones, D features.

A head that has never seen a token gives it, from a row of zeros or of small random numbers, a logit near zero, which
among logits that are mostly negative is a high probability: it takes it from all others until it is unlearned. The mean
of the old rows has the mean of their logits (Hewitt 2021, "Initializing new word embeddings for pretrained language
models"); rows of what a token is like begin nearer to where they end.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def mean_rows(rows: Tensor, count: int) -> Tensor:
    """(K, D) the mean of all old rows, for each new one."""
    return rows.mean(0).expand(count, -1).clone()


def covariance_noise(rows: Tensor, count: int, scale: float, rng: torch.Generator) -> Tensor:
    """(K, D) draws from N(0, scale^2 Sigma), Sigma the covariance of the old rows.

    With Sigma = U S U^T, a draw is scale z S^(1/2) U^T with z from N(0, 1): Sigma may be singular.
    """
    exact = rows.double() - rows.double().mean(0)
    values, vectors = torch.linalg.eigh(exact.T @ exact / max(1, len(rows) - 1))
    drawn = torch.randn(count, rows.shape[1], generator=rng, dtype=torch.float64).to(rows.device)
    found: Tensor = scale * (drawn * values.clamp(min=0).sqrt()) @ vectors.T
    return found.to(rows.dtype)


def piece_means(rows: Tensor, pieces: Sequence[Sequence[int]]) -> Tensor:
    """(K, D) the mean of the rows of each token's pieces, one at least: what it was written with before."""
    counts = torch.tensor([len(own) for own in pieces], device=rows.device)
    flat = torch.tensor([piece for own in pieces for piece in own], device=rows.device)
    place = torch.arange(len(pieces), device=rows.device).repeat_interleave(counts)
    summed = rows.new_zeros(len(pieces), rows.shape[1]).index_add(0, place, rows[flat])
    return summed / counts[:, None].to(rows.dtype)


def weighted_means(rows: Tensor, weights: Tensor) -> Tensor:
    """(K, D) weighted means of old rows, where weights, (K, V) and none negative, sum to more than 0 in each row."""
    return (weights / weights.sum(1, keepdim=True)).to(rows.dtype) @ rows


def nearest(likeness: Tensor, count: int) -> Tensor:
    """(K, V) the largest `count` likenesses of each row, and zero elsewhere."""
    best = likeness.topk(min(count, likeness.shape[1]), dim=1)
    return torch.zeros_like(likeness).scatter(1, best.indices, best.values)


def random_rows(rows: Tensor, count: int, rng: torch.Generator, spread: float = 0.02) -> Tensor:
    """(K, D) draws from N(0, spread^2), as a model's first rows are drawn: what warm starts are compared with."""
    return spread * torch.randn(count, rows.shape[1], generator=rng, dtype=rows.dtype).to(rows.device)
