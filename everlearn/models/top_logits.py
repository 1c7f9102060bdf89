"""The most probable tokens of a position and all others as one: a distribution that is small enough to be kept.

With x the logits of a position, q = softmax(x), and p the kept distribution over {k tokens, rest}:
KL(p || q) = sum_i p_i log(p_i / q_i) + p_rest log(p_rest / q_rest), where q_rest is the sum of q over all other tokens.
Its slope by x_j is q_j - p_j at the k tokens, and q_j - p_rest q_j / q_rest at the others. The slope of KL(q || p) is
q_j (log(q_g / p_g) - KL), where g is the token j itself, or the rest.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from everlearn.models.logprobs import CHUNK, ROWS, Said, Statistic

Distance = Literal["kl", "mse", "mse-raw"]
DISTANCES: tuple[Distance, ...] = ("kl", "mse", "mse-raw")


@dataclass(frozen=True, eq=False)
class Top:
    """The k most probable tokens at each of N positions.

    Args:
        ids: (N, k) int32, the most probable first.
        values: (N, k + 2) log-probabilities in nats: of the tokens, of all others together, and log sum exp of the
            logits, so that the logits themselves are `values[:, :k] + values[:, -1:]`.
    """

    ids: Tensor
    values: Tensor

    def __len__(self) -> int:
        """Number of positions, N."""
        return len(self.ids)

    def __getitem__(self, part: slice) -> "Top":
        """Some of the positions."""
        return Top(self.ids[part], self.values[part])

    def to(self, device: torch.device, dtype: torch.dtype) -> "Top":
        """The same on another device, with values of another precision."""
        return Top(self.ids.to(device), self.values.to(device, dtype))

    @classmethod
    def joined(cls, parts: Sequence["Top"]) -> "Top":
        """The positions of several, one after the other."""
        return cls(torch.cat([p.ids for p in parts]), torch.cat([p.values for p in parts]))


def top_of(logits: Tensor, count: int) -> Top:
    """The `count` most probable tokens at each position, all where there are fewer.

    Args:
        logits: (N, V).
        count: k.
    """
    precise = logits.to(torch.promote_types(logits.dtype, torch.float32))
    norm = precise.logsumexp(-1, keepdim=True)
    top = precise.topk(min(count, logits.shape[-1]), -1)
    rest = precise.scatter(-1, top.indices, -torch.inf).logsumexp(-1, keepdim=True)
    return Top(top.indices.int(), torch.cat([top.values - norm, rest - norm, norm], -1))


def top_said(said: Said, count: int) -> Top:
    """The `count` most probable tokens of what a model said, chunk by chunk."""
    parts = range(0, len(said.states), CHUNK)
    return Top.joined([top_of(said.logits(slice(start, start + CHUNK)), count) for start in parts])


def distance_from(top: Top, distance: Distance) -> Statistic:
    """How far each position's distribution is from one that was kept, as a statistic of the logits.

    Args:
        top: what was kept of the N positions, on the logits' device.
        distance: see `top_distance`.
    """

    def far(logits: Tensor, part: slice) -> Tensor:
        found, there = [], top[part]
        for start in range(0, len(logits), ROWS):
            rows = logits[start : start + ROWS]
            values, slopes = top_distance(rows, there[start : start + ROWS], distance)
            found.append(values)
            rows.copy_(slopes)
        return torch.cat(found)

    return far


def top_distance(logits: Tensor, top: Top, distance: Distance) -> tuple[Tensor, Tensor]:
    """How far each position's distribution is from the one that was kept, and the slope of that by the logits.

    "kl" is KL(kept || now) in nats over the k tokens and the rest. "mse-raw" is the mean over the k tokens of the
    squared difference of logits; "mse" that of logits with the mean over the k tokens taken off, which is blind to a
    constant added to all logits, as softmax is.

    Args:
        logits: (N, V).
        top: what was kept, on the logits' device.
        distance: see above.

    Returns:
        (N,) and (N, V), in fp32 (fp64 for fp64 logits).
    """
    precise, ids = logits.to(torch.promote_types(logits.dtype, torch.float32)), top.ids.long()
    if distance == "kl":
        return _divergence(precise.log_softmax(-1), ids, top.values[:, :-1].to(precise.dtype))
    gap = precise.gather(-1, ids) - (top.values[:, :-2] + top.values[:, -1:]).to(precise.dtype)
    if distance == "mse":
        gap = gap - gap.mean(-1, keepdim=True)
    return (gap**2).mean(-1), torch.zeros_like(precise).scatter(-1, ids, 2 * gap / gap.shape[-1])


def reverse_divergence(logits: Tensor, top: Top) -> tuple[Tensor, Tensor]:
    """KL(now || kept) in nats over the k tokens and the rest, and the slope of that by the logits.

    Args:
        logits: (N, V).
        top: what was kept, on the logits' device.

    Returns:
        (N,) and (N, V), in fp32 (fp64 for fp64 logits).
    """
    logq = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
    ids, logp = top.ids.long(), top.values[:, :-1].to(logq.dtype).log_softmax(-1)
    rest = logq.scatter(-1, ids, -torch.inf).logsumexp(-1, keepdim=True)
    mine = torch.cat([logq.gather(-1, ids), rest], -1)
    ratios = torch.where(mine > -torch.inf, mine - logp, 0.0)  # with k = V there is no rest
    values = (mine.exp() * ratios).sum(-1)
    charged = ratios[:, -1:].expand_as(logq).scatter(-1, ids, ratios[:, :-1])
    return values, logq.exp() * (charged - values[:, None])


def _divergence(logq: Tensor, ids: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    logp = kept.log_softmax(-1)  # kept in half precision, it does not quite sum to 1
    p, rest = logp.exp(), logq.scatter(-1, ids, -torch.inf).logsumexp(-1, keepdim=True)
    mine = torch.cat([logq.gather(-1, ids), rest], -1)
    values = torch.where(p > 0, p * (logp - mine), 0.0).sum(-1)
    slopes = logq.exp() - (logq + logp[:, -1:] - rest).exp()
    return values, slopes.scatter(-1, ids, mine[:, :-1].exp() - p[:, :-1])
