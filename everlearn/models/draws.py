"""Which token comes next: the most probable one, or one drawn so that a row's draws are its own.

A draw is a race (Gumbel-max): of tokens with probabilities p_i and independent standard exponentials e_i, the one with
the smallest e_i / p_i wins, which is token i with probability p_i. The same noise gives the same token, also where the
probabilities differ by rounding alone, but for near ties. So that a draw needs hundreds of random numbers and not one
for each token of the vocabulary, it is made twice: a block of 256 tokens wins by its total, then a token in it.

The noise of a draw is a function of the row's seed and the position in its completion, and of nothing else.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from everlearn.models.decoding import Row
from everlearn.models.reading import Head
from everlearn.randomness import generator

BLOCK = 256
"""Tokens of a block: near the square root of common vocabularies, where two draws cost least."""

PART = 8
"""Rows drawn for at a time: what lies between scores and tokens then stays in a processor's cache."""

CANDIDATES = 1024
"""Tokens that are sorted first to find a nucleus; where they do not hold it, all are."""


@dataclass(frozen=True)
class Greedy:
    """The most probable token, without its log-probability.

    Args:
        head: from states to scores.
    """

    head: Head

    def __call__(self, states: Tensor, rows: Sequence[Row]) -> tuple[list[int], list[float]]:
        """Tokens for (n, ...) states."""
        return self.head.best(states).tolist(), []


@dataclass(frozen=True)
class Draw:
    """A token by chance, or the most probable one at temperature 0, with its log-probability in nats.

    Args:
        head: from states to scores.
        temperature: scores are divided by it; at 0 log-probabilities are those at 1.
        top_p: see `nucleus`; log-probabilities do not count it.
    """

    head: Head
    temperature: float
    top_p: float | None = None

    def __call__(self, states: Tensor, rows: Sequence[Row]) -> tuple[list[int], list[float]]:
        """Tokens and log-probabilities for (n, ...) states."""
        scores, best = self.head.scores(states), None if self.temperature else self.head.best(states)
        tokens, logprobs = list[int](), list[float]()
        for first in range(0, len(rows), PART):
            here = slice(first, first + PART)
            part = None if best is None else best[here]
            found, chances = self._draw(scores[here], rows[here], part)
            tokens += found.tolist()
            logprobs += chances.log().tolist()
        return tokens, logprobs

    def _draw(self, scores: Tensor, rows: Sequence[Row], tokens: Tensor | None) -> tuple[Tensor, Tensor]:
        """Tokens, unless they are given, and their probabilities."""
        exact = scores if scores.dtype == torch.float64 else scores.float()
        weights = ((exact - exact.amax(-1, keepdim=True)) / (self.temperature or 1.0)).exp_()
        if tokens is None:
            kept = weights if self.top_p is None else nucleus(weights, self.top_p)
            tokens = race(kept, noise(rows, weights.shape[-1]).to(weights.device))
        return tokens, weights.gather(-1, tokens[:, None])[:, 0] / weights.sum(-1)


def noise(rows: Sequence[Row], vocabulary: int) -> Tensor:
    """(n, blocks + BLOCK) standard exponentials in float64, by each row's seed and how many tokens it has."""
    count = -(-vocabulary // BLOCK) + BLOCK
    draws = [torch.rand(count, generator=generator(r.seed, len(r.tokens)), dtype=torch.float64) for r in rows]
    return -torch.stack(draws).log_()


def race(weights: Tensor, noise: Tensor) -> Tensor:
    """A token for each row by chance.

    Args:
        weights: (n, V) probabilities up to a factor for each row.
        noise: (n, blocks + BLOCK) standard exponentials; see `noise`.

    Returns:
        (n,) token ids.
    """
    spare = -weights.shape[-1] % BLOCK
    blocks = (pad(weights, (0, spare)) if spare else weights).view(len(weights), -1, BLOCK)
    totals = blocks.sum(-1).double()
    block = (noise[:, : totals.shape[-1]] / totals).argmin(-1)
    inside = blocks[torch.arange(len(blocks), device=blocks.device), block].double()
    token: Tensor = block * BLOCK + (noise[:, totals.shape[-1] :] / inside).argmin(-1)
    return token


def nucleus(weights: Tensor, top_p: float) -> Tensor:
    """Weights with 0 for all but the fewest most probable tokens that together reach `top_p` (arXiv:1904.09751).

    Tokens as probable as the least of them are kept too.
    """
    wanted = top_p * weights.sum(-1, keepdim=True)
    for count in (min(CANDIDATES, weights.shape[-1]), weights.shape[-1]):
        best = weights.topk(count).values
        reached = best.cumsum(-1)
        if bool((reached[:, -1:] >= wanted).all()):
            break
    inside = ((reached - best) < wanted).sum(-1, keepdim=True)
    least = best.gather(-1, (inside - 1).clamp(min=0))
    return weights.masked_fill(weights < least, 0)
